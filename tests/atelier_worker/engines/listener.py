"""A context that keeps what an engine says, and the tasks that tests give to engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from atelier_worker.engine import Cancelled, Task

IMAGE = Task(
    stage="generate", format="image", model="sdxl", prompt="a kite over dunes", negative_prompt="", seed=7, quantity=1,
    width=256, height=256, steps=8, quality="draft", references=(), frames=0, fps=0, indexes=(0,),
)  # fmt: skip
VIDEO = replace(IMAGE, format="video", model="wan", width=256, height=144, frames=72, fps=24)
ENHANCE = replace(IMAGE, stage="enhance", format=None, width=0, height=0, steps=0, quantity=0, indexes=())


@dataclass
class Listener:
    """Remembers everything; `cancel_when` is asked at every call and ends the task when it says so."""

    workdir: Path
    cancel_when: Callable[[Listener], bool] = lambda _: False
    steps: list[tuple[int | None, int, int]] = field(default_factory=list)
    previews: list[tuple[int, bytes, str]] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    finishes: list[tuple[str, int | None, int | None]] = field(default_factory=list)
    written_by: tuple[str, str, str] = ("", "", "")
    warnings: list[str] = field(default_factory=list)
    delivered: dict[int, Path] = field(default_factory=dict)
    renditions: dict[int, dict[str, Path]] = field(default_factory=dict)

    def check_cancelled(self) -> None:
        if self.cancel_when(self):
            raise Cancelled

    def progress(self, step: int, steps: int, *, asset_index: int | None = None, phase: str = "") -> None:
        self.steps.append((asset_index, step, steps))
        self.check_cancelled()

    def preview(self, asset_index: int, image: bytes, content_type: str) -> None:
        self.previews.append((asset_index, image, content_type))
        self.check_cancelled()

    def write(self, delta: str) -> None:
        self.text.append(delta)
        self.check_cancelled()

    def finish(
        self,
        reason: str,
        *,
        prompt_tokens: int | None = None,
        completion_tokens: int | None = None,
        model: str = "",
        template: str = "",
        template_version: str = "",
    ) -> None:
        self.finishes.append((reason, prompt_tokens, completion_tokens))
        self.written_by = (model, template, template_version)

    def log(self, line: str) -> None:
        self.check_cancelled()

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def make_room(self, device: str, wanted_bytes: int) -> int:
        return 0

    def deliver(self, asset_index: int, path: Path, *, renditions: Mapping[str, Path] | None = None) -> None:
        self.delivered[asset_index] = path
        self.renditions[asset_index] = dict(renditions or {})

    def fail(self, asset_index: int, reason: str, *, retryable: bool = False) -> None:
        raise AssertionError(f"asset {asset_index} failed: {reason}")
