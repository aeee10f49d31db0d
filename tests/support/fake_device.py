"""A device of a few bytes and a context that remembers, for what keeps models in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from tests.atelier_worker.engines.listener import Listener


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

    def held_bytes(self) -> int | None:
        return self.used_bytes()

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


class RememberingContext(Listener):
    """A context that is cancelled by setting `cancelled`, and remembers phases and failures as well."""

    def __init__(
        self, workdir: Path = Path(), *, make_room: Callable[[str, int], int] = lambda device, size: 0
    ) -> None:
        """Answer `make_room` by calling the function of that name."""
        super().__init__(workdir, lambda _: self.cancelled.is_set())
        self.cancelled = threading.Event()
        self.phases: list[str] = []
        self.failed: dict[int, str] = {}
        self._make_room = make_room

    def progress(self, step: int, steps: int, *, asset_index: int | None = None, phase: str = "") -> None:
        self.check_cancelled()
        super().progress(step, steps, asset_index=asset_index, phase=phase)
        if not self.phases or self.phases[-1] != phase:
            self.phases.append(phase)

    def fail(self, asset_index: int, reason: str, *, retryable: bool = False) -> None:
        self.failed[asset_index] = reason

    def make_room(self, device: str, wanted_bytes: int) -> int:
        self.check_cancelled()
        return self._make_room(device, wanted_bytes)
