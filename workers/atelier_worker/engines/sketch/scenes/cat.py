"""A cat on a roof, above the town."""

from __future__ import annotations

import math

import numpy as np

from ..canvas import RGB, Canvas, Point, darker, lighter, mix
from .base import Layer, Scene
from .kit import falling, sky

_SITTING: list[Point] = [
    (-0.3, 0.0),
    (-0.36, -0.26),
    (-0.28, -0.5),
    (-0.14, -0.66),
    (0.04, -0.68),
    (0.16, -0.5),
    (0.19, -0.26),
    (0.24, 0.0),
    (0.0, 0.03),
]


class Cat(Scene):
    """A ridge of tiles, a chimney, roofs beyond, and a cat that sits against a great moon or sun."""

    name = "cat"
    closest = 0.1

    def compose(self, rng: np.random.Generator) -> None:
        self.ridge = self.h * float(rng.uniform(0.6, 0.8))
        self.slope = float(rng.uniform(-0.14, 0.14))
        self.x = self.w * float(rng.uniform(0.3, 0.56))
        self.size = min(float(rng.uniform(0.42, 0.66)), (self.ridge - 0.06) / 1.15)
        self.disc = self.x + float(rng.uniform(-0.06, 0.16)), self.ridge - self.size * float(rng.uniform(0.55, 0.95))
        self.disc_size = float(rng.uniform(0.2, 0.3))
        self.coat: RGB = self.accent(
            ((34, 32, 40), (214, 126, 54), (128, 128, 138), (240, 234, 222))[int(rng.integers(4))]
        )
        self.striped = bool(rng.random() < 0.6)
        self.pot_x = float(rng.choice([0.1, 0.8, 0.9])) * self.w

    def layers(self) -> list[Layer]:
        return [
            Layer("sky", self._sky, 0.0, "drift"),
            Layer("town", self._town, 0.2),
            Layer("roof", self._roof, 0.5),
            Layer("chimney", self._chimney, 0.5),
            Layer("tail", self._tail, 0.6, "sway", (self.x, self.ridge)),
            Layer("cat", self._cat, 0.6),
            Layer("face", self._face, 0.6),
            *falling(self),
        ]

    def _at(self, x: float) -> float:
        """The ridge's height at x."""
        return self.ridge + self.slope * (x - self.w / 2)

    def _sky(self, c: Canvas) -> None:
        sky(c, self, self.ridge + 0.1, cloudy=0.4, sun=(-2.0, -2.0), moon=False)
        moon = (250, 240, 208) if self.look.dark else lighter(self.look.light, 0.4)
        c.glow(*self.disc, self.disc_size * 2.6, self.look.light, 0.6)
        c.oval(*self.disc, self.disc_size, color=moon)
        if self.look.dark:
            for dx, dy, r in ((-0.4, -0.3, 0.2), (0.3, 0.35, 0.14), (-0.1, 0.5, 0.1), (0.45, -0.3, 0.1)):
                c.oval(
                    self.disc[0] + dx * self.disc_size,
                    self.disc[1] + dy * self.disc_size,
                    r * self.disc_size,
                    color=darker(moon, 0.1),
                )

    def _town(self, c: Canvas) -> None:
        rng = self.rand("town")
        for row in range(3):
            x = -0.05
            while x < self.w + 0.05:
                wide, top = float(rng.uniform(0.08, 0.17)), self.ridge - 0.16 + 0.07 * row - float(rng.uniform(0, 0.11))
                wall = self.look.far(
                    ((196, 160, 128), (168, 140, 132), (206, 190, 160))[int(rng.integers(3))], 0.55 - 0.18 * row
                )
                c.rect(x, top, x + wide, self.h, wall)
                c.poly(
                    [(x - 0.01, top), (x + wide / 2, top - wide * 0.4), (x + wide + 0.01, top)],
                    self.look.far((150, 78, 62), 0.5 - 0.18 * row),
                )
                for k in range(4):
                    if rng.random() < 0.6:
                        wx, wy = x + wide * (0.2 + 0.45 * (k % 2)), top + 0.03 + 0.05 * (k // 2)
                        c.rect(wx, wy, wx + 0.018, wy + 0.026, (255, 208, 120) if self.look.dark else darker(wall, 0.4))
                x += wide

    def _roof(self, c: Canvas) -> None:
        rng = self.rand("roof")
        clay = self.look.tone((190, 94, 64))
        c.poly(
            [
                (-0.1, self._at(-0.1)),
                (self.w + 0.1, self._at(self.w + 0.1)),
                (self.w + 0.1, self.h + 0.1),
                (-0.1, self.h + 0.1),
            ],
            darker(clay, 0.35),
        )
        rows = round((self.h - self.ridge + 0.2) / 0.075) + 1
        for row in range(rows):
            r = 0.05
            count = round(self.w / (r * 1.9)) + 3
            for k in range(count):
                x = (k - 1 + (row % 2) / 2) * r * 1.9
                y = self._at(x) + 0.045 + row * 0.075
                shade = mix(clay, darker(clay, 0.4), float(rng.random()) * 0.7)
                c.oval(x, y, r, 0.055, darker(shade, 0.45))
                c.oval(x, y - 0.008, r * 0.95, 0.05, shade)
                c.stroke([(x - r * 0.6, y - 0.0), (x - r * 0.3, y + 0.03)], lighter(shade, 0.25), 0.01, 0.6, swell=True)
        for k in range(round(self.w / 0.11) + 3):
            x = (k - 1) * 0.11
            c.blob(
                [
                    (x, self._at(x) + 0.03),
                    (x, self._at(x) - 0.02),
                    (x + 0.1, self._at(x + 0.1) - 0.024),
                    (x + 0.12, self._at(x + 0.12) + 0.028),
                ],
                mix(lighter(clay, 0.1), darker(clay, 0.2), float(rng.random())),
            )

    def _chimney(self, c: Canvas) -> None:
        x, y = self.pot_x, self._at(self.pot_x) + 0.06
        brick = self.look.tone((150, 84, 66))
        c.rect(x - 0.07, y - 0.3, x + 0.07, y + 0.02, brick)
        for row in range(9):
            c.line([(x - 0.07, y - 0.3 + row * 0.035), (x + 0.07, y - 0.3 + row * 0.035)], darker(brick, 0.4), 0.004)
        c.rect(x - 0.09, y - 0.33, x + 0.09, y - 0.29, lighter(brick, 0.12))
        for dx in (-0.035, 0.035):
            c.rect(x + dx - 0.022, y - 0.4, x + dx + 0.022, y - 0.33, self.look.tone((196, 112, 74)))
        for k in range(5):
            c.oval(
                x + 0.03 + 0.03 * k + 0.01 * math.sin(k * 2),
                y - 0.45 - 0.06 * k,
                0.025 + 0.014 * k,
                color=lighter(self.look.haze, 0.3),
                alpha=0.3 - 0.04 * k,
            )

    def _view(self, c: Canvas) -> Canvas:
        return c.at(self.x, self._at(self.x) + 0.005, self.size)

    def _tail(self, c: Canvas) -> None:
        v = self._view(c)
        coat = self.look.tone(self.coat)
        v.stroke(
            [(-0.22, -0.05), (-0.5, 0.0), (-0.62, 0.2), (-0.5, 0.36), (-0.36, 0.3)], darker(coat, 0.1), 0.1, end=0.6
        )
        if self.striped:
            for x, y in ((-0.44, -0.02), (-0.58, 0.1), (-0.6, 0.24)):
                v.oval(x, y, 0.045, 0.022, darker(coat, 0.5))

    def _cat(self, c: Canvas) -> None:
        v = self._view(c)
        coat = self.look.tone(self.coat)
        shade, pale = darker(coat, 0.35), lighter(coat, 0.45)
        v.blob(_SITTING, coat)
        v.blob([(-0.3, 0.0), (-0.34, -0.22), (-0.2, -0.32), (-0.04, -0.2), (-0.02, 0.02)], mix(coat, shade, 0.4))
        v.blob([(0.04, -0.56), (0.16, -0.46), (0.15, -0.24), (0.06, -0.3)], pale, 0.85)
        for x in (0.05, 0.17):
            v.stroke([(x, -0.3), (x + 0.015, -0.03)], coat, 0.09, end=0.85)
            v.oval(x + 0.035, -0.01, 0.065, 0.032, pale if self.striped else coat)
        v.line([(0.115, -0.26), (0.125, -0.02)], shade, 0.01)
        v.oval(-0.06, 0.0, 0.13, 0.04, mix(coat, shade, 0.25))
        if self.striped:
            for k in range(4):
                v.stroke(
                    [(-0.34 + 0.02 * k, -0.12 - 0.12 * k), (-0.24, -0.16 - 0.12 * k), (-0.14, -0.1 - 0.12 * k)],
                    shade,
                    0.035,
                    0.8,
                    swell=True,
                )
        v.stroke([(-0.36, -0.26), (-0.29, -0.5), (-0.14, -0.67)], lighter(self.look.light, 0.1), 0.022, 0.7, swell=True)

    def _face(self, c: Canvas) -> None:
        v = self._view(c)
        coat = self.look.tone(self.coat)
        shade, pale = darker(coat, 0.35), lighter(coat, 0.45)
        hx, hy = 0.09, -0.78
        for side in (-1, 1):
            v.poly([(hx + 0.06 * side, hy - 0.14), (hx + 0.2 * side, hy - 0.33), (hx + 0.23 * side, hy - 0.04)], coat)
            v.poly(
                [(hx + 0.1 * side, hy - 0.14), (hx + 0.185 * side, hy - 0.27), (hx + 0.2 * side, hy - 0.09)],
                (214, 140, 130),
            )
        v.blob(
            [
                (hx, hy - 0.19),
                (hx - 0.2, hy - 0.13),
                (hx - 0.25, hy + 0.03),
                (hx - 0.14, hy + 0.16),
                (hx, hy + 0.18),
                (hx + 0.14, hy + 0.16),
                (hx + 0.25, hy + 0.03),
                (hx + 0.2, hy - 0.13),
            ],
            coat,
        )
        if self.striped:
            for dx in (-0.07, 0, 0.07):
                v.stroke([(hx + dx, hy - 0.18), (hx + dx * 0.7, hy - 0.08)], shade, 0.03, end=0.2, curve=False)
        eye = (150, 206, 96) if sum(self.coat) < 600 else (90, 150, 200)
        for side in (-1, 1):
            ex = hx + 0.1 * side
            v.blob([(ex - 0.06, hy), (ex, hy - 0.045), (ex + 0.06, hy - 0.005), (ex, hy + 0.04)], eye)
            v.oval(ex, hy - 0.003, 0.014, 0.038, (12, 12, 16))
            v.oval(ex + 0.015, hy - 0.02, 0.009, color=(255, 255, 255))
            for k in range(3):
                v.stroke(
                    [(hx + 0.07 * side, hy + 0.09), (hx + 0.34 * side, hy + 0.05 + 0.045 * k)],
                    lighter(coat, 0.75),
                    0.008,
                    0.9,
                    curve=False,
                )
        v.oval(hx, hy + 0.1, 0.085, 0.055, pale, 0.8)
        v.poly([(hx - 0.028, hy + 0.055), (hx + 0.028, hy + 0.055), (hx, hy + 0.085)], (206, 110, 108))
        v.stroke(
            [
                (hx - 0.06, hy + 0.1),
                (hx - 0.03, hy + 0.125),
                (hx, hy + 0.09),
                (hx + 0.03, hy + 0.125),
                (hx + 0.06, hy + 0.1),
            ],
            shade,
            0.012,
            end=1,
        )
