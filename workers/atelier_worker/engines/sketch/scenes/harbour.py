"""A harbour: a quay of houses, boats at their moorings, lights on the water."""

from __future__ import annotations

import numpy as np

from ..canvas import RGB, Canvas, darker, lighter, mix
from .base import Layer, Scene
from .kit import falling, flock, ridge, sky, window


class Harbour(Scene):
    """Gabled houses on a quay mirrored in still water, fishing boats with masts, a lamp-lit pier in front."""

    name = "harbour"

    def compose(self, rng: np.random.Generator) -> None:
        self.line = self.h * float(rng.uniform(0.46, 0.62))
        self.lit = self.hour() in ("night", "dusk")
        self.moon = self.w * float(rng.uniform(0.15, 0.85)), self.line * float(rng.uniform(0.16, 0.34))
        self.boats = [
            (self.w * (0.2 + 0.3 * k + float(rng.uniform(-0.09, 0.09))), float(rng.uniform(0.16, 0.3)))
            for k in range(3)
        ]
        self.great = float(rng.uniform(0.3, 0.72)) * self.w
        self.tower = float(rng.uniform(0.1, 0.9))
        self.gap = float(rng.uniform(0.2, 0.8)), float(rng.uniform(0.1, 0.3))

    def layers(self) -> list[Layer]:
        return [
            Layer("sky", self._sky, 0.0, "drift"),
            Layer("hills", self._hills, 0.1),
            Layer("houses", self._houses, 0.3),
            Layer("far boats", self._far_boats, 0.4, "bob"),
            Layer("water", self._water, 0.5, "water"),
            Layer("lights", self._lights, 0.55, "flicker"),
            Layer("boat", self._great_boat, 0.7, "bob"),
            Layer("pier", self._pier, 0.9),
            *falling(self),
        ]

    def _sky(self, c: Canvas) -> None:
        sky(c, self, self.line, cloudy=0.45, sun=self.moon)
        if not self.lit:
            flock(c, self.rand("gulls"), self.w * 0.4, self.line * 0.35, 0.1, 8, (250, 250, 250), 0.022)

    def _hills(self, c: Canvas) -> None:
        rng = self.rand("hills")
        skyline = ridge(rng, -0.1, self.w + 0.1, self.line, 0.24, rough=0.4)
        c.poly([*skyline, (self.w + 0.1, self.line), (-0.1, self.line)], self.look.far((60, 84, 92), 0.42))
        if self.lit:
            for _ in range(50):
                x, y = skyline[int(rng.integers(len(skyline)))]
                y += (self.line - y) * float(rng.uniform(0.2, 1))
                c.oval(x, y, 0.003, color=(255, 214, 140), alpha=0.9)

    def _houses(self, c: Canvas) -> None:
        rng = self.rand("houses")
        x = -0.04
        while x < self.w + 0.02:
            wide, tall = float(rng.uniform(0.085, 0.15)), float(rng.uniform(0.14, 0.27))
            if abs(x / self.w - self.gap[0]) < self.gap[1] / 2:
                tall *= 0.45
            paint = ((196, 74, 60), (226, 176, 82), (230, 222, 204), (84, 124, 148), (140, 156, 110), (206, 128, 96))[
                int(rng.integers(6))
            ]
            wall = self.look.far(paint, 0.1)
            top = self.line - tall
            c.rect(x, top, x + wide, self.line, wall)
            c.rect(x + wide * 0.86, top, x + wide, self.line, darker(wall, 0.25))
            c.poly(
                [(x - 0.008, top), (x + wide / 2, top - wide * 0.62), (x + wide + 0.008, top)],
                self.look.far((112, 62, 56), 0.12),
            )
            for row in range(max(1, int(tall / 0.07))):
                for k in range(2):
                    wx, wy = x + wide * (0.16 + 0.4 * k), top + 0.02 + row * 0.066
                    lit = (255, 206, 112) if self.lit and rng.random() < 0.65 else None
                    window(
                        c,
                        wx,
                        wy,
                        wx + wide * 0.22,
                        wy + 0.036,
                        glass=self.look.tone((70, 96, 116)),
                        frame=lighter(wall, 0.55),
                        lit=lit,
                    )
            x += wide
        tx = self.tower * self.w
        stone = self.look.far((196, 180, 160), 0.15)
        c.rect(tx - 0.035, self.line - 0.42, tx + 0.035, self.line, stone)
        c.poly(
            [(tx - 0.045, self.line - 0.42), (tx, self.line - 0.6), (tx + 0.045, self.line - 0.42)],
            self.look.far((70, 108, 100), 0.15),
        )
        c.oval(tx, self.line - 0.37, 0.022, color=(255, 236, 190) if self.lit else (240, 236, 226))
        c.rect(0, self.line - 0.012, self.w, self.line + 0.012, self.look.tone((92, 84, 82)))

    def _far_boats(self, c: Canvas) -> None:
        for k, (x, size) in enumerate(self.boats):
            hull = self.look.tone(((44, 92, 130), (190, 60, 50), (236, 230, 214))[k % 3])
            _boat(c.at(x, self.line + 0.01, size, flip=bool(k % 2)), hull, self.look.tone((240, 234, 220)), self.lit)

    def _water(self, c: Canvas) -> None:
        c.reflect(
            self.line + 0.012, tint=self.look.tone((36, 74, 104)), amount=0.66, ripple=0.016, rng=self.rand("ripples")
        )
        c.gradient(
            0, self.line + 0.012, self.w, self.h, [mix(self.look.sky[-1], (20, 40, 60), 0.5), (8, 18, 36)], alpha=0.28
        )

    def _lights(self, c: Canvas) -> None:
        if not self.lit:
            return
        rng = self.rand("lights")
        for k in range(9):
            x = self.w * (k + 0.5 + float(rng.uniform(-0.3, 0.3))) / 9
            c.line([(x, self.line), (x, self.line - 0.09)], (28, 28, 34), 0.005)
            color: RGB = (255, 206, 120) if rng.random() < 0.75 else (150, 220, 200)
            c.glow(x, self.line - 0.09, 0.15, color, 0.85)
            c.oval(x, self.line - 0.09, 0.009, color=(255, 246, 214))
            for step in range(18):
                y = self.line + 0.02 + (self.h - self.line) * 0.8 * (step / 18) ** 1.3
                wide = (0.012 + 0.03 * step / 18) * float(rng.uniform(0.4, 1.2))
                c.stroke(
                    [(x - wide + float(rng.normal()) * 0.008, y), (x + wide, y)],
                    color,
                    0.008,
                    0.75 - 0.035 * step,
                    swell=True,
                )

    def _great_boat(self, c: Canvas) -> None:
        y = self.line + (self.h - self.line) * 0.5
        hull = self.accent((176, 50, 46))
        c.oval(self.great, y + 0.03, 0.26, 0.035, (8, 14, 26), 0.5)
        _boat(c.at(self.great, y, 0.46), self.look.tone(hull, 0.05), self.look.tone((242, 236, 222), 0.05), self.lit)

    def _pier(self, c: Canvas) -> None:
        rng = self.rand("pier")
        wood = darker(self.look.tone((120, 88, 62)), 0.25)
        y = self.h * 0.93
        left = bool(rng.random() < 0.5)
        x0, x1 = (-0.05, self.w * 0.4) if left else (self.w * 0.62, self.w + 0.05)
        c.poly([(x0, y), (x1, y), (x1 + 0.03, self.h + 0.02), (x0, self.h + 0.02)], wood)
        for k in range(12):
            x = x0 + (x1 - x0) * k / 11
            c.line([(x, y), (x, self.h)], darker(wood, 0.5), 0.005)
        for x in (x0 + 0.12, x1 - 0.04):
            c.rect(x - 0.018, y - 0.1, x + 0.018, y + 0.05, darker(wood, 0.3))
            c.oval(x, y - 0.1, 0.021, 0.009, lighter(wood, 0.2))
        c.stroke(
            [
                (x1 - 0.04, y - 0.07),
                ((x1 + self.great) / 2, y - 0.03),
                (self.great, self.line + (self.h - self.line) * 0.5),
            ],
            (180, 160, 130),
            0.006,
            end=0.7,
        )
        lamp = x0 + 0.2 if left else x1 - 0.2
        c.line([(lamp, y + 0.02), (lamp, y - 0.34)], (22, 22, 28), 0.012)
        c.poly(
            [(lamp - 0.03, y - 0.34), (lamp + 0.03, y - 0.34), (lamp + 0.02, y - 0.4), (lamp - 0.02, y - 0.4)],
            (255, 226, 150),
        )
        c.poly([(lamp - 0.036, y - 0.4), (lamp + 0.036, y - 0.4), (lamp, y - 0.44)], (22, 22, 28))
        if self.lit:
            c.glow(lamp, y - 0.37, 0.34, (255, 200, 110), 0.85)


def _boat(v: Canvas, hull: RGB, cabin: RGB, lit: bool) -> None:
    """A fishing boat about 1 wide, its water line at y = 0, its bow to the right."""
    v.line([(-0.05, -0.2), (-0.05, -0.95)], (70, 52, 42), 0.022)
    v.line([(-0.05, -0.88), (0.5, -0.22)], (60, 54, 54), 0.007)
    v.line([(-0.05, -0.88), (-0.46, -0.2)], (60, 54, 54), 0.007)
    v.stroke([(-0.05, -0.42), (-0.4, -0.66)], (70, 52, 42), 0.02, end=0.6, curve=False)
    v.poly([(-0.5, -0.22), (-0.44, 0.04), (0.36, 0.04), (0.56, -0.3), (0.3, -0.2)], hull)
    v.poly(
        [(-0.5, -0.22), (-0.49, -0.17), (0.31, -0.15), (0.54, -0.25), (0.56, -0.3), (0.3, -0.2)], lighter(hull, 0.55)
    )
    v.poly([(-0.45, 0.0), (-0.44, 0.04), (0.36, 0.04), (0.385, 0.0)], darker(hull, 0.6))
    v.rect(-0.34, -0.44, -0.1, -0.2, cabin)
    v.rect(-0.37, -0.47, -0.07, -0.43, darker(hull, 0.3))
    for x in (-0.31, -0.2):
        v.rect(x, -0.39, x + 0.075, -0.29, (255, 216, 130) if lit else (70, 96, 116))
    for k in range(3):
        v.ring(0.0 + 0.13 * k, -0.1, 0.035, 0.016, (34, 34, 40))
    if lit:
        v.glow(-0.22, -0.34, 0.3, (255, 206, 120), 0.6)
        v.glow(-0.05, -0.95, 0.14, (255, 240, 200), 0.8)
