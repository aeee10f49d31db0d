"""A lighthouse on a cliff above the sea."""

from __future__ import annotations

import math

import numpy as np

from ..canvas import RGB, Canvas, Point, darker, lighter, mix
from .base import Layer, Scene
from .kit import falling, flock, sea, sky, spray


class Lighthouse(Scene):
    """A banded tower on columns of rock, its beam over breaking waves."""

    name = "lighthouse"
    closest = 0.12

    def compose(self, rng: np.random.Generator) -> None:
        self.horizon = self.h * float(rng.uniform(0.56, 0.76))
        self.top = self.horizon - float(rng.uniform(0.08, 0.26))
        self.x = self.w * float(rng.uniform(0.22, 0.46))
        self.size = min(float(rng.uniform(0.4, 0.58)), self.top - 0.1)
        self.edge = self.x + float(rng.uniform(0.16, 0.3))
        self.banded = bool(rng.random() < 0.75)
        self.rough = 1.0 if self.weather("storm") else 0.45
        self.beam_turn = float(rng.uniform(-0.14, 0.1))
        self.paint = self.accent((192, 52, 44))

    def layers(self) -> list[Layer]:
        return [
            Layer("sky", self._sky, 0.0, "drift"),
            Layer("sea", self._sea, 0.3, "water"),
            Layer("cliff", self._cliff, 0.6),
            Layer("tower", self._tower, 0.6),
            Layer("beam", self._beam, 0.6, "flicker"),
            Layer("surf", self._surf, 0.8, "bob"),
            *falling(self),
        ]

    def _sky(self, c: Canvas) -> None:
        sky(c, self, self.horizon, cloudy=0.6)
        rng = self.rand("bolt")
        if self.weather("storm") and rng.random() < 0.7:
            x, y = self.w * float(rng.uniform(0.6, 0.92)), 0.02
            bolt: list[Point] = [(x, y)]
            while y < self.horizon:
                x, y = x + float(rng.normal()) * 0.035, y + 0.05
                bolt.append((x, min(y, self.horizon)))
            c.glow(bolt[3][0], bolt[3][1], 0.5, (190, 210, 230), 0.5)
            c.stroke(bolt, (244, 250, 255), 0.009, 0.95, end=0.2, curve=False)
        flock(c, self.rand("gulls"), self.w * 0.7, self.top - 0.05, 0.07, 7, lighter(self.look.haze, 0.5), 0.02)

    def _sea(self, c: Canvas) -> None:
        deep = (28, 84, 98) if self.weather("storm") else (38, 96, 130)
        sea(c, self, self.horizon, self.h, deep=deep, rough=self.rough)

    def _cliff(self, c: Canvas) -> None:
        """Columns of basalt, lit on one side each, from the picture's edge to the drop."""
        rng = self.rand("cliff")
        rock = self.look.tone((74, 78, 88))
        x, wide = self.edge, 0.05
        columns: list[tuple[float, float, float]] = []
        while x > -0.05:
            wide = float(rng.uniform(0.028, 0.055))
            drop = max(0.0, 1 - (self.edge - x) / 0.13) ** 1.6 * (self.h - self.top) * 0.72
            columns.append((x - wide, wide, self.top + drop + float(rng.uniform(0, 0.016))))
            x -= wide
        for left, wide, top in reversed(columns):
            lit = mix(rock, self.look.haze, 0.2 + 0.12 * float(rng.random()))
            c.gradient(left, top, left + wide + 0.002, self.h, [lit, darker(rock, 0.25), darker(rock, 0.6)])
            c.rect(left, top, left + wide * 0.3, self.h, darker(rock, 0.6), 0.55)
            c.poly(
                [(left, top), (left + wide, top), (left + wide * 0.8, top - 0.009), (left + wide * 0.2, top - 0.009)],
                lighter(rock, 0.35),
            )
            for _ in range(3):
                y = top + float(rng.random()) * (self.h - top)
                c.line([(left, y), (left + wide, y + 0.006)], darker(rock, 0.7), 0.003, 0.6)
        c.blob(
            [
                (-0.1, self.top + 0.05),
                (-0.1, self.top - 0.03),
                (self.x, self.top - 0.022),
                (self.edge - 0.13, self.top - 0.004),
                (self.edge - 0.15, self.top + 0.03),
            ],
            self.look.tone((86, 108, 70)),
        )

    def _tower(self, c: Canvas) -> None:
        v = c.at(self.x, self.top, self.size)
        white, shade = self.look.tone((244, 240, 230), 0.1), self.look.tone((150, 152, 162))
        body: list[Point] = [(-0.14, 0.04), (-0.085, -0.76), (0.085, -0.76), (0.14, 0.04)]
        paint = self.look.tone(self.paint)
        with v.clipped(body) as b:
            b.gradient(-0.14, -0.8, 0.14, 0.04, [shade, white, white, darker(shade, 0.25)], across=True)
            if self.banded:
                for k in range(3):
                    y = -0.1 - 0.25 * k
                    b.gradient(
                        -0.14, y - 0.13, 0.14, y, [darker(paint, 0.35), paint, paint, darker(paint, 0.5)], across=True
                    )
        for k in range(3):
            v.rect(0.0, -0.62 + 0.2 * k, 0.035, -0.56 + 0.2 * k, (40, 40, 48))
        v.rect(-0.03, -0.09, 0.03, 0.04, (62, 44, 38))
        iron: RGB = (34, 36, 42)
        v.rect(-0.125, -0.79, 0.125, -0.755, iron)
        v.rect(-0.07, -0.93, 0.07, -0.79, (255, 236, 160))
        for x in (-0.07, -0.025, 0.025, 0.07):
            v.line([(x, -0.93), (x, -0.79)], iron, 0.01)
        for k in range(9):
            v.line([(-0.12 + 0.03 * k, -0.84), (-0.12 + 0.03 * k, -0.79)], iron, 0.006)
        v.line([(-0.12, -0.84), (0.12, -0.84)], iron, 0.008)
        v.poly([(-0.09, -0.93), (0.09, -0.93), (0.04, -1.0), (0, -1.03), (-0.04, -1.0)], paint)
        v.line([(0, -1.03), (0, -1.1)], iron, 0.01)
        hut = c.at(self.x - self.size * 0.28, self.top + 0.005, self.size)
        hut.rect(-0.12, -0.16, 0.14, 0.04, white)
        hut.poly([(-0.15, -0.15), (-0.08, -0.26), (0.1, -0.26), (0.16, -0.15)], paint)
        hut.rect(-0.06, -0.1, -0.01, -0.04, (255, 214, 120))

    def _beam(self, c: Canvas) -> None:
        y = self.top - 0.86 * self.size
        strength = 0.42 if self.look.dark or self.weather("storm") else 0.2
        for turn, reach in ((self.beam_turn, self.w * 1.2), (math.pi + self.beam_turn, self.w)):
            for spread, share in ((0.13, 0.35), (0.08, 0.4), (0.035, 0.6)):
                ends = [
                    (self.x + reach * math.cos(turn + s), y + reach * math.sin(turn + s)) for s in (-spread, spread)
                ]
                c.poly([(self.x, y), *ends], (255, 240, 190), strength * share)
        c.glow(self.x, y, 0.3, (255, 232, 160), 0.9)
        c.oval(self.x, y, 0.022, color=(255, 252, 232))

    def _surf(self, c: Canvas) -> None:
        rng = self.rand("surf")
        foam = lighter(self.look.tone((226, 236, 236)), 0.3)
        for _ in range(4):
            x = self.edge + float(rng.uniform(-0.16, 0.04))
            spray(
                c,
                rng,
                x,
                self.h * float(rng.uniform(0.9, 0.98)),
                float(rng.uniform(0.12, 0.24)) * (0.5 + self.rough),
                foam,
                110,
            )
        waves = round(3 + 4 * self.rough)
        for k in range(waves):
            t = (k + 1) / waves
            y = self.horizon + (self.h - self.horizon) * (0.25 + 0.72 * t)
            x = float(rng.uniform(self.edge - 0.1, self.w))
            tall, wide = (0.03 + 0.07 * t) * (0.4 + self.rough), 0.14 + 0.2 * t
            body = self.look.tone((30, 92, 104))
            crest = [
                (x - wide, y + 0.02),
                (x - wide * 0.4, y - tall * 0.5),
                (x, y - tall),
                (x + wide * 0.3, y - tall * 0.6),
                (x + wide, y + 0.02),
            ]
            c.blob([*crest, (x, y + 0.05)], body, 0.9)
            c.stroke(
                [(x - wide * 0.5, y - tall * 0.45), (x - wide * 0.1, y - tall), (x + wide * 0.35, y - tall * 0.5)],
                foam,
                0.024 * (0.5 + t),
                0.9,
                swell=True,
            )
            for _ in range(16):
                c.oval(
                    x + float(rng.normal()) * wide * 0.3,
                    y - tall * float(rng.uniform(0.2, 1.2)),
                    0.003 + 0.007 * float(rng.random()),
                    color=foam,
                    alpha=0.7,
                )
