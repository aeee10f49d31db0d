"""Crash points: places between two durable steps at which a test may have the process killed.

A point does nothing unless it was armed by name (setting `core.crash_point`). `name:3` dies when it is reached the
third time.
"""

from __future__ import annotations

import os
import signal

_armed: str = ""
_left: int = 0


def arm(point: str) -> None:
    """Choose the point at which this process dies; an empty text chooses none.

    Raises:
        ValueError: what follows the colon is not a count from 1.
    """
    global _armed, _left
    name, _, count = point.partition(":")
    left = int(count) if count else 1
    if left < 1:
        raise ValueError(f"a crash point's count starts at 1, got {point!r}")
    _armed, _left = name, left


def reach(point: str) -> None:
    """Say that the process is here. Kills it with SIGKILL if this point is armed, as a power cut would."""
    global _left  # noqa: PLW0603
    if not _armed or point != _armed:
        return
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
