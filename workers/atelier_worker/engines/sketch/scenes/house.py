"""A house in the country: a cottage, a barn or a windmill among fields."""

from __future__ import annotations

import math

import numpy as np

from ..canvas import RGB, Canvas, darker, lighter, mix
from .base import Layer, Scene
from .kit import falling, flock, hill, ridge, sky, window
from .plants import grasses, leafy, tree


class House(Scene):
    """Rolling fields, a fence and a path, a great tree, the building with smoke from its chimney."""

    name = "house"

    def compose(self, rng: np.random.Generator) -> None:
        self.horizon = self.h * float(rng.uniform(0.48, 0.66))
        self.x = self.w * float(rng.uniform(0.32, 0.66))
        self.size = float(rng.uniform(0.36, 0.52))
        self.base = self.horizon + float(rng.uniform(0.12, 0.2))
        self.mill = self.reading.has("windmill", "mill")
        self.barn = self.reading.has("barn", "farm", "farmhouse")
        self.turn = float(rng.uniform(0, 1.5))
        self.tree_x = self.w * (0.12 if self.x > self.w * 0.5 else 0.88)
        self.sun = self.w * float(rng.uniform(0.1, 0.9)), self.horizon * float(rng.uniform(0.2, 0.6))
        self.wall: RGB = self.accent(
            (168, 52, 44) if self.barn else ((240, 232, 214), (222, 178, 128), (196, 206, 204))[int(rng.integers(3))]
        )

    def layers(self) -> list[Layer]:
        layers = [
            Layer("sky", self._sky, 0.0, "drift"),
            Layer("fields", self._fields, 0.2),
            Layer("house", self._mill if self.mill else self._house, 0.5),
        ]
        if self.mill:
            layers.append(Layer("sails", self._sails, 0.5, "turn", (self.x, self.base - self.size * 0.95)))
        return [
            *layers,
            Layer("tree", self._tree, 0.7, "sway"),
            Layer("fence", self._fence, 0.8),
            Layer("flowers", self._flowers, 0.95, "sway"),
            *falling(self),
        ]

    def _sky(self, c: Canvas) -> None:
        sky(c, self, self.horizon, cloudy=0.55, sun=self.sun)
        flock(c, self.rand("birds"), self.w * 0.6, self.h * 0.2, 0.08, 6, darker(self.look.haze, 0.5))

    def _fields(self, c: Canvas) -> None:
        rng, look = self.rand("fields"), self.look
        snow = self.weather("snow")
        paints: list[RGB] = (
            [(236, 240, 246)] * 4 if snow else [(150, 170, 96), (206, 186, 96), (112, 150, 78), (92, 138, 66)]
        )
        for i, paint in enumerate(paints):
            y = self.horizon + (self.h - self.horizon) * (0.0, 0.1, 0.24, 0.5)[i]
            skyline = ridge(rng, -0.1, self.w + 0.1, y + 0.03, 0.09 - 0.012 * i, rough=0.35)
            color = look.far(darker(paint, 0.06 * i), 0.4 - 0.12 * i)
            hill(c, skyline, self.h + 0.1, color, darker(color, 0.25))
            for k in range(12 if i in (1, 3) and not snow else 0):
                x = self.w * k / 11
                c.stroke(
                    [(x, y + 0.05), (x + (x - self.w / 2) * 0.8, self.h)], darker(color, 0.2), 0.004 + 0.006 * i, 0.5
                )
        path = [(self.x + 0.02, self.base), (self.x + 0.1, self.base + 0.12), (self.x - 0.05, self.h + 0.1)]
        c.stroke(path[::-1], look.tone((222, 200, 160) if not snow else (214, 220, 230)), 0.22, end=0.25)

    def _house(self, c: Canvas) -> None:
        v = c.at(self.x, self.base, self.size)
        wall, roof = self.look.tone(self.wall, 0.03), self.look.tone((76, 66, 72) if self.barn else (166, 84, 62))
        if self.weather("snow"):
            roof = self.look.tone((244, 247, 252))
        v.oval(0.1, 0.02, 0.75, 0.05, (20, 30, 20), 0.35)
        v.rect(-0.55, -0.45, 0.25, 0.02, wall)
        v.poly([(0.25, 0.02), (0.25, -0.45), (0.43, -0.78), (0.62, -0.45), (0.62, 0.02)], darker(wall, 0.2))
        v.poly([(-0.62, -0.42), (-0.42, -0.82), (0.44, -0.82), (0.22, -0.42)], roof)
        v.poly(
            [(0.44, -0.84), (0.2, -0.42), (0.26, -0.42), (0.44, -0.75), (0.62, -0.42), (0.68, -0.42)], darker(roof, 0.3)
        )
        for row in range(6):
            y = -0.42 - 0.066 * row
            v.line([(-0.62 + 0.033 * row, y), (0.22 + 0.036 * row, y)], darker(roof, 0.25), 0.01, 0.7)
        v.rect(-0.36, -1.0, -0.24, -0.7, self.look.tone((150, 96, 80)))
        v.rect(-0.38, -1.02, -0.22, -0.97, self.look.tone((120, 76, 66)))
        for k in range(6):
            v.oval(
                -0.28 + 0.05 * k + 0.02 * math.sin(k * 2),
                -1.1 - 0.09 * k,
                0.045 + 0.022 * k,
                color=lighter(self.look.haze, 0.4),
                alpha=0.4 - 0.055 * k,
            )
        lit = (255, 210, 120) if self.look.dark or self.weather("snow") else None
        for x in (-0.48, 0.02):
            window(v, x, -0.33, x + 0.14, -0.15, glass=self.look.tone((90, 120, 140)), frame=(246, 240, 228), lit=lit)
        window(v, 0.38, -0.5, 0.49, -0.36, glass=self.look.tone((90, 120, 140)), frame=(246, 240, 228), lit=lit)
        door = self.look.tone((60, 96, 104) if not self.barn else (240, 234, 222))
        v.rect(-0.25, -0.32, -0.08, 0.02, door)
        v.rect(-0.23, -0.3, -0.1, 0.02, darker(door, 0.2))
        if self.barn:
            v.line([(-0.25, -0.32), (-0.08, 0.02)], lighter(door, 0.2), 0.02)
            v.line([(-0.08, -0.32), (-0.25, 0.02)], lighter(door, 0.2), 0.02)
        rng = self.rand("ivy")
        leafy(v, rng, 0.44, -0.06, 0.16, 0.08, self.look.tone((84, 130, 70)), count=40, size=0.04)
        leafy(v, rng, -0.52, -0.05, 0.12, 0.07, self.look.tone((96, 136, 74)), count=30, size=0.04)

    def _mill(self, c: Canvas) -> None:
        v = c.at(self.x, self.base, self.size * 1.25)
        wall = self.look.tone(self.wall)
        v.oval(0, 0.02, 0.4, 0.04, (20, 30, 20), 0.35)
        with v.clipped([(-0.28, 0.02), (-0.17, -0.72), (0.17, -0.72), (0.28, 0.02)]) as b:
            b.gradient(-0.3, -0.8, 0.3, 0.05, [lighter(wall, 0.2), wall, darker(wall, 0.45)], across=True)
        v.blob([(-0.2, -0.7), (-0.17, -0.84), (0, -0.92), (0.17, -0.84), (0.2, -0.7)], self.look.tone((110, 70, 56)))
        v.rect(-0.07, -0.18, 0.07, 0.02, self.look.tone((80, 56, 44)))
        for y in (-0.36, -0.56):
            window(
                v,
                -0.05,
                y,
                0.05,
                y + 0.1,
                glass=self.look.tone((80, 104, 120)),
                frame=(240, 236, 226),
                lit=(255, 210, 120) if self.look.dark else None,
            )

    def _sails(self, c: Canvas) -> None:
        for k in range(4):
            s = c.at(self.x, self.base - self.size * 0.95, self.size * 1.0, turn=self.turn + k * math.pi / 2)
            s.line([(0, 0), (0, -0.86)], (84, 62, 48), 0.03)
            s.poly([(0.015, -0.16), (0.2, -0.18), (0.2, -0.84), (0.015, -0.84)], self.look.tone((246, 240, 226)), 0.9)
            for row in range(6):
                s.line([(0, -0.18 - 0.13 * row), (0.2, -0.18 - 0.13 * row)], (120, 90, 66), 0.012)
            s.line([(0.2, -0.18), (0.2, -0.84)], (120, 90, 66), 0.012)
        c.oval(self.x, self.base - self.size * 0.95, 0.02, color=(70, 52, 44))

    def _tree(self, c: Canvas) -> None:
        leaf: RGB = (206, 130, 52) if self.reading.has("autumn", "fall") else (86, 132, 70)
        tree(
            c,
            self.rand("tree"),
            self.tree_x,
            self.base + 0.14,
            0.62,
            self.look.tone(leaf),
            self.look.tone((84, 64, 52)),
        )

    def _fence(self, c: Canvas) -> None:
        wood = self.look.tone((232, 224, 208))
        y = self.h * 0.88
        for k in range(round(self.w / 0.09) + 2):
            x = k * 0.09
            if abs(x - self.x) > 0.13:
                c.poly(
                    [
                        (x, y + 0.06),
                        (x, y - 0.05),
                        (x + 0.014, y - 0.065),
                        (x + 0.028, y - 0.05),
                        (x + 0.028, y + 0.06),
                    ],
                    wood,
                )
        for dy in (-0.025, 0.02):
            for x0, x1 in ((-0.1, self.x - 0.12), (self.x + 0.14, self.w + 0.1)):
                c.rect(x0, y + dy, x1, y + dy + 0.014, mix(wood, darker(wood, 0.3), 0.4))

    def _flowers(self, c: Canvas) -> None:
        rng = self.rand("flowers")
        if self.weather("snow"):
            return
        grasses(c, rng, self.h * 1.02, 0.09, self.look.tone((92, 138, 66)), 120)
        for _ in range(46):
            x, y = float(rng.uniform(0, self.w)), self.h * float(rng.uniform(0.92, 1.0))
            c.oval(
                x,
                y,
                0.011,
                color=self.look.tone(
                    ((226, 70, 60), (250, 210, 80), (240, 240, 246), (160, 110, 190))[int(rng.integers(4))]
                ),
            )
