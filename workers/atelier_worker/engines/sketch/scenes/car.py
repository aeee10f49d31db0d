"""A car on a road through the country."""

from __future__ import annotations

import math

import numpy as np

from ..canvas import RGB, Canvas, darker, lighter
from .base import Layer, Scene
from .kit import falling, hill, ridge, sky
from .plants import tree


class Car(Scene):
    """A small round car from the side, luggage on its roof, poles and hills passing behind; a van or a bus if asked."""

    name = "car"

    def compose(self, rng: np.random.Generator) -> None:
        self.road = self.h * float(rng.uniform(0.7, 0.84))
        self.x = self.w * float(rng.uniform(0.42, 0.58))
        self.length = min(self.w * 0.8, 0.86) * float(rng.uniform(0.78, 1.0))
        self.tall = self.reading.has("van", "bus", "truck")
        self.paint: RGB = self.accent(
            (250, 200, 40)
            if self.reading.has("taxi")
            else ((206, 66, 56), (70, 140, 160), (236, 176, 70), (110, 150, 96))[int(rng.integers(4))]
        )
        self.luggage = bool(rng.random() < 0.6)
        self.sun = self.w * float(rng.uniform(0.1, 0.9)), self.road * float(rng.uniform(0.2, 0.5))

    def layers(self) -> list[Layer]:
        return [
            Layer("sky", lambda c: sky(c, self, self.road - 0.1, cloudy=0.5, sun=self.sun), 0.0, "drift"),
            Layer("land", self._land, 0.2),
            Layer("road", self._ground, 0.5),
            Layer("car", self._car, 0.7, "bob", (self.x, self.road)),
            *falling(self),
        ]

    def _land(self, c: Canvas) -> None:
        rng = self.rand("land")
        for i, distance in enumerate((0.6, 0.4, 0.15)):
            skyline = ridge(rng, -0.1, self.w + 0.1, self.road - 0.1 + 0.04 * i, 0.2 - 0.05 * i, rough=0.45)
            color = self.look.far(((110, 130, 150), (130, 150, 100), (104, 140, 80))[i], distance)
            hill(c, skyline, self.h, color, darker(color, 0.2))
        for k in range(3):
            x = self.w * (k + float(rng.uniform(0.1, 0.9))) / 3
            tree(
                c,
                rng,
                x,
                self.road + 0.01,
                float(rng.uniform(0.28, 0.46)),
                self.look.tone((84, 126, 70)),
                self.look.tone((80, 62, 50)),
            )

    def _ground(self, c: Canvas) -> None:
        tar = self.look.tone((84, 84, 92))
        c.gradient(0, self.road, self.w, self.h, [lighter(tar, 0.15), tar, darker(tar, 0.3)])
        c.rect(0, self.road - 0.012, self.w, self.road + 0.01, self.look.tone((190, 176, 140)))
        y = (self.road + self.h) / 2 + 0.05
        for k in range(7):
            c.poly(
                [
                    (self.w * k / 6.0, y),
                    (self.w * k / 6.0 + 0.1, y),
                    (self.w * k / 6.0 + 0.09, y + 0.016),
                    (self.w * k / 6.0 - 0.012, y + 0.016),
                ],
                (246, 240, 214),
            )

    def _wheel(self, v: Canvas, x: float, r: float) -> None:
        v.oval(x, -r, r, color=(30, 30, 34))
        v.oval(x, -r, r * 0.62, color=(206, 208, 212))
        v.oval(x, -r, r * 0.5, color=(150, 152, 160))
        for k in range(5):
            a = math.tau * k / 5
            v.line([(x, -r), (x + r * 0.48 * math.cos(a), -r + r * 0.48 * math.sin(a))], (90, 92, 100), r * 0.12)
        v.oval(x, -r, r * 0.14, color=(230, 232, 236))

    def _car(self, c: Canvas) -> None:
        v = c.at(self.x, self.road + 0.07, self.length)
        paint = self.look.tone(self.paint, 0.05)
        shade, glass = darker(paint, 0.3), self.look.tone((150, 190, 206)) if not self.look.dark else (255, 222, 150)
        v.oval(0, 0.0, 0.54, 0.03, (14, 14, 18), 0.55)
        if self.tall:
            v.blob(
                [
                    (-0.5, -0.08),
                    (-0.51, -0.3),
                    (-0.49, -0.52),
                    (-0.3, -0.55),
                    (0.3, -0.55),
                    (0.42, -0.5),
                    (0.49, -0.28),
                    (0.51, -0.08),
                ],
                paint,
            )
            v.rect(-0.49, -0.27, 0.48, -0.245, (250, 246, 236))
            panes = [(-0.44, -0.3), (-0.26, -0.12), (-0.08, 0.06), (0.1, 0.24)]
            for x0, x1 in panes:
                v.rect(x0, -0.48, x1, -0.32, glass)
            v.poly([(0.28, -0.48), (0.39, -0.48), (0.45, -0.32), (0.28, -0.32)], glass)
        else:
            v.blob(
                [
                    (-0.52, -0.09),
                    (-0.53, -0.2),
                    (-0.44, -0.29),
                    (-0.3, -0.3),
                    (0.3, -0.29),
                    (0.47, -0.24),
                    (0.53, -0.15),
                    (0.52, -0.09),
                ],
                paint,
            )
            v.blob([(-0.37, -0.28), (-0.28, -0.44), (-0.12, -0.5), (0.06, -0.5), (0.2, -0.42), (0.3, -0.28)], shade)
            v.blob([(-0.31, -0.29), (-0.24, -0.42), (-0.12, -0.465), (-0.03, -0.465), (-0.03, -0.29)], glass)
            v.blob([(0.01, -0.29), (0.01, -0.465), (0.06, -0.462), (0.16, -0.41), (0.25, -0.29)], glass)
        v.rect(-0.5, -0.12, 0.5, -0.085, shade)
        v.stroke([(-0.46, -0.21), (0, -0.235), (0.48, -0.19)], lighter(paint, 0.5), 0.014, 0.8, swell=True)
        v.line([(-0.01, -0.28), (-0.01, -0.1)], shade, 0.007)
        v.rect(0.03, -0.235, 0.08, -0.22, (240, 240, 244))
        v.oval(0.49, -0.19, 0.032, 0.042, (255, 246, 206))
        v.oval(-0.51, -0.18, 0.018, 0.034, (230, 60, 50))
        v.rect(-0.55, -0.105, -0.46, -0.08, (206, 208, 214))
        v.rect(0.46, -0.105, 0.55, -0.08, (206, 208, 214))
        if self.look.dark:
            v.glow(0.52, -0.19, 0.3, (255, 236, 170), 0.8)
            v.poly([(0.5, -0.19), (1.3, -0.26), (1.3, 0.04)], (255, 240, 180), 0.25)
        for x in (-0.31, 0.31):
            v.oval(x, -0.1, 0.125, 0.12, darker(shade, 0.5))
            self._wheel(v, x, 0.105)
        if self.luggage:
            top = -0.57 if self.tall else -0.52
            v.line([(-0.24, top + 0.01), (0.16, top + 0.01)], (70, 60, 56), 0.012)
            for k, (x0, x1, high) in enumerate(((-0.22, -0.06, 0.08), (-0.05, 0.12, 0.06))):
                tone = self.look.tone(((150, 96, 58), (60, 96, 120))[k])
                v.rect(x0, top - high, x1, top, tone)
                v.rect((x0 + x1) / 2 - 0.01, top - high, (x0 + x1) / 2 + 0.01, top, lighter(tone, 0.4))
            v.rect(-0.18, top - 0.13, 0.02, top - 0.08, self.look.tone((190, 80, 66)))
