"""A narrow street between tiled facades, tram rails running up it."""

from __future__ import annotations

import math

import numpy as np

from ..canvas import RGB, Canvas, darker, lighter, mix
from .base import Layer, Scene
from .kit import falling, person, sky

_FACADES: tuple[RGB, ...] = (
    (232, 186, 84),
    (96, 152, 186),
    (220, 138, 112),
    (238, 226, 200),
    (126, 174, 146),
    (206, 100, 84),
)


class Street(Scene):
    """One-point perspective: houses with azulejos and balconies, washing lines, rails, a yellow tram, wet stones."""

    name = "street"

    def compose(self, rng: np.random.Generator) -> None:
        self.vx, self.vy = self.w * float(rng.uniform(0.38, 0.62)), self.h * float(rng.uniform(0.42, 0.58))
        self.wide = self.w * float(rng.uniform(0.2, 0.3))
        self.wet = self.weather("rain") or self.reading.has("rain", "wet", "puddle")
        self.tram = self.reading.has("tram") or bool(rng.random() < 0.5)
        self.tram_at = float(rng.uniform(0.3, 0.5))
        self.order = [int(k) for k in rng.permutation(len(_FACADES))]

    def layers(self) -> list[Layer]:
        return [
            Layer("sky", lambda c: sky(c, self, self.vy, cloudy=0.5, sun=(self.vx, self.vy * 0.6)), 0.0, "drift"),
            Layer("far", self._far, 0.1),
            Layer("left", lambda c: self._side(c, -1), 0.4),
            Layer("right", lambda c: self._side(c, 1), 0.4),
            Layer("ground", self._ground, 0.5),
            Layer("tram", self._tram, 0.6),
            Layer("people", self._people, 0.7),
            Layer("washing", self._washing, 0.8, "sway"),
            # The rain of "after rain" has fallen: it is on the stones, not in the air.
            *([] if self.reading.has("after") else falling(self)),
        ]

    def _at(self, x: float, y: float, depth: float) -> tuple[float, float]:
        """A point of the near plane seen at a depth: 0 near, 1 at the vanishing point."""
        return x + (self.vx - x) * depth, y + (self.vy - y) * depth

    def _far(self, c: Canvas) -> None:
        tone = self.look.far((206, 168, 140), 0.5)
        for k in range(5):
            x = self.vx + (k - 2) * 0.05
            top = self.vy - 0.12 - 0.03 * ((k * 7) % 3)
            c.rect(x - 0.03, top, x + 0.03, self.vy + 0.05, mix(tone, self.look.tone(_FACADES[k]), 0.3))
            c.poly([(x - 0.035, top), (x, top - 0.025), (x + 0.035, top)], self.look.far((176, 88, 64), 0.35))

    def _side(self, c: Canvas, side: int) -> None:
        edge = self.w + 0.02 if side > 0 else -0.02
        depths = [0.0, 0.3, 0.5, 0.64, 0.75, 0.84]
        for i in range(len(depths) - 2, -1, -1):
            self._house(c, side, edge, depths[i], depths[i + 1], _FACADES[self.order[(i * 2 + (side > 0)) % 6]], i)

    def _house(self, c: Canvas, side: int, edge: float, near: float, far: float, paint: RGB, i: int) -> None:
        """One facade between two depths: tiles below, windows with shutters and balconies above, a cornice."""
        rng, away = self.rand("house", side, i), 0.06 + 0.3 * near
        wall = self.look.far(paint, away)
        if side < 0:
            wall = darker(wall, 0.16)
        top = -self.h * 0.32 - 0.14 * float(rng.random())
        base = self.h * 1.04

        def quad(u0: float, u1: float, v0: float, v1: float, color: RGB, alpha: float = 1.0) -> None:
            d0, d1 = near + (far - near) * u0, near + (far - near) * u1
            y0, y1 = top + (base - top) * v0, top + (base - top) * v1
            c.poly(
                [self._at(edge, y0, d0), self._at(edge, y0, d1), self._at(edge, y1, d1), self._at(edge, y1, d0)],
                color,
                alpha,
            )

        quad(0, 1, 0, 1, wall)
        tile = self.look.far(((54, 104, 168), (62, 138, 120), (182, 138, 58))[i % 3], away)
        cells = 12
        for row in range(20):
            for k in range(cells):
                if (row + k) % 2 == 0:
                    quad(
                        k / cells,
                        (k + 1) / cells,
                        0.55 + row * 0.0225,
                        0.55 + (row + 1) * 0.0225,
                        lighter(tile, 0.55) if row % 4 == 0 else tile,
                        0.55,
                    )
        quad(0, 1, 0.0, 0.03, self.look.far((182, 92, 66), away))
        quad(0, 1, 0.53, 0.55, lighter(wall, 0.45))
        for floor in range(3):
            for k in range(2):
                u, v = 0.14 + 0.44 * k, 0.08 + 0.155 * floor
                lit = rng.random() < (0.7 if self.look.dark else 0.2)
                quad(u - 0.03, u + 0.3, v - 0.008, v + 0.118, lighter(wall, 0.6))
                quad(u, u + 0.27, v, v + 0.11, (255, 206, 116) if lit else self.look.far((48, 66, 86), away))
                quad(u, u + 0.08, v, v + 0.11, self.look.far((44, 92, 74), away))
                quad(u + 0.19, u + 0.27, v, v + 0.11, self.look.far((44, 92, 74), away))
                quad(u - 0.06, u + 0.33, v + 0.11, v + 0.12, (40, 40, 46))
                for bar in range(8):
                    quad(u - 0.05 + 0.048 * bar, u - 0.04 + 0.048 * bar, v + 0.07, v + 0.11, (40, 40, 46), 0.9)
        quad(0.32, 0.66, 0.68, 0.99, self.look.far((70, 46, 40), away))
        quad(
            0.36,
            0.62,
            0.71,
            0.99,
            self.look.far(((40, 88, 84), (120, 44, 40), (46, 66, 110))[(i + (side > 0)) % 3], away),
        )

    def _ground(self, c: Canvas) -> None:
        rng, look = self.rand("ground"), self.look
        stone = look.tone((118, 114, 116))
        left, right = self._at(-0.02, self.h * 1.04, 0), self._at(self.w + 0.02, self.h * 1.04, 0)
        road = [
            (left[0], self.h * 1.04),
            self._at(-0.02, self.h * 1.04, 0.86),
            self._at(self.w + 0.02, self.h * 1.04, 0.86),
            (right[0], self.h * 1.04),
        ]
        if self.wet:
            with c.clipped(road) as v:
                v.gradient(
                    0,
                    self.vy,
                    self.w,
                    self.h,
                    [mix(look.sky[-1], stone, 0.3), mix(look.sky[1], stone, 0.45), darker(stone, 0.35)],
                )
                for side in (-1, 1):
                    for i in range(5):
                        x = self.vx + side * (self.w * 0.5) * (0.35 + 0.14 * i)
                        v.gradient(
                            x - 0.03,
                            self.vy,
                            x + 0.05,
                            self.h,
                            [look.tone(_FACADES[self.order[(2 * i + (side > 0)) % 6]]), stone],
                            alpha=0.4,
                            fade=True,
                        )
                v.glow(self.vx, self.vy + 0.1, 0.5, look.light, 0.6)
        else:
            c.poly(road, stone)
        rows = 26
        for r in range(1, rows):
            depth = 1 - 1 / (1 + 0.3 * (rows - r))
            y = self._at(0, self.h * 1.04, depth)[1]
            a, b = self._at(-0.02, self.h * 1.04, depth)[0], self._at(self.w + 0.02, self.h * 1.04, depth)[0]
            c.line([(a, y), (b, y)], darker(stone, 0.4), 0.003 * (1.3 - depth), 0.45)
            for _ in range(8):
                x = a + (b - a) * float(rng.random())
                c.stroke(
                    [(x, y), (x + 0.05 * (1.1 - depth), y)],
                    lighter(stone, 0.5),
                    0.005 * (1.2 - depth),
                    0.5 if self.wet else 0.25,
                    swell=True,
                )
        middle = self.w * 0.5
        for offset in (-self.wide * 0.62, self.wide * 0.62):
            for x, color, width in ((offset, (28, 28, 34), 0.034), (offset + 0.004, lighter(look.light, 0.1), 0.014)):
                near, far = self._at(middle + x, self.h * 1.04, 0), self._at(middle + x, self.h * 1.04, 0.86)
                c.stroke([near, far], color, width, end=0.12, curve=False)
        for side in (0, 1):
            near, far = (
                self._at(-0.02 if side == 0 else self.w + 0.02, self.h * 1.04, 0),
                self._at(self.w * (0.16 if side == 0 else 0.84), self.h * 1.04, 0),
            )
            c.poly([near, far, (self.vx, self.vy), (self.vx, self.vy)], lighter(stone, 0.22), 0.55)

    def _tram(self, c: Canvas) -> None:
        if not self.tram:
            return
        x, base = self._at(self.w * 0.5, self.h * 1.04, self.tram_at + 0.2)
        s = self.wide * 2.1 * (1 - self.tram_at - 0.2)
        v = c.at(x, base, s)
        yellow = self.look.tone((250, 200, 40), 0.05)
        v.oval(0, 0.02, 0.5, 0.06, (16, 16, 20), 0.6)
        v.rect(-0.42, -0.2, 0.42, 0.0, darker(yellow, 0.65))
        v.blob(
            [(-0.44, -0.1), (-0.45, -0.62), (-0.42, -1.12), (0, -1.16), (0.42, -1.12), (0.45, -0.62), (0.44, -0.1)],
            yellow,
        )
        v.poly([(-0.44, -1.08), (0.44, -1.08), (0.36, -1.2), (-0.36, -1.2)], (236, 230, 214))
        for x0, x1 in ((-0.38, -0.16), (-0.12, 0.12), (0.16, 0.38)):
            v.rect(x0, -0.98, x1, -0.58, (255, 226, 150) if self.look.dark or self.wet else (90, 116, 132))
            v.line([(x0, -0.98), (x1, -0.98), (x1, -0.58), (x0, -0.58), (x0, -0.98)], (60, 46, 36), 0.02)
        v.rect(-0.44, -0.5, 0.44, -0.44, (240, 232, 214))
        v.rect(-0.16, -1.1, 0.16, -1.0, (30, 30, 34))
        v.oval(0, -0.3, 0.085, color=(255, 250, 220))
        v.glow(0, -0.3, 0.5, (255, 230, 160), 0.7)
        v.line([(0, -1.2), (0.04, -1.7)], (40, 40, 46), 0.02)
        if self.wet:
            v.gradient(-0.3, 0.02, 0.3, 0.7, [yellow, darker(yellow, 0.4)], alpha=0.4, fade=True)

    def _people(self, c: Canvas) -> None:
        rng = self.rand("people")
        for k in range(2):
            depth = float(rng.uniform(0.3, 0.55))
            x, base = self._at(self.w * (0.16 if k else 0.86), self.h * 1.04, depth)
            person(
                c,
                x,
                base,
                0.42 * (1 - depth),
                self.look.tone(((70, 52, 60), (150, 60, 52))[k]),
                umbrella=self.look.tone((176, 44, 50)) if self.wet and k else None,
            )

    def _washing(self, c: Canvas) -> None:
        rng = self.rand("washing")
        wire = (38, 38, 44)
        c.stroke(
            [self._at(self.w * 0.5, -self.h * 0.1, 0), (self.vx, self.vy - 0.05)],
            wire,
            0.006,
            0.9,
            end=0.2,
            curve=False,
        )
        for depth in (0.5, 0.22):
            y = self._at(0, self.h * 0.02, depth)[1]
            a, b = self._at(0, 0, depth)[0], self._at(self.w, 0, depth)[0]
            dip = 0.05 * (1 - depth)
            line = [(a + (b - a) * k / 12, y + dip * math.sin(math.pi * k / 12)) for k in range(13)]
            c.line(line, wire, 0.003)
            for k in range(2, 11, 2):
                cx, cy = line[k]
                wide, long = 0.07 * (1 - depth), (0.08 + 0.06 * float(rng.random())) * (1 - depth)
                color = self.look.tone(
                    ((246, 244, 238), (206, 74, 66), (86, 132, 178), (240, 200, 104))[int(rng.integers(4))]
                )
                c.poly(
                    [
                        (cx - wide / 2, cy),
                        (cx + wide / 2, cy),
                        (cx + wide * 0.45, cy + long),
                        (cx - wide * 0.4, cy + long * 0.95),
                    ],
                    color,
                )
