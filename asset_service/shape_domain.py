"""What is measured of a file. Apart from what is kept of it, so that the processes that measure load nothing else."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shape:
    """What was measured: the type, width and height in pixels as shown, and the length of a video."""

    content_type: str
    width: int
    height: int
    duration_ms: int | None = None
