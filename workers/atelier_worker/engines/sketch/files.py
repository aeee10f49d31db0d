"""Writing what was made to files: pictures with their prompt, model, seed and settings inside, and renditions."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from atelier_worker.engine import Task


def save_png(image: Image.Image, path: Path, task: Task, seed: int) -> None:
    """Write a PNG that says how it was made, under the key `atelier`."""
    info = PngInfo()
    made = {
        "engine": "sketch",
        "prompt": task.prompt,
        "negative_prompt": task.negative_prompt,
        "model": task.model,
        "seed": seed,
    }
    info.add_itxt("atelier", json.dumps(made, ensure_ascii=False, sort_keys=True))
    image.save(path, "PNG", pnginfo=info, compress_level=4)


def image_renditions(image: Image.Image, folder: Path) -> dict[str, Path]:
    """Write the smaller copies of a picture."""
    made: dict[str, Path] = {}
    for kind, side in (("thumb_256", 256), ("thumb_1024", 1024), ("poster", 1024)):
        copy = image.copy()
        copy.thumbnail((side, side))
        made[kind] = folder / f"{kind}.webp"
        copy.save(made[kind], "WEBP", quality=80)
    return made
