"""A robot."""

from __future__ import annotations

import math

import numpy as np

from ..canvas import RGB, Canvas, darker, lighter, mix
from .base import Layer, Scene
from .kit import falling, hill, ridge, sky


class Robot(Scene):
    """A tin robot with a lamp for a heart, on a plain with pylons and gears behind it."""

    name = "robot"

    def compose(self, rng: np.random.Generator) -> None:
        self.horizon = self.h * float(rng.uniform(0.6, 0.8))
        self.x, self.base = self.w * float(rng.uniform(0.36, 0.64)), self.h * float(rng.uniform(0.9, 0.97))
        self.size = float(rng.uniform(0.52, 0.66))
        self.paint: RGB = self.accent(
            ((88, 150, 160), (206, 110, 60), (170, 176, 186), (220, 180, 70))[int(rng.integers(4))]
        )
        self.eye: RGB = ((120, 240, 255), (255, 210, 90), (255, 90, 80))[int(rng.integers(3))]
        self.wave = bool(rng.random() < 0.6)
        self.square = bool(rng.random() < 0.5)
        self.sun = self.w * float(rng.uniform(0.1, 0.9)), self.horizon * float(rng.uniform(0.3, 0.7))

    def layers(self) -> list[Layer]:
        return [
            Layer("sky", lambda c: sky(c, self, self.horizon, cloudy=0.5, sun=self.sun), 0.0, "drift"),
            Layer("plain", self._plain, 0.2),
            Layer("legs", self._legs, 0.6),
            Layer("body", self._body, 0.6),
            Layer("head", self._head, 0.6, "sway", (self.x, self.base - self.size)),
            *falling(self),
        ]

    def _plain(self, c: Canvas) -> None:
        rng = self.rand("plain")
        skyline = ridge(rng, -0.1, self.w + 0.1, self.horizon + 0.02, 0.1, rough=0.5)
        hill(c, skyline, self.h + 0.1, self.look.far((150, 132, 112), 0.35), self.look.tone((96, 84, 78)))
        for k in range(4):
            x, r = self.w * (k + float(rng.uniform(0.2, 0.8))) / 4, float(rng.uniform(0.08, 0.17))
            _gear(c, x, self.horizon + 0.04, r, self.look.far((140, 110, 84), 0.3), float(rng.random()))

    def _view(self, c: Canvas) -> Canvas:
        return c.at(self.x, self.base, self.size)

    def _part(self, v: Canvas, x0: float, y0: float, x1: float, y1: float, tone: RGB) -> None:
        v.gradient(x0, y0, x1, y1, [lighter(tone, 0.3), tone, darker(tone, 0.45)], across=True)
        for x, y in ((x0, y0), (x1, y0), (x0, y1), (x1, y1)):
            v.oval(
                x + (0.025 if x == x0 else -0.025), y + (0.025 if y == y0 else -0.025), 0.01, color=darker(tone, 0.5)
            )

    def _legs(self, c: Canvas) -> None:
        v, tone = self._view(c), self.look.tone((120, 124, 132))
        v.oval(0, 0.01, 0.36, 0.04, (20, 18, 22), 0.5)
        for x in (-0.14, 0.14):
            for k in range(6):
                v.rect(x - 0.045, -0.32 + 0.045 * k, x + 0.045, -0.285 + 0.045 * k, mix(tone, darker(tone, 0.4), k % 2))
            v.blob(
                [(x - 0.11, 0.01), (x - 0.09, -0.07), (x + 0.02, -0.09), (x + 0.13, -0.03), (x + 0.13, 0.01)],
                self.look.tone(darker(self.paint, 0.25)),
            )

    def _body(self, c: Canvas) -> None:
        v, tone = self._view(c), self.look.tone(self.paint)
        for side in (-1, 1):
            up = self.wave and side > 0
            arm = [(0.26 * side, -0.66), (0.42 * side, -0.62 if up else -0.5), (0.46 * side, -0.86 if up else -0.3)]
            v.stroke(arm, self.look.tone((120, 124, 132)), 0.07, end=1)
            for k in range(1, 9):
                t = k / 9
                ax = arm[0][0] + (arm[2][0] - arm[0][0]) * min(1, t * 1.2)
                v.oval(ax, arm[0][1] + (arm[2][1] - arm[0][1]) * t**1.5, 0.008, color=darker(tone, 0.5))
            hx, hy = arm[2]
            v.ring(hx, hy + (-0.05 if up else 0.05), 0.06, 0.03, tone)
            v.oval(0.26 * side, -0.66, 0.075, color=darker(tone, 0.15))
        self._part(v, -0.26, -0.76, 0.26, -0.3, tone)
        v.rect(-0.17, -0.68, 0.17, -0.42, darker(tone, 0.35))
        v.oval(-0.06, -0.55, 0.075, color=(30, 30, 36))
        v.oval(-0.06, -0.55, 0.06, color=self.eye)
        v.glow(-0.06, -0.55, 0.26, self.eye, 0.7)
        for k in range(3):
            v.oval(0.1, -0.63 + 0.075 * k, 0.022, color=((230, 70, 60), (250, 200, 70), (90, 190, 100))[k])

    def _head(self, c: Canvas) -> None:
        v, tone = self._view(c), self.look.tone(lighter(self.paint, 0.1))
        v.rect(-0.07, -0.82, 0.07, -0.75, self.look.tone((120, 124, 132)))
        if self.square:
            self._part(v, -0.21, -1.14, 0.21, -0.81, tone)
        else:
            v.blob(
                [(-0.22, -0.81), (-0.23, -1.0), (-0.13, -1.13), (0, -1.16), (0.13, -1.13), (0.23, -1.0), (0.22, -0.81)],
                tone,
            )
            v.blob(
                [(0.08, -0.81), (0.12, -1.0), (0.07, -1.13), (0.15, -1.11), (0.23, -1.0), (0.22, -0.81)],
                darker(tone, 0.3),
            )
        for x in (-0.1, 0.1):
            v.oval(x, -1.0, 0.072, color=(34, 34, 42))
            v.oval(x, -1.0, 0.054, color=self.eye)
            v.oval(x + 0.016, -1.016, 0.014, color=(255, 255, 255))
            v.glow(x, -1.0, 0.16, self.eye, 0.6)
        v.rect(-0.11, -0.9, 0.11, -0.855, (34, 34, 42))
        for k in range(5):
            v.rect(-0.1 + 0.043 * k, -0.895, -0.075 + 0.043 * k, -0.86, lighter(tone, 0.4))
        v.line([(0, -1.15), (0, -1.27)], (60, 60, 66), 0.014)
        v.oval(0, -1.29, 0.032, color=(232, 70, 60))
        v.glow(0, -1.29, 0.14, (255, 90, 70), 0.8)
        for side in (-1, 1):
            v.rect(0.22 * side - 0.03, -1.03, 0.22 * side + 0.03, -0.93, self.look.tone((120, 124, 132)))


def _gear(c: Canvas, x: float, y: float, r: float, color: RGB, turn: float) -> None:
    for k in range(10):
        c.at(x, y, r, turn=turn + math.tau * k / 10).rect(-0.13, -1.2, 0.13, -0.8, color)
    c.oval(x, y, r, color=color)
    c.oval(x, y, r * 0.45, color=darker(color, 0.35))
