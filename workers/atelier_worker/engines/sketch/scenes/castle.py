"""A castle on a hill."""

from __future__ import annotations

import numpy as np

from ..canvas import Canvas, darker, lighter, mix
from .base import Layer, Scene
from .kit import falling, flock, hill, peak, ridge, sky
from .plants import conifer


class Castle(Scene):
    """Towers with pointed roofs and flags, a gate, a winding road; a dragon when the prompt has one."""

    name = "castle"

    def compose(self, rng: np.random.Generator) -> None:
        self.base = self.h * float(rng.uniform(0.56, 0.7))
        self.x = self.w * float(rng.uniform(0.34, 0.62))
        self.size = min(float(rng.uniform(0.42, 0.6)), self.base / 1.42)
        self.sun = self.w * float(rng.uniform(0.1, 0.9)), self.base * float(rng.uniform(0.25, 0.6))
        self.roof = self.accent(((70, 92, 140), (150, 60, 56), (60, 110, 104), (104, 70, 120))[int(rng.integers(4))])
        self.stone = ((196, 184, 172), (168, 166, 174), (206, 182, 150))[int(rng.integers(3))]
        self.towers = [
            (-0.5, 0.09, 0.5),
            (-0.28, 0.075, 0.66),
            (0.3, 0.08, 0.58),
            (0.52, 0.09, 0.42),
            (0.02, 0.13, float(rng.uniform(0.8, 0.95))),
        ]
        self.dragon = self.reading.has("dragon")

    def layers(self) -> list[Layer]:
        layers = [
            Layer("sky", self._sky, 0.0, "drift"),
            Layer("mountains", self._mountains, 0.15),
            Layer("hill", self._hill, 0.4),
            Layer("castle", self._castle, 0.5),
            Layer("trees", self._trees, 0.8),
        ]
        if self.dragon:
            layers.append(Layer("dragon", self._dragon, 0.7, "bob"))
        return [*layers, *falling(self)]

    def _sky(self, c: Canvas) -> None:
        sky(c, self, self.base + 0.1, cloudy=0.5, sun=self.sun)
        flock(c, self.rand("birds"), self.w * 0.25, self.h * 0.2, 0.07, 7, darker(self.look.haze, 0.55))

    def _mountains(self, c: Canvas) -> None:
        rng = self.rand("mountains")
        for k in range(4):
            rock = self.look.far((100, 110, 140), 0.55)
            peak(
                c,
                rng,
                self.w * (0.08 + 0.28 * k),
                self.base - float(rng.uniform(0.16, 0.36)),
                self.base + 0.1,
                float(rng.uniform(0.25, 0.4)),
                rock,
                darker(rock, 0.14),
                self.look.far((246, 248, 255), 0.3),
            )

    def _hill(self, c: Canvas) -> None:
        green = self.look.tone((96, 132, 74))
        c.blob(
            [
                (self.x - 0.95, self.h + 0.1),
                (self.x - 0.6, self.base + 0.14),
                (self.x - 0.3, self.base + 0.02),
                (self.x + 0.3, self.base + 0.02),
                (self.x + 0.62, self.base + 0.14),
                (self.x + 0.95, self.h + 0.1),
            ],
            green,
        )
        near = ridge(self.rand("near"), -0.1, self.w + 0.1, self.h * 0.9, 0.1, rough=0.4)
        hill(c, near, self.h + 0.1, darker(green, 0.15), darker(green, 0.5))
        road = [
            (self.x + 0.02, self.base + 0.02),
            (self.x + 0.14, self.base + 0.1),
            (self.x - 0.14, self.base + 0.2),
            (self.x + 0.06, self.h + 0.05),
        ]
        c.stroke(road[::-1], self.look.tone((214, 190, 146)), 0.17, end=0.3)

    def _castle(self, c: Canvas) -> None:
        v = c.at(self.x, self.base + 0.03, self.size)
        stone, roof = self.look.tone(self.stone), self.look.tone(self.roof)
        shade = darker(stone, 0.32)
        for x, half, tall in (*self.towers[1:3], self.towers[4]):
            self._tower(v, x, half, tall)
        v.rect(-0.5, -0.3, 0.52, 0, stone)
        v.gradient(-0.5, -0.3, 0.52, 0, [lighter(stone, 0.1), shade], alpha=0.4)
        for k in range(13):
            v.rect(-0.5 + 0.082 * k, -0.34, -0.46 + 0.082 * k, -0.29, stone)
        for row in range(5):
            for k in range(11):
                if (row * 5 + k * 3) % 4 == 0:
                    v.rect(-0.48 + 0.092 * k, -0.27 + 0.05 * row, -0.43 + 0.092 * k, -0.245 + 0.05 * row, shade, 0.4)
        self._tower(v, *self.towers[0])
        self._tower(v, *self.towers[3])
        v.blob([(-0.08, 0.01), (-0.08, -0.12), (0.02, -0.21), (0.12, -0.12), (0.12, 0.01)], darker(stone, 0.75))
        for k in range(4):
            v.line([(-0.05 + 0.045 * k, -0.16), (-0.05 + 0.045 * k, 0)], mix(stone, (90, 70, 50), 0.7), 0.009)
        if self.look.dark:
            v.glow(0.02, -0.08, 0.25, (255, 190, 100), 0.6)
        v.stroke([(-0.6, 0.02), (0, 0.03), (0.6, 0.02)], darker(roof, 0.6), 0.03, 0.4, swell=True)

    def _tower(self, v: Canvas, x: float, half: float, tall: float) -> None:
        stone, roof = self.look.tone(self.stone), self.look.tone(self.roof)
        v.gradient(x - half, -tall, x + half, 0.02, [lighter(stone, 0.15), stone, darker(stone, 0.45)], across=True)
        v.rect(x - half * 1.2, -tall, x + half * 1.2, -tall + 0.045, lighter(stone, 0.1))
        for k in range(5):
            v.rect(
                x - half * 1.2 + half * 0.53 * k,
                -tall - 0.03,
                x - half * 1.2 + half * (0.53 * k + 0.28),
                -tall,
                lighter(stone, 0.1),
            )
        v.poly([(x - half * 1.25, -tall - 0.01), (x, -tall - half * 3.4), (x + half * 1.25, -tall - 0.01)], roof)
        v.poly(
            [(x + half * 0.1, -tall - 0.01), (x, -tall - half * 3.4), (x + half * 1.25, -tall - 0.01)],
            darker(roof, 0.3),
        )
        top = -tall - half * 3.4
        v.line([(x, top), (x, top - 0.1)], (70, 60, 56), 0.008)
        v.poly([(x, top - 0.1), (x + 0.09, top - 0.075), (x, top - 0.05)], self.look.tone(self.look.accent))
        glass = (255, 214, 120) if self.look.dark else (52, 54, 70)
        for row in range(max(1, round(tall / 0.2))):
            y = -tall + 0.12 + 0.17 * row
            v.blob(
                [
                    (x - half * 0.22, y + 0.06),
                    (x - half * 0.22, y),
                    (x, y - 0.03),
                    (x + half * 0.22, y),
                    (x + half * 0.22, y + 0.06),
                ],
                glass,
            )
            if self.look.dark:
                v.glow(x, y, 0.1, (255, 200, 110), 0.4)

    def _trees(self, c: Canvas) -> None:
        rng = self.rand("trees")
        dark = darker(self.look.tone((44, 84, 62)), 0.2)
        for k in range(12):
            side = float(rng.random()) * self.w * 0.34
            conifer(
                c,
                rng,
                side if k % 2 else self.w - side,
                self.h * float(rng.uniform(0.9, 1.02)),
                float(rng.uniform(0.14, 0.3)),
                dark,
                self.look.tone((244, 248, 252)) if self.weather("snow") else None,
            )

    def _dragon(self, c: Canvas) -> None:
        """Wings spread, tail behind, fire ahead."""
        v = c.at(self.w * (0.24 if self.x > self.w / 2 else 0.76), self.h * 0.2, 0.34)
        skin = darker(self.look.tone((150, 44, 50)), 0.1)
        for side in (1, -1):
            wing = [
                (0, 0),
                (0.1 * side, -0.4),
                (0.3 * side, -0.62),
                (0.75 * side, -0.5),
                (0.62 * side, -0.3),
                (0.5 * side, -0.22),
                (0.38 * side, -0.1),
                (0.2 * side, -0.02),
            ]
            v.poly(wing, darker(skin, 0.3 if side > 0 else 0.1))
            for k in (3, 5):
                v.stroke([(0.3 * side, -0.62), wing[k]], lighter(skin, 0.2), 0.025, end=0.3)
        v.stroke([(0.05, 0.0), (-0.2, 0.22), (-0.5, 0.2), (-0.7, 0.4)], skin, 0.16, end=0.1)
        v.stroke([(-0.08, 0.02), (0.2, 0.0), (0.36, -0.14), (0.52, -0.1)], skin, 0.2, end=0.5)
        v.blob([(0.46, -0.18), (0.58, -0.2), (0.76, -0.08), (0.7, -0.02), (0.5, -0.02)], skin)
        v.poly([(0.48, -0.16), (0.36, -0.3), (0.55, -0.2)], lighter(skin, 0.3))
        v.oval(0.58, -0.12, 0.022, color=(255, 220, 90))
        v.blob([(0.76, -0.05), (1.0, -0.16), (1.24, -0.06), (1.3, 0.1), (1.06, 0.08)], (255, 160, 50), 0.9)
        v.blob([(0.76, -0.04), (0.95, -0.1), (1.1, -0.02), (0.95, 0.04)], (255, 236, 150), 0.9)
        v.glow(1.0, 0, 0.5, (255, 150, 60), 0.7)
