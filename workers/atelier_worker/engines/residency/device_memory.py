"""How much memory a device has, and how much of it is free: as the device says, whoever holds the rest.

For CUDA that is the driver's word; for the CPU what the kernel calls available, within what the process's control
groups (cgroups, version 1 and 2) let it have.
"""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from atelier_worker.engine import EngineError

_CUDA = re.compile(r"cuda:(\d+)")
_UNLIMITED = 1 << 60  # version 1 writes "no limit" as a number close to 2^63


class DeviceMemory(Protocol):
    """The memory of one device."""

    def free_bytes(self) -> int:
        """Return what can be allocated now, with what this process's allocator keeps but does not use."""

    def total_bytes(self) -> int:
        """Return what the device has, or this process may have of it."""

    def used_bytes(self) -> int | None:
        """Return what tensors of this process hold; None where nobody counts it."""

    def held_bytes(self) -> int | None:
        """Return what this process has of it, with what its allocator keeps unused; None where nobody counts it."""

    def start_peak(self) -> None:
        """Begin to measure `peak_bytes`."""

    def peak_bytes(self) -> int | None:
        """Return the most that tensors of this process held since `start_peak`; None where nobody counts it."""

    def release(self) -> None:
        """Give back what nothing in this process refers to any more."""


def whole_name(device: str) -> str:
    """Return a device's name with its number: `cuda` is `cuda:0`."""
    return "cuda:0" if device == "cuda" else device


def memory_of(device: str) -> DeviceMemory:
    """Return the memory of `cpu`, `cuda` or `cuda:N`.

    Raises:
        EngineError: another device, or one that this machine does not have.
    """
    if device == "cpu":
        return HostMemory()
    match = _CUDA.fullmatch(whole_name(device))
    if match is None:
        raise EngineError(f'device must be "cpu" or "cuda:N", got "{device}"')
    return CudaMemory(int(match[1]))


def free_unused() -> None:
    """Collect what nothing refers to, and empty the caches of torch's allocators."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


class CudaMemory:
    """The memory of one CUDA device."""

    def __init__(self, index: int) -> None:
        import torch

        if not torch.cuda.is_available() or index >= torch.cuda.device_count():
            found = torch.cuda.device_count() if torch.cuda.is_available() else 0
            raise EngineError(f'device "cuda:{index}" is not here: torch sees {found} CUDA devices; "cpu" always works')
        self._cuda = torch.cuda
        self._index = index

    def free_bytes(self) -> int:
        free, _ = self._cuda.mem_get_info(self._index)
        unused = self._cuda.memory_reserved(self._index) - self._cuda.memory_allocated(self._index)
        # Halves of blocks whose other half is in use: no request of another size can have them.
        split = self._cuda.memory_stats(self._index).get("inactive_split_bytes.all.current", 0)
        return int(free + max(0, unused - split))

    def total_bytes(self) -> int:
        return int(self._cuda.mem_get_info(self._index)[1])

    def used_bytes(self) -> int | None:
        return int(self._cuda.memory_allocated(self._index))

    def held_bytes(self) -> int | None:
        return int(self._cuda.memory_reserved(self._index))

    def start_peak(self) -> None:
        self._cuda.reset_peak_memory_stats(self._index)

    def peak_bytes(self) -> int | None:
        return int(self._cuda.max_memory_allocated(self._index))

    def release(self) -> None:
        free_unused()


class HostMemory:
    """The memory of this machine, as far as this process may have it. Read from `proc` and `cgroups`."""

    def __init__(self, *, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> None:
        self._proc = proc
        self._cgroups = cgroups

    def free_bytes(self) -> int:
        return min([self._meminfo("MemAvailable"), *(limit - used for limit, used in self._limits())])

    def total_bytes(self) -> int:
        return min([self._meminfo("MemTotal"), *(limit for limit, _ in self._limits())])

    def used_bytes(self) -> int | None:
        return None

    def held_bytes(self) -> int | None:
        return None

    def start_peak(self) -> None:
        """Do nothing: the C library's allocator counts nothing."""

    def peak_bytes(self) -> int | None:
        return None

    def release(self) -> None:
        free_unused()

    def _meminfo(self, field: str) -> int:
        try:
            text = (self._proc / "meminfo").read_text(encoding="ascii")
        except OSError as error:
            raise EngineError("the free memory of this machine cannot be read: it has no /proc/meminfo") from error
        match = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
        if match is None:
            raise EngineError(f"the free memory of this machine cannot be read: /proc/meminfo has no {field}")
        return int(match[1]) * 1024

    def _limits(self) -> Iterator[tuple[int, int]]:
        """Yield (limit, used) of each control group around this process that has a limit."""
        for folder, names in self._groups():
            limit, used = (_number(folder / name) for name in names[:2])
            if limit is None or used is None or limit >= _UNLIMITED:
                continue
            # Pages of files that were read once count as used, and go as soon as somebody needs the room.
            yield limit, max(0, used - _field(folder / "memory.stat", names[2]))

    def _groups(self) -> Iterator[tuple[Path, tuple[str, str, str]]]:
        second = ("memory.max", "memory.current", "inactive_file")
        first = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        for line in _lines(self._proc / "self" / "cgroup"):
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                yield from ((folder, second) for folder in _upwards(self._cgroups, path))
            elif "memory" in controllers.split(","):
                yield from ((folder, first) for folder in _upwards(self._cgroups / "memory", path))


def _upwards(root: Path, path: str) -> Iterator[Path]:
    """Yield the folder of a control group and of each that it is in; in a container only `root` may be visible."""
    folder = root / path.strip("/")
    while folder != root:
        yield folder
        folder = folder.parent
    yield root


def _lines(file: Path) -> list[str]:
    try:
        return [line for line in file.read_text(encoding="utf-8").splitlines() if line.count(":") >= 2]
    except OSError:
        return []  # a system without control groups limits nothing


def _number(file: Path) -> int | None:
    try:
        text = file.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _field(file: Path, name: str) -> int:
    try:
        text = file.read_text(encoding="ascii")
    except OSError:
        return 0
    match = re.search(rf"^{name} (\d+)$", text, re.MULTILINE)
    return int(match[1]) if match else 0
