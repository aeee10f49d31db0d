"""The protocol that anyone implements to put a model behind Atelier.

An engine is a class that is constructed with its options (`Engine(options: Mapping[str, str])`) and found by name
through the entry-point group `atelier.engines`. The worker runs it in a child process and hands it one `Task` at a time
per slot, with a `Context` through which everything that it makes goes out. Nothing here knows gRPC or protobuf, so
that an engine needs only this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Protocol, runtime_checkable

ENTRY_POINT_GROUP = "atelier.engines"
PREVIEW_LIMIT_BYTES = 64 * 1024
STAGES = ("generate", "enhance", "chat")
RENDITION_KINDS = ("thumb_256", "thumb_1024", "poster", "clip")

_NO_OPTIONS: Mapping[str, str] = MappingProxyType({})
_NO_RENDITIONS: Mapping[str, Path] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Reference:
    """A file that the client sent along, already on this machine's disk.

    `kind` is `init`, `style`, `composition`, `mask`, `first_frame` or `last_frame`; `strength` is 0.0 (ignore it) to
    1.0.
    """

    kind: str
    strength: float
    path: Path
    content_type: str


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation. `role` is `system`, `user` or `assistant`."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation to go on with, oldest message first. None: whatever the model does by itself.

    The text ends before any of `stop`, which is not part of it, and after `max_tokens` tokens of the model.
    """

    messages: tuple[Message, ...]
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lora:
    """A small addition to a model's weights, by the worker's name for it; a `weight` of 1.0 is its full effect."""

    name: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class EnhancedBy:
    """What rewrote a prompt: the `engine`, its `model`, and the `template` that it was told by. Any may be empty."""

    engine: str = ""
    model: str = ""
    template: str = ""
    template_version: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """One stage to run.

    `width` and `height` are pixels, `fps` frames per second; `frames` is 0 for anything but a video. `quality` is
    `draft`, `standard` or `high`. `indexes` names the outputs to make; the output at index i is made with `seed + i`,
    so that a batch can be finished elsewhere and look the same. `format` is None where no output is made. `chat` is
    there in a chat stage, which has no prompt, and only there. `guidance` is how closely to follow the prompt (None:
    the model's own), `scheduler` names how noise is taken away (empty: the model's own). `stage_key` names the
    stage of its job, the same in every attempt (empty: not known), for whoever hands work on and must not do it twice.
    `enhanced_by` is what wrote the prompt of a `generate` stage, if it is an enhanced one; what its owner wrote is
    `options["original_prompt"]` then, unless that is the same.
    """

    stage: Literal["generate", "enhance", "chat"]
    format: Literal["image", "video"] | None
    model: str
    prompt: str
    negative_prompt: str
    seed: int
    quantity: int
    width: int
    height: int
    steps: int
    quality: str
    references: tuple[Reference, ...]
    frames: int
    fps: int
    indexes: tuple[int, ...]
    options: Mapping[str, str] = field(default_factory=lambda: _NO_OPTIONS)
    chat: Chat | None = None
    guidance: float | None = None
    scheduler: str = ""
    loras: tuple[Lora, ...] = ()
    stage_key: str = ""
    enhanced_by: EnhancedBy | None = None


class Cancelled(Exception):
    """The job was cancelled; the engine stops at once and delivers nothing more."""


class EngineError(Exception):
    """The stage failed, in a sentence that the client may read; `retryable` tells whether another attempt may help."""

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class Context(Protocol):
    """What the worker gives to a running task. Every method may be called from any thread.

    Each method but `fail` and `deliver` raises `Cancelled` as soon as the job was cancelled.
    """

    @property
    def workdir(self) -> Path:
        """An empty folder of this task, removed after it."""

    def progress(self, step: int, steps: int, *, asset_index: int | None = None, phase: str = "") -> None:
        """Say that `step` of `steps` is done, of one output or (None) of the whole stage."""

    def check_cancelled(self) -> None:
        """Raise `Cancelled` when the job was cancelled."""

    def preview(self, asset_index: int, image: bytes, content_type: str) -> None:
        """Show a small picture of an output in the making, at most 64 KiB; it is never kept."""

    def write(self, delta: str) -> None:
        """Append to the text of an enhance or a chat stage. What was written cannot be taken back."""

    def finish(
        self,
        reason: Literal["stop", "length"],
        *,
        prompt_tokens: int | None = None,
        completion_tokens: int | None = None,
        model: str = "",
        template: str = "",
        template_version: str = "",
    ) -> None:
        """Say how a text ends. Once, after the text.

        Of a chat stage: why, and what was counted, both counts or none. Of an enhance stage: what wrote it, `model`,
        `template` and `template_version`, at most 100 characters each. It stays with whatever is made of the prompt.
        """

    def log(self, line: str) -> None:
        """Write one line to the job's log."""

    def warn(self, message: str) -> None:
        """Put a warning on the job that its owner reads."""

    def deliver(self, asset_index: int, path: Path, *, renditions: Mapping[str, Path] = _NO_RENDITIONS) -> None:
        """Hand over one finished output and its renditions (`thumb_256`, `thumb_1024`, `poster`, `clip`)."""

    def fail(self, asset_index: int, reason: str, *, retryable: bool = False) -> None:
        """Give up one output, and go on with the others."""

    def make_room(self, device: str, wanted_bytes: int) -> int:
        """Ask the other engines of this worker to free what they keep unused on `device`; return the bytes freed."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that an engine keeps in memory: `size_bytes` on `device` (`cuda:0`, `cpu`)."""

    name: str
    device: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class DeviceRoom:
    """The memory of a `device` (`cuda:0`, `cpu`): what could be taken now, whoever holds the rest, and all of it."""

    device: str
    free_bytes: int
    total_bytes: int


@runtime_checkable
class Engine(Protocol):
    """What runs stages. `run` blocks; the worker calls it from up to `concurrency` threads of one process.

    A class may also say which `worker_types` it serves, which `models`, and which `stages` it runs: without the latter
    it is given `generate` and `enhance`, and no `chat`. An engine that keeps models in memory has two more methods,
    called from any thread: `loaded() -> Sequence[LoadedModel]`, and `give_room(device: str, wanted_bytes: int) -> int`,
    which evicts models that no task uses and returns the bytes that it freed. By a third one,
    `device_room() -> DeviceRoom | None`, metrics show what the device has free. What an engine counts itself, such as
    requests and their cost, becomes a metric by `counters() -> Mapping[str, float]`, asked after each task.
    """

    name: str
    concurrency: int

    def run(self, task: Task, context: Context) -> None:
        """Run one stage to its end.

        Raises:
            Cancelled: let it pass through when the context raises it.
            EngineError: the stage failed.
        """
