"""A market: a covered souk with hung fabrics, spices, lamps and an arch into the evening light."""

from __future__ import annotations

import math

import numpy as np

from ..canvas import RGB, Canvas, darker, lighter, mix
from .base import Layer
from .kit import person
from .receding import Receding

_CLOTHS: tuple[RGB, ...] = (
    (196, 44, 58),
    (232, 150, 44),
    (30, 122, 132),
    (120, 56, 128),
    (222, 92, 110),
    (40, 84, 150),
    (240, 200, 92),
    (70, 130, 80),
)


class Market(Receding):
    """A lane of stalls that ends in a horseshoe arch, cloths across it, sunbeams down into it."""

    name = "market"
    closest = 0.4

    def compose(self, rng: np.random.Generator) -> None:
        self.vx, self.vy = self.w * float(rng.uniform(0.3, 0.7)), self.h * float(rng.uniform(0.42, 0.6))
        self.arch = float(rng.uniform(0.16, 0.28))
        self.cloths = [_CLOTHS[int(k)] for k in rng.permutation(len(_CLOTHS))]
        self.beams = float(rng.uniform(-0.5, 0.5))
        self.drop = float(rng.uniform(0.06, 0.2))
        self.shaded = int(rng.choice([-1, 1]))
        self.rows = [(0.6, 0.44, 0.24, 0.02)[int(k)] for k in sorted(rng.permutation(4)[: int(rng.integers(2, 5))])]
        self.wall: RGB = ((196, 132, 88), (206, 150, 110), (176, 112, 84))[int(rng.integers(3))]

    def layers(self) -> list[Layer]:
        return [
            Layer("far", self._far, 0.0),
            Layer("left", lambda c: self._side(c, -1), 0.4),
            Layer("right", lambda c: self._side(c, 1), 0.4),
            Layer("ground", self._ground, 0.45),
            Layer("canopy", self._canopy, 0.6, "sway"),
            Layer("people", self._people, 0.65),
            Layer("light", self._light, 0.7, "flicker"),
            Layer("spices", self._spices, 0.9),
            Layer("lamps", self._lamps, 0.9, "sway"),
        ]

    def _far(self, c: Canvas) -> None:
        look = self.look
        c.gradient(0, 0, self.w, self.h, [darker(look.sky[0], 0.1), look.sky[1], look.sky[-1], darker(self.wall, 0.2)])
        x, y, r = self.vx, self.vy, self.arch
        c.glow(x, y - 0.05, 0.6, look.light, 0.9)
        c.oval(x, y - 0.02, 0.075, color=lighter(look.light, 0.4))
        # A minaret and domes beyond the gate.
        far = look.far((150, 96, 84), 0.35)
        c.rect(x + r * 0.45, y - r * 1.05, x + r * 0.62, y + 0.1, far)
        c.poly([(x + r * 0.42, y - r * 1.05), (x + r * 0.535, y - r * 1.4), (x + r * 0.65, y - r * 1.05)], far)
        c.oval(x - r * 0.4, y - r * 0.1, r * 0.26, color=far)
        c.rect(x - r * 0.66, y - r * 0.1, x - r * 0.14, y + 0.1, far)
        wall = look.tone(darker(self.wall, 0.3))
        opening = [
            (x + r * math.cos(a), y - r * 0.35 + r * math.sin(a))
            for a in np.linspace(math.pi * 0.82, math.pi * 2.18, 34).tolist()
        ]
        opening = [(x - r * 0.82, y + 0.2), *opening, (x + r * 0.82, y + 0.2)]
        left, right, top = x - r * 2.4, x + r * 2.4, y - r * 2.6
        # The wall around the arch, as two halves that meet over its middle.
        middle = len(opening) // 2
        c.poly([(left, y + 0.2), (left, top), (x, top), *reversed(opening[: middle + 1])], wall)
        c.poly([(right, y + 0.2), (right, top), (x, top), *opening[middle:]], wall)
        c.line(opening, lighter(self.wall, 0.35), 0.016)
        for k in range(1, len(opening) - 1, 3):
            ox, oy = opening[k]
            c.line(
                [(ox, oy), (x + (ox - x) * 1.16, y - r * 0.35 + (oy - y + r * 0.35) * 1.16)], self.cloths[k % 3], 0.014
            )

    def _side(self, c: Canvas, side: int) -> None:
        edge = self.w + 0.03 if side > 0 else -0.03
        depths = [0.0, 0.32, 0.52, 0.66]
        for i in range(2, -1, -1):
            rng = self.rand("stall", side, i)
            near, far = depths[i], depths[i + 1]

            quad = self.side_wall(c, edge, near, far)

            wall = self.look.far(darker(self.wall, 0.45 if side == self.shaded else 0.05), 0.1 * i)
            quad(0, 1, -0.6, self.h * 1.08, wall)
            quad(0.06, 0.94, self.h * 0.16, self.h * 1.0, darker(wall, 0.6))
            for k in range(7):
                cloth = self.look.tone(self.cloths[(k * 3 + i + (side > 0) * 2) % 8], 0.06)
                u, y0 = 0.08 + 0.122 * k, self.h * 0.2
                y1 = self.h * float(rng.uniform(0.6, 0.78))
                quad(u, u + 0.105, y0, y1, cloth)
                quad(u + 0.02, u + 0.035, y0, y1, darker(cloth, 0.35), 0.8)
                quad(u + 0.07, u + 0.08, y0, y1, lighter(cloth, 0.3), 0.8)
                for band in range(3):
                    y = y0 + (y1 - y0) * (0.7 + 0.09 * band)
                    quad(u, u + 0.105, y, y + 0.012, lighter(cloth, 0.5))
            for k in range(4):
                pile = self.look.tone(self.cloths[(k + i * 2 + 3) % 8])
                for layer in range(4):
                    y = self.h * (0.98 - 0.05 * layer)
                    quad(
                        0.08 + 0.22 * k,
                        0.27 + 0.22 * k,
                        y - self.h * 0.045,
                        y,
                        self.look.tone(self.cloths[(k * 2 + layer + i) % 8]),
                    )
                quad(0.08 + 0.22 * k, 0.27 + 0.22 * k, self.h * 0.785, self.h * 0.79, lighter(pile, 0.3))
            inner = edge - side * 0.2
            awning = [
                self.at(edge, self.h * 0.02, near),
                self.at(inner, self.h * 0.16, near),
                self.at(inner, self.h * 0.16, far),
                self.at(edge, self.h * 0.02, far),
            ]
            base = self.look.tone(self.cloths[(i * 2 + (side > 0)) % 8])
            c.poly(awning, base)
            for k in range(0, 8, 2):
                d0, d1 = near + (far - near) * k / 8, near + (far - near) * (k + 1) / 8
                c.poly(
                    [
                        self.at(edge, self.h * 0.02, d0),
                        self.at(inner, self.h * 0.16, d0),
                        self.at(inner, self.h * 0.16, d1),
                        self.at(edge, self.h * 0.02, d1),
                    ],
                    lighter(base, 0.6),
                )

    def _ground(self, c: Canvas) -> None:
        rng = self.rand("ground")
        stone = self.look.tone((190, 146, 108))
        a, b = self.at(-0.03, self.h * 1.08, 0), self.at(self.w + 0.03, self.h * 1.08, 0)
        far_a, far_b = self.at(-0.03, self.h * 1.08, 0.66), self.at(self.w + 0.03, self.h * 1.08, 0.66)
        lane = [a, far_a, far_b, b]
        with c.clipped(lane) as v:
            v.gradient(0, far_a[1], self.w, self.h, [lighter(self.look.light, 0.1), stone, darker(stone, 0.4)])
            for _ in range(70):
                y = far_a[1] + (self.h - far_a[1]) * float(rng.random())
                x, t = float(rng.uniform(0, self.w)), (y - far_a[1]) / (self.h - far_a[1])
                v.stroke([(x, y), (x + 0.1 * (0.2 + t), y)], darker(stone, 0.35), 0.006, 0.5, swell=True)
            v.glow(self.vx, far_a[1] + 0.05, 0.4, self.look.light, 0.7)

    def _canopy(self, c: Canvas) -> None:
        """Cloths hung across the lane, sagging, lit through."""
        for i, depth in enumerate(self.rows):
            s = 1 - depth
            y = self.at(0, self.h * (0.04 + 0.02 * (i % 2)), depth)[1]
            left, right = self.at(self.w * 0.02, 0, depth)[0], self.at(self.w * 0.98, 0, depth)[0]
            cloth = self.look.tone(self.cloths[(i * 3 + 1) % 8], 0.12)
            sag = self.drop * s * 1.4
            rim = [
                (left + (right - left) * k / 16, y + sag * math.sin(math.pi * k / 16) + 0.012 * s * math.sin(k * 2.1))
                for k in range(17)
            ]
            back = [(x, yy - 0.12 * s) for x, yy in reversed(rim)]
            c.poly([*rim, *back], cloth, 0.96)
            for k in range(1, 16, 2):
                c.stroke([rim[k], (rim[k][0], rim[k][1] - 0.12 * s)], lighter(cloth, 0.35), 0.014 * s, 0.7, curve=False)
            c.line(rim, lighter(cloth, 0.5), 0.008 * s)
            for k in range(17):
                c.line([rim[k], (rim[k][0], rim[k][1] + 0.025 * s)], lighter(cloth, 0.2), 0.005 * s)

    def _people(self, c: Canvas) -> None:
        rng = self.rand("people")
        for k, depth in enumerate((0.62, 0.56, 0.44)):
            x, base = self.at(self.w * (0.24, 0.8, 0.3 if self.vx > self.w / 2 else 0.72)[k], self.h * 1.02, depth)
            robe = self.look.tone(((230, 220, 200), (70, 60, 90), (150, 70, 50), (60, 90, 96))[int(rng.integers(4))])
            tall = 0.56 * (1 - depth)
            person(c, x, base, tall, robe, away=True)
            c.blob(
                [
                    (x - 0.11 * tall, base - 0.78 * tall),
                    (x + 0.11 * tall, base - 0.78 * tall),
                    (x + 0.17 * tall, base),
                    (x - 0.17 * tall, base),
                ],
                robe,
            )

    def _light(self, c: Canvas) -> None:
        for k in range(4):
            x = self.vx + (k - 1.5) * 0.16
            c.poly(
                [
                    (x, 0.05),
                    (x + 0.05, 0.05),
                    (x + 0.14 + self.beams * 0.5, self.h),
                    (x - 0.02 + self.beams * 0.5, self.h),
                ],
                lighter(self.look.light, 0.2),
                0.1,
            )
        c.glow(self.vx, self.vy, 0.75, self.look.light, 0.5)

    def _spices(self, c: Canvas) -> None:
        for k, x in enumerate((0.06, 0.2, 0.8, 0.94)):
            px, y = x * self.w, self.h * (0.99 if k in (0, 3) else 0.93)
            heap: RGB = ((226, 120, 36), (186, 40, 34), (238, 190, 50), (120, 130, 50))[k]
            c.poly([(px - 0.1, y - 0.04), (px, y - 0.15), (px + 0.1, y - 0.04)], self.look.tone(heap, 0.1))
            c.poly([(px, y - 0.15), (px + 0.1, y - 0.04), (px + 0.02, y - 0.04)], darker(self.look.tone(heap), 0.25))
            c.poly(
                [(px - 0.115, y - 0.045), (px + 0.115, y - 0.045), (px + 0.085, y + 0.06), (px - 0.085, y + 0.06)],
                self.look.tone((150, 104, 62)),
            )
            for line in range(4):
                c.line(
                    [(px - 0.11, y - 0.03 + 0.022 * line), (px + 0.11, y - 0.03 + 0.022 * line)],
                    self.look.tone((96, 62, 38)),
                    0.005,
                )

    def _lamps(self, c: Canvas) -> None:
        """Pierced brass lamps on chains."""
        rng = self.rand("lamps")
        for k in range(3):
            x, y = self.w * (0.2 + 0.3 * k + float(rng.uniform(-0.06, 0.06))), self.h * float(rng.uniform(0.2, 0.32))
            c.line([(x, 0), (x, y - 0.05)], (60, 40, 30), 0.004)
            glass = self.cloths[k]
            c.glow(x, y, 0.17, (255, 190, 90), 0.8)
            c.blob(
                [
                    (x, y - 0.065),
                    (x - 0.03, y - 0.03),
                    (x - 0.042, y + 0.005),
                    (x, y + 0.06),
                    (x + 0.042, y + 0.005),
                    (x + 0.03, y - 0.03),
                ],
                (176, 120, 50),
            )
            for dx, dy in ((-0.018, 0), (0.018, 0), (0, -0.022), (0, 0.022)):
                c.oval(x + dx, y + dy, 0.011, 0.014, mix(glass, (255, 230, 160), 0.5))
