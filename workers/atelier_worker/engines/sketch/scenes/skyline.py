"""A city's skyline over water."""

from __future__ import annotations

from functools import partial

import numpy as np

from ..canvas import RGB, Canvas, darker, lighter, mix
from .base import Layer, Scene
from .kit import falling, flock, sky


class Skyline(Scene):
    """Towers in three depths with lit windows, a bridge or none, their reflection."""

    name = "skyline"

    def compose(self, rng: np.random.Generator) -> None:
        self.line = self.h * float(rng.uniform(0.58, 0.8))
        self.peak = self.w * float(rng.uniform(0.2, 0.8))
        self.neon = self.reading.has("cyberpunk", "neon", "futuristic") or bool(rng.random() < 0.2)
        self.lit = self.look.dark or self.neon
        self.sun = self.w * float(rng.uniform(0.15, 0.85)), self.line * float(rng.uniform(0.3, 0.7))
        self.water = bool(rng.random() < 0.75)
        self.grow = float(rng.uniform(0.8, 1.15))

    def layers(self) -> list[Layer]:
        return [
            Layer("sky", self._sky, 0.0, "drift"),
            *[Layer(f"towers {i}", partial(self._towers, i=i), 0.15 + 0.2 * i) for i in range(3)],
            Layer("front", self._front, 0.8, "water"),
            *falling(self),
        ]

    def _sky(self, c: Canvas) -> None:
        sky(c, self, self.line, cloudy=0.4, sun=self.sun)
        if not self.look.dark:
            flock(c, self.rand("birds"), self.w * 0.3, self.line * 0.25, 0.08, 8, darker(self.look.haze, 0.5))

    def _towers(self, c: Canvas, i: int) -> None:
        rng, look = self.rand("towers", i), self.look
        away = (0.62, 0.36, 0.08)[i]
        x = -0.05
        while x < self.w + 0.05:
            wide = float(rng.uniform(0.06, 0.12)) * (0.8 + 0.25 * i)
            near = 1 - min(1.0, abs(x + wide / 2 - self.peak) / (0.55 * self.w))
            tall = (0.1 + 0.42 * near * self.grow * float(rng.uniform(0.5, 1.1)) + 0.08 * float(rng.random())) * (
                1.1,
                0.95,
                0.6,
            )[i]
            paint = ((92, 104, 126), (120, 112, 118), (78, 92, 104), (138, 122, 112))[int(rng.integers(4))]
            wall = look.far(paint, away)
            self._tower(c, rng, x, wide, self.line - tall, wall, i)
            x += wide + float(rng.uniform(-0.008, 0.02))

    def _tower(self, c: Canvas, rng: np.random.Generator, x: float, wide: float, top: float, wall: RGB, i: int) -> None:
        roof = int(rng.integers(5))
        if roof == 0:
            c.poly([(x, top), (x + wide / 2, top - wide * 0.9), (x + wide, top)], wall)
            c.line([(x + wide / 2, top - wide * 0.8), (x + wide / 2, top - wide * 1.5)], wall, 0.006)
        elif roof == 1:
            c.rect(x + wide * 0.2, top - 0.04, x + wide * 0.8, top, wall)
            c.rect(x + wide * 0.36, top - 0.07, x + wide * 0.64, top, wall)
            c.line([(x + wide / 2, top - 0.06), (x + wide / 2, top - 0.16)], wall, 0.006)
        elif roof == 2:
            c.poly([(x, top), (x + wide, top - wide * 0.5), (x + wide, top)], wall)
        c.rect(x, top, x + wide, self.line + 0.01, wall)
        c.rect(x + wide * 0.72, top, x + wide, self.line + 0.01, darker(wall, 0.28))
        rows, columns = max(3, round((self.line - top) / 0.024)), max(3, round(wide / 0.017))
        for row in range(rows):
            for k in range(columns):
                lit = self.lit and rng.random() < 0.45
                wx, wy = x + wide * (k + 0.25) / columns, top + 0.012 + 0.024 * row
                glass: RGB = (
                    ((255, 208, 120), (255, 232, 180), (150, 220, 255) if self.neon else (255, 190, 100))[
                        int(rng.integers(3))
                    ]
                    if lit
                    else mix(darker(wall, 0.35), self.look.sky[1], 0.25)
                )
                if wy < self.line - 0.01:
                    c.rect(wx, wy, wx + wide * 0.5 / columns, wy + 0.012, glass, 1.0 if lit else 0.75)
        if self.neon and i and rng.random() < 0.5:
            color: RGB = ((255, 60, 150), (60, 230, 240), (170, 90, 255))[int(rng.integers(3))]
            sy = top + (self.line - top) * 0.25
            c.rect(x + wide * 0.35, sy, x + wide * 0.6, sy + 0.11, color)
            c.glow(x + wide / 2, sy + 0.05, 0.14, color, 0.7)

    def _front(self, c: Canvas) -> None:
        if self.water:
            c.reflect(
                self.line + 0.008,
                tint=self.look.tone((44, 74, 104)),
                amount=0.58,
                ripple=0.014,
                rng=self.rand("ripples"),
            )
            return
        # A park with a road that leads to the towers.
        dark = self.look.tone((60, 92, 62))
        c.gradient(0, self.line, self.w, self.h, [dark, darker(dark, 0.5)])
        c.poly(
            [
                (self.peak - 0.02, self.line),
                (self.peak + 0.02, self.line),
                (self.w * 0.78, self.h),
                (self.w * 0.22, self.h),
            ],
            self.look.tone((96, 96, 104)),
        )
        for k in range(7):
            t = (k / 7) ** 1.6
            y = self.line + (self.h - self.line) * t
            x = self.peak + (self.w * 0.5 - self.peak) * t
            c.rect(x - 0.003 - 0.008 * t, y, x + 0.003 + 0.008 * t, y + 0.012 + 0.03 * t, (250, 220, 130))
            for side in (-1, 1):
                r = 0.015 + 0.06 * t
                tx = x + side * (0.06 + self.w * 0.4 * t)
                c.oval(tx, y - r * 0.6, r, color=darker(dark, 0.2))
                c.oval(tx - r * 0.2, y - r * 0.8, r * 0.7, color=lighter(dark, 0.12))
