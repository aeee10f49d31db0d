"""A forest: trunks one behind the other in the light, a path or a stream between them."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from ..canvas import RGB, Canvas, darker, lighter, mix
from .base import Layer, Scene
from .kit import falling, mist
from .plants import grasses, leafy


class Forest(Scene):
    """Rows of trunks fading into haze, sunbeams through the crowns, ferns, sometimes a deer."""

    name = "forest"

    def compose(self, rng: np.random.Generator) -> None:
        self.ground = self.h * float(rng.uniform(0.66, 0.82))
        self.x = self.w * float(rng.uniform(0.3, 0.7))
        self.beam = float(rng.uniform(-0.5, 0.5))
        self.autumn = self.reading.has("autumn", "fall", "october", "november")
        self.birch = self.reading.has("birch") or bool(rng.random() < 0.25)
        self.deer = self.reading.has("deer", "stag", "fox", "wolf") or bool(rng.random() < 0.4)
        self.leaf: RGB = (206, 112, 44) if self.autumn else (74, 118, 62)
        self.gap = float(rng.uniform(0.09, 0.16))

    def layers(self) -> list[Layer]:
        return [
            Layer("air", self._air, 0.0),
            *[Layer(f"trunks {i}", partial(self._trunks, i=i), 0.2 + 0.2 * i) for i in range(4)],
            Layer("beams", self._beams, 0.7, "flicker"),
            Layer("animal", self._animal, 0.75),
            Layer("crowns", self._crowns, 0.9, "sway"),
            Layer("ferns", self._ferns, 0.95, "sway"),
            *falling(self),
        ]

    def _air(self, c: Canvas) -> None:
        look = self.look
        glow = lighter(look.haze, 0.25) if not look.dark else look.sky[-1]
        base = look.far(self.leaf, 0.5)
        c.gradient(0, 0, self.w, self.h, [darker(base, 0.25), mix(base, glow, 0.5), glow, darker(base, 0.3)])
        c.glow(self.x, self.ground * 0.62, 0.62, look.light, 0.85)

    def _trunks(self, c: Canvas, i: int) -> None:
        rng, look = self.rand("trunks", i), self.look
        away = (0.72, 0.5, 0.26, 0.0)[i]
        base = self.ground - 0.1 + 0.055 * i + 0.05 * i * (i > 1)
        bark = look.far((222, 218, 208) if self.birch else (84, 66, 54), away)
        floor = look.far(darker(self.leaf, 0.3 if not self.autumn else 0.15), away * 0.9)
        edge = [(self.w * k / 10, base + 0.012 * math.sin(k * 1.7 + i)) for k in range(-1, 12)]
        c.poly([*edge, (self.w * 1.1, self.h + 0.1), (-0.1, self.h + 0.1)], floor)
        path = self.look.far((196, 166, 122), away)
        start, end = base, self.h + 0.1
        near, far = 0.015 + 0.62 * (start - self.ground + 0.1), 0.015 + 0.62 * (end - self.ground + 0.1)
        c.poly([(self.x - near, start), (self.x + near, start), (self.x + far, end), (self.x - far, end)], path)
        for _ in range(9 - 2 * i):
            x = float(rng.uniform(-0.05, self.w + 0.05))
            keep = self.gap * (0.5 + 0.6 * i)
            if abs(x - self.x) < keep:
                x = self.x + math.copysign(keep + 0.06, x - self.x)
            wide = (0.016 + 0.02 * i) * float(rng.uniform(0.7, 1.3))
            lean = float(rng.normal()) * 0.03
            y = base + 0.03 * float(rng.random()) * (i + 1)
            c.poly(
                [
                    (x - wide * 1.6, y + 0.01),
                    (x - wide * 0.7, y - 0.08),
                    (x + lean - wide * 0.45, -0.05),
                    (x + lean + wide * 0.45, -0.05),
                    (x + wide * 0.7, y - 0.08),
                    (x + wide * 1.6, y + 0.01),
                ],
                bark,
            )
            c.poly(
                [
                    (x + wide * 0.15, y),
                    (x + lean + wide * 0.1, -0.05),
                    (x + lean + wide * 0.45, -0.05),
                    (x + wide * 0.7, y - 0.08),
                    (x + wide * 1.5, y),
                ],
                darker(bark, 0.35),
                0.8,
            )
            if self.birch:
                for _ in range(9):
                    by = float(rng.uniform(0, y))
                    c.line(
                        [
                            (x + lean * (1 - by / y) - wide * 0.5, by),
                            (x + lean * (1 - by / y) + wide * 0.2, by + 0.004),
                        ],
                        look.far((50, 46, 46), away),
                        0.006,
                    )
            for _ in range(2):
                by, side = float(rng.uniform(0.1, 0.55)) * y, 1 if rng.random() < 0.5 else -1
                c.stroke(
                    [
                        (x + lean * 0.5, by),
                        (x + side * (0.06 + wide), by - 0.05),
                        (x + side * (0.12 + wide), by - 0.12),
                    ],
                    darker(bark, 0.2),
                    wide * 0.5,
                    end=0.1,
                )
        if i < 3:
            mist(c, rng, base, 0.09, lighter(look.haze, 0.3), 0.45 if not self.weather("mist") else 0.85)

    def _beams(self, c: Canvas) -> None:
        if self.look.dark:
            return
        for k in range(5):
            x = self.x + (k - 2) * 0.13
            c.poly(
                [
                    (x, -0.05),
                    (x + 0.05, -0.05),
                    (x + 0.12 + self.beam * 0.7, self.ground + 0.1),
                    (x - 0.03 + self.beam * 0.7, self.ground + 0.1),
                ],
                lighter(self.look.light, 0.3),
                0.12,
            )

    def _animal(self, c: Canvas) -> None:
        if not self.deer:
            return
        coat = darker(self.look.tone((150, 92, 52)), 0.25)
        v = c.at(self.x, self.ground + 0.06, 0.3)
        for x in (-0.26, -0.18, 0.2, 0.28):
            v.stroke([(x, -0.4), (x + 0.01, 0.0)], coat, 0.06, end=0.5, curve=False)
        v.blob(
            [(-0.34, -0.56), (-0.1, -0.6), (0.24, -0.62), (0.36, -0.5), (0.28, -0.34), (0, -0.34), (-0.3, -0.36)], coat
        )
        v.stroke([(0.28, -0.5), (0.38, -0.72), (0.42, -0.88)], coat, 0.17, end=0.6)
        v.blob([(0.36, -0.94), (0.46, -0.98), (0.62, -0.86), (0.6, -0.82), (0.42, -0.82)], coat)
        for side in (-0.04, 0.05):
            v.stroke([(0.42, -0.96), (0.36 + side * 2, -1.12), (0.44 + side * 3, -1.3)], coat, 0.03, end=0.3)
            v.stroke([(0.37 + side * 2, -1.1), (0.5 + side * 2, -1.2)], coat, 0.022, end=0.3)
        v.oval(-0.35, -0.5, 0.04, color=(240, 232, 216))

    def _crowns(self, c: Canvas) -> None:
        rng = self.rand("crowns")
        dark = darker(self.look.tone(self.leaf), 0.3)
        for k in range(9):
            x = self.w * k / 8 + float(rng.uniform(-0.05, 0.05))
            away = min(1.0, abs(x - self.x) / 0.3)
            leafy(
                c,
                rng,
                x,
                0.02 + 0.03 * away,
                0.12,
                0.06 + 0.06 * away,
                dark if k % 2 else self.look.tone(self.leaf),
                count=70,
                size=0.026,
            )

    def _ferns(self, c: Canvas) -> None:
        rng = self.rand("ferns")
        green = self.look.tone((78, 112, 58) if not self.autumn else (150, 104, 50))
        for x0, x1 in ((-0.05, self.x - 0.22), (self.x + 0.22, self.w + 0.05)):
            if x1 > x0:
                grasses(c, rng, self.h * 1.03, 0.2, darker(green, 0.2), 60, x0=x0, x1=x1)
        for _ in range(26):
            x, y = float(rng.uniform(0, self.w)), self.h * float(rng.uniform(0.9, 1.0))
            c.oval(
                x,
                y,
                0.009,
                0.006,
                self.look.tone(
                    ((226, 150, 50), (190, 70, 40))[int(rng.integers(2))] if self.autumn else (226, 226, 170)
                ),
            )
