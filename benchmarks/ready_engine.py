"""An engine whose picture is ready at once: what a job takes with it is what the system takes.

It saves the picture as every engine does, with its thumbnails, and notes when it had the task and when it delivered.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping
from pathlib import Path

from PIL import Image, ImageChops, ImageFilter

from atelier_worker.engine import Context, Task
from atelier_worker.engines import files

SIDE = 1024
PHOTO, NOISE = "photo", "noise"
NOTES = "BENCH_READY_NOTES"
"""Where it notes moments of the machine's monotonic clock in seconds: a line `taken saved` for each task."""


def picture(kind: str) -> Image.Image:
    """Return a picture of 1024 by 1024: like a photograph (1.7 MB as PNG), or noise, the largest that a PNG gets."""
    chance = random.Random(6)  # noqa: S311 - the same picture each time
    grain = Image.frombytes("RGB", (SIDE, SIDE), chance.randbytes(3 * SIDE * SIDE))
    if kind == NOISE:
        return grain
    coarse = Image.frombytes("RGB", (24, 24), chance.randbytes(3 * 24 * 24))
    smooth = coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(4))
    return ImageChops.add(smooth, grain.point(lambda level: level // 22))


class ReadyEngine:
    """Delivers the picture that the prompt names."""

    def __init__(self, options: Mapping[str, object]) -> None:
        """Make the pictures, before the first task comes; there are no options."""
        self.name = "ready"
        self.worker_types = ("sdxl",)
        self.stages = ("generate",)
        self.models = ("sdxl",)
        self.concurrency = 1
        self._pictures = {kind: picture(kind) for kind in (PHOTO, NOISE)}

    def run(self, task: Task, context: Context) -> None:
        """Save and deliver."""
        taken = time.monotonic()
        context.progress(1, 1)
        made = files.made_with(task, task.seed, self.name)
        path, renditions = files.save_picture(self._pictures[task.prompt], context.workdir, made)
        saved = time.monotonic()
        context.deliver(0, path, renditions=renditions)
        with Path(os.environ[NOTES]).open("a", encoding="ascii") as notes:
            notes.write(f"{taken} {saved}\n")
