"""What the tests of the engine give it, and what they read of what it sent."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from tests.atelier_worker.comfyui.conftest import WORKFLOWS
from tests.atelier_worker.comfyui.stand_in import StandIn
from tests.atelier_worker.engines.listener import IMAGE
from tests.atelier_worker.engines.listener import Listener as _Listener

SMALL = replace(IMAGE, width=64, height=48, steps=3, stage_key="job/0")
VIDEO = replace(
    IMAGE, format="video", model="sdxl", width=64, height=48, steps=3, frames=9, fps=12, seed=3, stage_key="job/0"
)


@dataclass
class Listener(_Listener):
    """Keeps what was given up, too."""

    failed: dict[int, str] = field(default_factory=dict)

    def fail(self, asset_index: int, reason: str, *, retryable: bool = False) -> None:
        self.failed[asset_index] = reason


def picture(folder: Path, name: str, colour: tuple[int, int, int], size: tuple[int, int] = (32, 24)) -> Path:
    Image.new("RGB", size, colour).save(folder / name)
    return folder / name


def inputs(comfyui: StandIn, node: str, run: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = comfyui.taken[run]["prompt"][node]["inputs"]
    return found


def sampling() -> dict[str, Any]:
    workflow: dict[str, Any] = json.loads((WORKFLOWS / "sdxl.json").read_text())
    return workflow
