"""Failures of memory, and how sizes are written in sentences."""

from __future__ import annotations

from atelier_worker.engine import EngineError

_GIB = 1 << 30
_MIB = 1 << 20


class NotEnoughMemory(EngineError):
    """The device cannot hold what a task needs: now (retryable), or ever."""


def sized(size_bytes: int) -> str:
    """Return a size as people read it: `6.9 GiB`, `300 MiB`."""
    if abs(size_bytes) >= _GIB:
        return f"{size_bytes / _GIB:.1f} GiB"
    return f"{size_bytes / _MIB:.0f} MiB"
