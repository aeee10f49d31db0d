"""Pictures that tests of engines have made: what is asked, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from atelier_worker.engine import Engine, Reference
from tests.atelier_worker.engines.listener import IMAGE, Listener

TASK = replace(IMAGE, prompt="a kite", width=64, height=64, steps=4)
Make = Callable[..., "Viewer"]


@dataclass
class Viewer(Listener):
    """Remembers phases and failures as well."""

    phases: list[str] = field(default_factory=list)
    failures: dict[int, str] = field(default_factory=dict)

    def progress(self, step: int, steps: int, *, asset_index: int | None = None, phase: str = "") -> None:
        self.phases.append(phase)
        super().progress(step, steps, asset_index=asset_index, phase=phase)

    def fail(self, asset_index: int, reason: str, *, retryable: bool = False) -> None:
        self.failures[asset_index] = reason

    def bytes_of(self, index: int = 0) -> bytes:
        return self.delivered[index].read_bytes()

    def pixels(self, index: int = 0) -> np.ndarray[Any, Any]:
        with Image.open(self.delivered[index]) as picture:
            return np.asarray(picture.convert("RGB"))


def maker(engine: Engine, folder: Path) -> Make:
    """Return a function that makes pictures below a folder: changes of `TASK`, what ends it, another engine."""
    folders = (folder / str(number) for number in range(1000))

    def made(
        *, by: Engine = engine, cancel_when: Callable[[Listener], bool] = lambda _: False, **changes: Any
    ) -> Viewer:
        viewer = Viewer(next(folders), cancel_when)
        viewer.workdir.mkdir()
        by.run(replace(TASK, **changes), viewer)
        return viewer

    return made


def reference(kind: str, path: Path, strength: float = 0.5) -> Reference:
    return Reference(kind, strength, path, "image/png")


def save_picture(path: Path, seed: int = 3) -> Path:
    """Write a picture of 64 × 64 coloured squares."""
    values = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return path
