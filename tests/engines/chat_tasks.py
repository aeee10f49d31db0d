"""Conversations for tests of engines: tasks, and a context that keeps what an engine says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from atelier_worker.engine import Cancelled, Chat, Message, Task


class Heard:
    """A context that keeps everything. `on_write` is called with each piece of text."""

    def __init__(self, workdir: Path = Path(), on_write: Callable[[str], None] = lambda _: None) -> None:
        self.workdir = workdir
        self.pieces: list[str] = []
        self.ended: tuple[str, int | None, int | None] | None = None
        self.written_by: tuple[str, str, str] | None = None
        self.logs: list[str] = []
        self.warnings: list[str] = []
        self.phases: list[str] = []
        self.cancelled = threading.Event()
        self._on_write = on_write

    @property
    def text(self) -> str:
        """All that was written."""
        return "".join(self.pieces)

    def check_cancelled(self) -> None:
        """Raise when the test has cancelled."""
        if self.cancelled.is_set():
            raise Cancelled

    def progress(self, step: int, steps: int, *, asset_index: int | None = None, phase: str = "") -> None:
        """Keep each phase once."""
        self.check_cancelled()
        if phase not in self.phases:
            self.phases.append(phase)

    def preview(self, asset_index: int, image: bytes, content_type: str) -> None:
        """There are no pictures."""
        raise NotImplementedError

    def write(self, delta: str) -> None:
        """Keep a piece."""
        self.check_cancelled()
        if delta:
            self.pieces.append(delta)
            self._on_write(delta)

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
        """Keep how it ended, and what wrote it."""
        self.check_cancelled()
        self.ended = (reason, prompt_tokens, completion_tokens)
        self.written_by = (model, template, template_version)

    def log(self, line: str) -> None:
        """Keep a line."""
        self.logs.append(line)

    def warn(self, message: str) -> None:
        """Keep a warning."""
        self.warnings.append(message)

    def deliver(self, asset_index: int, path: Path, *, renditions: Mapping[str, Path] = MappingProxyType({})) -> None:
        """There are no files."""
        raise NotImplementedError

    def fail(self, asset_index: int, reason: str, *, retryable: bool = False) -> None:
        """There are no outputs."""
        raise NotImplementedError

    def make_room(self, device: str, wanted_bytes: int) -> int:
        """There are no other engines."""
        return 0


def chat_task(
    said: str = "Hello",
    *,
    seed: int = 1,
    max_tokens: int | None = 24,
    temperature: float | None = None,
    top_p: float | None = None,
    stop: Sequence[str] = (),
    before: Sequence[Message] = (),
    model: str = "tiny",
) -> Task:
    """Return a conversation in which the user said something."""
    messages = (*before, Message("user", said))
    chat = Chat(messages, max_tokens=max_tokens, temperature=temperature, top_p=top_p, stop=tuple(stop))
    return _task("chat", model=model, seed=seed, chat=chat)


def enhance_task(prompt: str, *, model: str = "sdxl", seed: int = 1) -> Task:
    """Return the wish for a richer prompt."""
    return _task("enhance", prompt=prompt, model=model, seed=seed)


def _task(
    stage: Literal["enhance", "chat"], *, model: str, seed: int, prompt: str = "", chat: Chat | None = None
) -> Task:
    return Task(
        stage=stage,
        format=None,
        model=model,
        prompt=prompt,
        negative_prompt="",
        seed=seed,
        quantity=1,
        width=0,
        height=0,
        steps=0,
        quality="standard",
        references=(),
        frames=0,
        fps=0,
        indexes=(),
        chat=chat,
    )
