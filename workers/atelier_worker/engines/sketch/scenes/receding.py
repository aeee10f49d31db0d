"""What a lane between two walls has, wherever it leads: everything runs towards one point."""

from __future__ import annotations

from typing import Protocol

from ..canvas import RGB, Canvas
from .base import Scene


class Pane(Protocol):
    """Draws a part of a wall: from `u0` to `u1` along it (0 near, 1 far), from `y0` to `y1` at its near edge."""

    def __call__(self, u0: float, u1: float, y0: float, y1: float, color: RGB, alpha: float = 1.0) -> None: ...


class Receding(Scene):
    """A scene with walls that run towards the point `vx`, `vy`, which `compose` chooses."""

    vx: float
    vy: float

    def at(self, x: float, y: float, depth: float) -> tuple[float, float]:
        """Return where a point of the frame lies once it has gone so far (0 to 1) towards the point."""
        return x + (self.vx - x) * depth, y + (self.vy - y) * depth

    def side_wall(self, c: Canvas, edge: float, near: float, far: float) -> Pane:
        """Return what draws on the wall that stands at `edge`, between two depths."""

        def pane(u0: float, u1: float, y0: float, y1: float, color: RGB, alpha: float = 1.0) -> None:
            d0, d1 = near + (far - near) * u0, near + (far - near) * u1
            corners = [self.at(edge, y0, d0), self.at(edge, y0, d1), self.at(edge, y1, d1), self.at(edge, y1, d0)]
            c.poly(corners, color, alpha)

        return pane
