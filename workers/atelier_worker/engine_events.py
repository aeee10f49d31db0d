"""What an engine's process tells: about itself, and of each task to whoever listens to that task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from atelier.engine.v1 import engine_host_pb2 as pb


class EngineUnavailable(Exception):
    """The engine cannot be made, or takes no task at the moment; the message is a sentence."""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What the engine says about itself."""

    name: str
    concurrency: int
    worker_types: tuple[str, ...]
    stages: tuple[str, ...]
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskEnd:
    """How a task ended. `message` and `retryable` are for `failed` and `crashed`."""

    kind: Literal["finished", "cancelled", "failed", "crashed"]
    message: str = ""
    retryable: bool = False


class TaskSink(Protocol):
    """Who hears what a task says. Called on the event loop, in the order in which the engine spoke; must not block."""

    def on_progress(self, asset_index: int | None, step: int, steps: int, phase: str) -> None:
        """Step `step` of `steps` is done, of one output or of the whole stage."""

    def on_preview(self, asset_index: int, step: int, content_type: str, image: bytes) -> None:
        """There is a small picture."""

    def on_text(self, text: str) -> None:
        """The text goes on."""

    def on_finish(self, finish: pb.TaskFinish) -> None:
        """The text has ended."""

    def on_log(self, line: str) -> None:
        """There is a line for the log."""

    def on_warning(self, message: str) -> None:
        """There is a warning for the owner."""

    def on_delivered(self, asset_index: int, path: Path, renditions: Mapping[str, Path]) -> None:
        """An output is there."""

    def on_failed(self, asset_index: int, reason: str, retryable: bool) -> None:
        """An output was given up."""


def tell(sink: TaskSink, kind: str, message: object) -> None:
    """Hand one message of a task to its sink."""
    match kind, message:
        case "progress", pb.TaskProgress() as progress:
            index = progress.asset_index if progress.HasField("asset_index") else None
            sink.on_progress(index, progress.step, progress.steps, progress.phase)
        case "preview", pb.TaskPreview() as preview:
            sink.on_preview(preview.asset_index, preview.step, preview.content_type, preview.image)
        case "text", pb.TaskText() as text:
            sink.on_text(text.text)
        case "finish", pb.TaskFinish() as finish:
            sink.on_finish(finish)
        case "log", pb.TaskLog() as line:
            sink.on_log(line.line)
        case "warning", pb.TaskWarning() as warning:
            sink.on_warning(warning.message)
        case "delivered", pb.OutputDelivered() as output:
            renditions = {rendition: Path(path) for rendition, path in output.renditions.items()}
            sink.on_delivered(output.asset_index, Path(output.path), renditions)
        case "failed", pb.OutputFailed() as failed:
            sink.on_failed(failed.asset_index, failed.reason, failed.retryable)
