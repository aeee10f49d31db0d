"""Terraced rice fields on a hillside, water in the steps, mist between them."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from ..canvas import Canvas, Point, darker, lighter, mix, smooth
from .base import Layer, Scene
from .kit import falling, flock, hill, mist, person, ridge, sky
from .plants import tree


class Terraces(Scene):
    """Curved steps down a hill: a bank of grass under each, and the sky in the water of each."""

    name = "terraces"

    def compose(self, rng: np.random.Generator) -> None:
        self.horizon = self.h * float(rng.uniform(0.24, 0.44))
        self.steps = int(rng.integers(8, 12))
        self.phase = float(rng.uniform(0, math.tau))
        self.bend = float(rng.uniform(0.5, 1.1))
        self.slope = float(rng.choice([-1, 1]) * rng.uniform(0.1, 0.3))
        self.sun = self.w * float(rng.uniform(0.2, 0.8)), self.horizon * float(rng.uniform(0.45, 0.8))

    def layers(self) -> list[Layer]:
        near = self.steps // 2
        return [
            Layer("sky", lambda c: sky(c, self, self.horizon + 0.1, cloudy=0.4, sun=self.sun), 0.0, "drift"),
            Layer("hills", self._hills, 0.15),
            *[Layer(f"step {i}", partial(self._step, i=i), 0.2 + 0.7 * i / self.steps) for i in range(near)],
            Layer(
                "mist",
                lambda c: mist(c, self.rand("mist"), self.horizon + 0.12, 0.1, lighter(self.look.haze, 0.4), 0.6),
                0.45,
                "drift",
            ),
            *[
                Layer(f"step {i}", partial(self._step, i=i), 0.2 + 0.7 * i / self.steps)
                for i in range(near, self.steps)
            ],
            Layer("farmers", self._farmers, 0.85),
            Layer("near mist", self._near_mist, 0.9, "drift"),
            *([] if self.weather("mist") else falling(self)),
        ]

    def _hills(self, c: Canvas) -> None:
        rng = self.rand("hills")
        for i, distance in enumerate((0.72, 0.5, 0.34)):
            skyline = ridge(rng, -0.1, self.w + 0.1, self.horizon + 0.02 + 0.04 * i, 0.17 - 0.03 * i, rough=0.45)
            color = self.look.far((58, 96, 92), distance)
            hill(c, skyline, self.horizon + 0.3, color, mix(color, self.look.haze, 0.55))
        flock(c, rng, self.w * 0.3, self.horizon * 0.45, 0.07, 7, darker(self.look.haze, 0.45))

    def _edge(self, i: int) -> list[Point]:
        """The rim of step i from left to right."""
        t = i / self.steps
        y = self.horizon + 0.07 + (self.h - self.horizon) * (t**1.25) * 0.98
        sway = (0.09 + 0.08 * t) * self.bend
        points = []
        for k in range(13):
            u = k / 12
            wave = math.sin(self.phase + u * 4.6 * self.w + i * 0.2) + 0.4 * math.sin(
                self.phase * 2 + u * 9 * self.w + i * 0.33
            )
            points.append(((u * 1.3 - 0.15) * self.w, y + sway * wave * 0.6 + self.slope * (u - 0.5) * (1.1 - t)))
        return smooth(points, closed=False, steps=5)

    def _step(self, c: Canvas, i: int) -> None:
        rng, look = self.rand("step", i), self.look
        t = i / self.steps
        rim, after = self._edge(i), self._edge(i + 1)
        away = 0.6 * (1 - t) ** 1.4
        bank = look.far((92, 132, 58), away)
        bottom = self.h + 0.2
        c.poly([*rim, (self.w + 0.2, bottom), (-0.2, bottom)], darker(bank, 0.3))
        for k in range(0, len(rim) - 1):
            x, y = rim[k]
            for _ in range(3):
                dx = float(rng.uniform(0, 0.025))
                c.stroke(
                    [(x + dx, y), (x + dx - 0.004, y + 0.05 * (0.3 + t))],
                    mix(darker(bank, 0.5), lighter(bank, 0.1), float(rng.random())),
                    0.006 + 0.006 * t,
                    0.8,
                    curve=False,
                )
        thick = (self.h - self.horizon) / self.steps * (0.3 + 0.3 * t)
        low = [(x, y + thick) for x, y in rim]
        water = [*low, *reversed(after)]
        top, deep = min(y for _, y in low), max(y for _, y in after)
        with c.clipped(water) as v:
            v.gradient(
                -0.2,
                top,
                self.w + 0.2,
                deep,
                [
                    mix(look.sky[-1], (255, 255, 255), 0.2),
                    look.far(look.sky[-1], 0.1),
                    mix(look.sky[0], look.sky[1], 0.5),
                ],
            )
            v.glow(self.sun[0], (top + deep) / 2, 0.3, look.light, 0.45)
            if (i + int(self.phase * 10)) % 3 == 0:
                for _ in range(round(150 + 160 * t)):
                    x, u = float(rng.uniform(-0.1, self.w + 0.1)), float(rng.random())
                    y = top + (deep - top) * u
                    v.line(
                        [(x, y), (x + 0.004, y - 0.01 - 0.016 * t)],
                        look.far((112, 160, 66), away),
                        0.003 + 0.003 * t,
                        0.9,
                    )
        c.stroke(after, lighter(bank, 0.22), 0.008 + 0.012 * t, end=1, curve=False)
        for _ in range(60):
            k = int(rng.integers(0, len(after) - 1))
            x, y = after[k]
            c.stroke(
                [(x, y), (x + float(rng.normal()) * 0.008, y - (0.01 + 0.02 * t) * float(rng.uniform(0.5, 1.2)))],
                lighter(bank, 0.1 * float(rng.random())),
                0.004 + 0.004 * t,
                curve=False,
            )
        if i in (2, 4) and rng.random() < 0.8:
            k = int(rng.integers(8, len(after) - 8))
            tree(
                c,
                rng,
                after[k][0],
                after[k][1],
                0.1 + 0.14 * t,
                look.far((62, 100, 60), away),
                look.far((70, 54, 44), away),
            )

    def _farmers(self, c: Canvas) -> None:
        rng = self.rand("farmers")
        edge = self._edge(self.steps - 4)
        for _ in range(2):
            x, y = edge[int(rng.integers(8, len(edge) - 8))]
            person(c, x, y + 0.01, 0.13, self.look.tone((92, 62, 74)))
            c.poly([(x - 0.032, y - 0.105), (x + 0.032, y - 0.105), (x, y - 0.14)], self.look.tone((226, 196, 130)))

    def _near_mist(self, c: Canvas) -> None:
        if self.weather("mist"):
            rng = self.rand("near mist")
            for k in range(3):
                mist(
                    c,
                    rng,
                    self.horizon + (self.h - self.horizon) * (0.25 + 0.22 * k),
                    0.07 + 0.02 * k,
                    lighter(self.look.haze, 0.45),
                    0.6,
                )
