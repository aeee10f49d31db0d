"""A device of a few bytes and a context that remembers, for what keeps models in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from atelier_worker.engine import Cancelled

_NO_RENDITIONS: Mapping[str, Path] = MappingProxyType({})


class FakeDevice:
    """Counts weights (`Weights`), working memory (`working`) and what other programs hold (`others`)."""

    def __init__(self, total: int, *, counts: bool = True) -> None:
        """Have `total` bytes; unless it `counts`, nobody knows what this process uses, as on a CPU."""
        self.total = total
        self.others = 0
        self.used = 0
        self.peak = 0
        self._counts = counts

    def free_bytes(self) -> int:
        return self.total - self.others - self.used

    def total_bytes(self) -> int:
        return self.total

    def used_bytes(self) -> int | None:
        return self.used if self._counts else None

    def start_peak(self) -> None:
        self.peak = self.used

    def peak_bytes(self) -> int | None:
        return self.peak if self._counts else None

    def release(self) -> None:
        """Do nothing: what is dropped is free at once."""

    def take(self, size: int) -> None:
        """Allocate, or fail as torch does on a CPU."""
        if size > self.free_bytes():
            raise RuntimeError(f"DefaultCPUAllocator: can't allocate memory: you tried to allocate {size} bytes.")
        self.used += size
        self.peak = max(self.peak, self.used)

    def give(self, size: int) -> None:
        self.used -= size


class Weights:
    """What a load makes: it holds bytes of the device for as long as somebody refers to it."""

    def __init__(self, device: FakeDevice, size: int) -> None:
        device.take(size)
        self._device = device
        self._size = size

    def __del__(self) -> None:
        if hasattr(self, "_size"):
            self._device.give(self._size)


class RememberingContext:
    """A `Context` that keeps what it is told. Set `cancelled` to cancel the job."""

    def __init__(
        self, workdir: Path = Path(), *, make_room: Callable[[str, int], int] = lambda device, size: 0
    ) -> None:
        """Answer `make_room` by calling the function of that name."""
        self.workdir = workdir
        self.cancelled = threading.Event()
        self.phases: list[str] = []
        self.steps: list[tuple[int, int]] = []
        self.previews: list[tuple[int, bytes, str]] = []
        self.warnings: list[str] = []
        self.lines: list[str] = []
        self.delivered: dict[int, Path] = {}
        self.failed: dict[int, str] = {}
        self.text = ""
        self._make_room = make_room

    def check_cancelled(self) -> None:
        if self.cancelled.is_set():
            raise Cancelled

    def progress(self, step: int, steps: int, *, asset_index: int | None = None, phase: str = "") -> None:
        self.check_cancelled()
        self.steps.append((step, steps))
        if not self.phases or self.phases[-1] != phase:
            self.phases.append(phase)

    def preview(self, asset_index: int, image: bytes, content_type: str) -> None:
        self.check_cancelled()
        self.previews.append((asset_index, image, content_type))

    def write(self, delta: str) -> None:
        self.check_cancelled()
        self.text += delta

    def finish(
        self,
        reason: Literal["stop", "length"],
        *,
        prompt_tokens: int | None = None,
        completion_tokens: int | None = None,
    ) -> None:
        self.check_cancelled()

    def log(self, line: str) -> None:
        self.check_cancelled()
        self.lines.append(line)

    def warn(self, message: str) -> None:
        self.check_cancelled()
        self.warnings.append(message)

    def deliver(self, asset_index: int, path: Path, *, renditions: Mapping[str, Path] = _NO_RENDITIONS) -> None:
        self.delivered[asset_index] = path

    def fail(self, asset_index: int, reason: str, *, retryable: bool = False) -> None:
        self.failed[asset_index] = reason

    def make_room(self, device: str, wanted_bytes: int) -> int:
        self.check_cancelled()
        return self._make_room(device, wanted_bytes)
