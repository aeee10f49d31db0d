"""A great flower: a sunflower in its field, or the flower the prompt names in a meadow."""

from __future__ import annotations

import math

import numpy as np

from ..canvas import RGB, Canvas, darker, lighter, mix
from .base import Layer, Scene
from .kit import falling, hill, ridge, sky
from .plants import grasses

_PETALS: dict[str, RGB] = {
    "rose": (206, 44, 74), "poppy": (226, 56, 40), "tulip": (232, 90, 110), "daisy": (250, 248, 240), "lily": (246, 200, 214),
    "lotus": (240, 160, 190), "peony": (236, 130, 160), "blossom": (250, 200, 214), "bloom": (186, 90, 190),
}  # fmt: skip


class Sunflower(Scene):
    """One head close up on its stem, leaves, a field of smaller ones to the horizon."""

    name = "sunflower"

    def compose(self, rng: np.random.Generator) -> None:
        self.horizon = self.h * float(rng.uniform(0.5, 0.76))
        self.x, self.y = self.w * float(rng.uniform(0.34, 0.66)), self.h * float(rng.uniform(0.3, 0.46))
        self.size = float(rng.uniform(0.24, 0.35))
        self.lean = float(rng.uniform(-0.12, 0.12))
        self.sun = self.w * float(rng.uniform(0.08, 0.92)), self.horizon * float(rng.uniform(0.14, 0.42))
        named = [name for name in _PETALS if self.reading.has(name)]
        self.sunflower = self.reading.has("sunflower") or not named
        self.petal = self.accent((250, 190, 30) if self.sunflower else _PETALS[named[0]])
        self.count = int(rng.integers(17, 24)) if self.sunflower else int(rng.integers(8, 13))

    def layers(self) -> list[Layer]:
        return [
            Layer("sky", lambda c: sky(c, self, self.horizon, cloudy=0.4, sun=self.sun), 0.0, "drift"),
            Layer("field", self._field, 0.2),
            Layer("small flowers", self._small, 0.4, "sway"),
            Layer("stem", self._stem, 0.6),
            Layer("head", self._head, 0.6, "turn", (self.x, self.y)),
            Layer("grass", self._grass, 0.9, "sway"),
            *falling(self),
        ]

    def _field(self, c: Canvas) -> None:
        rng = self.rand("field")
        far = ridge(rng, -0.1, self.w + 0.1, self.horizon + 0.01, 0.08, rough=0.4)
        hill(c, far, self.horizon + 0.1, self.look.far((92, 122, 120), 0.5), self.look.far((120, 150, 110), 0.4))
        c.gradient(
            0,
            self.horizon,
            self.w,
            self.h,
            [self.look.far((150, 160, 74), 0.25), self.look.tone((82, 118, 52)), self.look.tone((44, 78, 42))],
        )
        for k in range(260):
            t = (k / 260) ** 1.6
            y = self.horizon + 0.01 + (self.h - self.horizon) * 0.5 * t
            r = 0.004 + 0.016 * t
            x = float(rng.uniform(0, self.w))
            c.oval(x, y, r * 1.2, r, self.look.far(self.petal, 0.25 * (1 - t)))
            c.oval(x, y, r * 0.5, r * 0.42, self.look.tone((90, 56, 30)))

    def _small(self, c: Canvas) -> None:
        rng = self.rand("small")
        for k in range(7):
            x = self.w * (k + 0.5 + float(rng.uniform(-0.3, 0.3))) / 7
            y = self.horizon + (self.h - self.horizon) * float(rng.uniform(0.25, 0.6))
            r = float(rng.uniform(0.045, 0.075))
            c.stroke([(x, y), (x + 0.01, self.h + 0.05)], self.look.tone((70, 110, 50)), 0.016, end=1)
            self._flower(c.at(x, y, r, turn=float(rng.uniform(-0.4, 0.4))), rng, 13, fine=False)

    def _stem(self, c: Canvas) -> None:
        green = self.look.tone((84, 128, 54))
        foot = self.x + self.lean * 1.5
        stem = [(self.x, self.y), (self.x + self.lean * 0.4, (self.y + self.h) / 2), (foot, self.h + 0.1)]
        c.stroke(stem, darker(green, 0.35), 0.052, end=1.2)
        c.stroke([(x - 0.006, y) for x, y in stem], green, 0.034, end=1.2)
        for side, t in ((-1, 0.62), (1, 0.74)):
            x, y = self.x + self.lean * t, self.y + (self.h - self.y) * t
            tip = x + side * self.size * 1.05
            c.blob(
                [
                    (x, y),
                    (x + side * 0.08, y - 0.1),
                    (tip - side * 0.08, y - 0.12),
                    (tip, y - 0.03),
                    (tip - side * 0.1, y + 0.03),
                    (x + side * 0.08, y + 0.04),
                ],
                green if side < 0 else darker(green, 0.2),
            )
            c.stroke([(x, y), (x + side * 0.15, y - 0.04), (tip, y - 0.03)], lighter(green, 0.35), 0.01, end=0.2)
            for k in range(1, 5):
                vx = x + (tip - x) * k / 5
                c.stroke([(vx, y - 0.035), (vx + side * 0.04, y - 0.085)], lighter(green, 0.25), 0.005)
                c.stroke([(vx, y - 0.035), (vx + side * 0.04, y + 0.012)], darker(green, 0.3), 0.005)

    def _head(self, c: Canvas) -> None:
        c.glow(self.x, self.y, self.size * 1.7, self.look.light, 0.3)
        tilt = 0.35 * (self.sun[0] - self.x) / self.w
        self._flower(c.at(self.x, self.y, self.size, turn=tilt), self.rand("head"), self.count, fine=True)

    def _flower(self, v: Canvas, rng: np.random.Generator, count: int, *, fine: bool) -> None:
        petal = self.look.tone(self.petal, 0.06)
        wide = 2.6 / count if self.sunflower else 3.5 / count
        for ring_, (reach, shade) in enumerate(((1.0, 0.22), (0.94, 0.0))):
            for k in range(count):
                a = math.tau * (k + 0.5 * ring_) / count + float(rng.normal()) * 0.05
                long = reach * float(rng.uniform(0.9, 1.06))
                color = darker(
                    mix(petal, (230, 120, 20) if self.sunflower else darker(petal, 0.2), 0.3 * float(rng.random())),
                    shade,
                )
                p = v.at(0, 0, 1, turn=a)
                if self.sunflower:
                    p.blob(
                        [
                            (0.3, 0),
                            (0.5, -wide * 0.6),
                            (0.78, -wide * 0.5),
                            (long, 0),
                            (0.78, wide * 0.5),
                            (0.5, wide * 0.6),
                        ],
                        color,
                    )
                else:
                    p.blob(
                        [
                            (0.1, 0),
                            (0.4, -wide * 0.55),
                            (0.8, -wide * 0.6),
                            (long * 0.96, 0),
                            (0.8, wide * 0.6),
                            (0.4, wide * 0.55),
                        ],
                        color,
                    )
                if fine:
                    p.stroke([(0.42, 0), (long * 0.85, 0)], darker(color, 0.3), 0.018, 0.7, end=0.2)
                    p.stroke([(0.5, -wide * 0.25), (long * 0.8, -wide * 0.2)], lighter(color, 0.4), 0.014, 0.6, end=0.2)
        heart = 0.46 if self.sunflower else 0.2
        core = self.look.tone((84, 50, 28) if self.sunflower else (236, 196, 70))
        v.oval(0, 0, heart, color=darker(core, 0.25))
        v.oval(0, 0, heart * 0.9, color=core)
        if fine:
            for k in range(300 if self.sunflower else 60):
                r, a = heart * 0.95 * math.sqrt(k / (300 if self.sunflower else 60)), k * 2.39996
                tone = mix(darker(core, 0.55), (206, 146, 60), (r / heart) ** 2 * 0.9)
                v.oval(r * math.cos(a), r * math.sin(a), 0.016, color=tone)

    def _grass(self, c: Canvas) -> None:
        grasses(c, self.rand("grass"), self.h * 1.03, 0.16, self.look.tone((88, 126, 54)), 110)
