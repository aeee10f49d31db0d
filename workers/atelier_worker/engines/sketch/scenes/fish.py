"""Under water: fish over a reef."""

from __future__ import annotations

import math

import numpy as np

from ..canvas import RGB, Canvas, darker, lighter, mix
from .base import Layer, Scene


class Fish(Scene):
    """Shafts of light, weeds and corals, one great fish and a shoal; a turtle-shell of bubbles above."""

    name = "fish"

    def compose(self, rng: np.random.Generator) -> None:
        self.x, self.y = self.w * float(rng.uniform(0.36, 0.62)), self.h * float(rng.uniform(0.34, 0.6))
        self.size = float(rng.uniform(0.26, 0.38))
        self.turn = float(rng.uniform(-0.25, 0.25))
        self.beam = self.w * float(rng.uniform(0.1, 0.9))
        self.water: RGB = ((24, 110, 160), (20, 130, 140), (30, 80, 150))[int(rng.integers(3))]
        self.paint = self.accent(((240, 120, 40), (246, 196, 60), (226, 80, 90), (250, 240, 226))[int(rng.integers(4))])
        self.floor = self.h * float(rng.uniform(0.8, 0.9))
        self.jelly = self.reading.has("jellyfish", "octopus")

    def layers(self) -> list[Layer]:
        return [
            Layer("water", self._water, 0.0),
            Layer("shoal", self._shoal, 0.3, "drift"),
            Layer("reef", self._reef, 0.5, "sway"),
            Layer("great one", self._jelly if self.jelly else self._great, 0.7, "bob", (self.x, self.y)),
            Layer("bubbles", self._bubbles, 0.9, "drift"),
        ]

    def _water(self, c: Canvas) -> None:
        tone = self.look.tone(
            mix(self.water, self.look.hues[0].rgb(0.6), 0.6)
            if self.look.hues and self.reading.subject_hue is None
            else self.water
        )
        c.gradient(0, 0, self.w, self.h, [lighter(tone, 0.55), tone, darker(tone, 0.65)])
        c.glow(self.beam, -0.05, 0.9, (220, 250, 255), 0.6)
        for k in range(6):
            x = self.beam + (k - 2.5) * 0.07
            c.poly(
                [
                    (x, -0.02),
                    (x + 0.03, -0.02),
                    (x + (k - 2.5) * 0.22 + 0.1, self.h),
                    (x + (k - 2.5) * 0.22 - 0.06, self.h),
                ],
                (226, 250, 255),
                0.1,
            )

    def _fish(self, v: Canvas, paint: RGB, *, fine: bool) -> None:
        """A fish 1 long that looks to the right."""
        dark = darker(paint, 0.35)
        v.blob([(-0.44, 0), (-0.62, -0.1), (-0.86, -0.32), (-0.78, 0), (-0.86, 0.32), (-0.62, 0.1)], dark)
        v.blob([(-0.22, -0.24), (-0.1, -0.44), (0.2, -0.4), (0.3, -0.22)], dark)
        v.blob([(-0.1, 0.24), (-0.16, 0.42), (0.04, 0.38), (0.14, 0.22)], dark)
        body = [
            (0.56, 0.02),
            (0.42, -0.16),
            (0.1, -0.29),
            (-0.24, -0.2),
            (-0.5, -0.04),
            (-0.5, 0.04),
            (-0.24, 0.2),
            (0.1, 0.29),
            (0.42, 0.18),
        ]
        v.blob(body, paint)
        if fine:
            with v.clipped(body) as b:
                for x in (0.22, -0.1, -0.36):
                    b.blob(
                        [
                            (x - 0.05, -0.4),
                            (x + 0.05, -0.4),
                            (x + 0.08, 0),
                            (x + 0.05, 0.4),
                            (x - 0.05, 0.4),
                            (x - 0.01, 0),
                        ],
                        (252, 250, 244),
                        0.9,
                    )
                b.gradient(-0.6, 0.02, 0.6, 0.32, [dark, darker(dark, 0.5)], alpha=0.35)
            for k in range(5):
                v.stroke([(-0.56, 0.03 * (k - 2)), (-0.82, 0.13 * (k - 2))], lighter(paint, 0.3), 0.014, 0.8)
            v.blob([(0.06, 0.06), (-0.1, 0.2), (-0.22, 0.14), (-0.06, 0.02)], lighter(paint, 0.25))
            v.stroke([(0.34, -0.16), (0.28, 0.0), (0.34, 0.17)], darker(paint, 0.4), 0.02, swell=True)
            v.stroke([(0.55, 0.05), (0.48, 0.09), (0.42, 0.08)], darker(paint, 0.55), 0.016)
        v.oval(0.42, -0.05, 0.06, color=(252, 252, 250))
        v.oval(0.435, -0.05, 0.036, color=(18, 20, 28))
        v.oval(0.445, -0.065, 0.012, color=(255, 255, 255))

    def _shoal(self, c: Canvas) -> None:
        rng = self.rand("shoal")
        x0, y0 = float(rng.uniform(0.1, 0.9)) * self.w, float(rng.uniform(0.12, 0.3)) * self.h
        color = self.look.far((206, 224, 236), 0.2)
        for _ in range(24):
            s = float(rng.uniform(0.03, 0.06))
            self._fish(
                c.at(x0 + float(rng.normal()) * 0.2, y0 + float(rng.normal()) * 0.07, s, turn=self.turn),
                color,
                fine=False,
            )
        for k in range(4):
            s = float(rng.uniform(0.08, 0.14))
            paint = ((246, 206, 70), (90, 150, 220), (226, 100, 120), (250, 240, 220))[k]
            self._fish(
                c.at(
                    float(rng.uniform(0.05, 0.95)) * self.w,
                    float(rng.uniform(0.2, 0.8)) * self.h,
                    s,
                    flip=bool(rng.random() < 0.5),
                ),
                mix(paint, self.water, 0.25),
                fine=True,
            )

    def _reef(self, c: Canvas) -> None:
        rng = self.rand("reef")
        sand = mix((226, 206, 160), self.water, 0.35)
        c.blob(
            [
                (-0.3, self.h + 0.3),
                (-0.1, self.floor + 0.04),
                (self.w * 0.4, self.floor),
                (self.w * 0.8, self.floor + 0.05),
                (self.w + 0.3, self.floor + 0.02),
                (self.w + 0.3, self.h + 0.3),
            ],
            sand,
        )
        for k in range(11):
            x, base = self.w * (k + float(rng.uniform(0.2, 0.8))) / 11, self.floor + float(rng.uniform(0.02, 0.1))
            paint = mix(
                ((226, 80, 110), (240, 140, 60), (150, 80, 160), (240, 200, 90), (70, 150, 100))[int(rng.integers(5))],
                self.water,
                0.15,
            )
            if k % 3 == 0:
                for s in range(6):
                    sway = 0.03 * math.sin(s + k)
                    c.stroke(
                        [
                            (x + 0.02 * s, base),
                            (x + 0.02 * s + sway, base - 0.14),
                            (x + 0.02 * s - sway, base - 0.2 - 0.12 * float(rng.random())),
                        ],
                        mix((50, 130, 80), self.water, 0.2),
                        0.022,
                        swell=True,
                    )
            elif k % 3 == 1:
                self._branch(c, rng, x, base, -math.pi / 2, float(rng.uniform(0.06, 0.1)), paint, 4)
            else:
                r = float(rng.uniform(0.05, 0.1))
                c.oval(x, base, r * 1.2, r, darker(paint, 0.3))
                c.oval(x - r * 0.15, base - r * 0.12, r, r * 0.85, paint)
                for _ in range(14):
                    a, d = float(rng.uniform(0, math.tau)), math.sqrt(float(rng.random())) * r * 0.8
                    c.oval(
                        x + d * math.cos(a), base - 0.1 * r + d * 0.8 * math.sin(a), 0.006, color=lighter(paint, 0.4)
                    )

    def _branch(
        self, c: Canvas, rng: np.random.Generator, x: float, y: float, angle: float, long: float, paint: RGB, left: int
    ) -> None:
        tip = (x + long * math.cos(angle), y + long * math.sin(angle))
        c.line([(x, y), tip], paint, long * 0.28)
        c.oval(*tip, long * 0.15, color=paint)
        if left > 1:
            for side in (-1, 1):
                self._branch(
                    c,
                    rng,
                    *tip,
                    angle + side * float(rng.uniform(0.3, 0.6)),
                    long * 0.76,
                    lighter(paint, 0.06),
                    left - 1,
                )

    def _great(self, c: Canvas) -> None:
        self._fish(c.at(self.x, self.y, self.size * 1.6, turn=self.turn), self.look.tone(self.paint, 0.05), fine=True)

    def _jelly(self, c: Canvas) -> None:
        v = c.at(self.x, self.y, self.size * 1.2, turn=self.turn)
        paint = self.look.tone(self.paint)
        for k in range(9):
            x = -0.4 + 0.1 * k
            v.stroke(
                [(x, 0), (x + 0.1 * math.sin(k), 0.4), (x - 0.12 * math.sin(k * 2), 0.8), (x + 0.1, 1.2)],
                lighter(paint, 0.2),
                0.05,
                0.85,
                end=0.1,
            )
        v.blob(
            [
                (-0.52, 0.06),
                (-0.46, -0.3),
                (0, -0.56),
                (0.46, -0.3),
                (0.52, 0.06),
                (0.26, 0.0),
                (0, 0.08),
                (-0.26, 0.0),
            ],
            paint,
            0.92,
        )
        v.blob([(-0.3, -0.2), (-0.1, -0.44), (0.1, -0.46), (-0.1, -0.3)], lighter(paint, 0.5), 0.8)
        v.glow(0, -0.2, 0.8, lighter(paint, 0.3), 0.4)

    def _bubbles(self, c: Canvas) -> None:
        rng = self.rand("bubbles")
        for _ in range(26):
            x, y, r = float(rng.uniform(0, self.w)), float(rng.uniform(0, self.h)), float(rng.uniform(0.004, 0.02))
            c.ring(x, y, r, 0.003, (236, 250, 255), 0.8)
            c.oval(x - r * 0.3, y - r * 0.3, r * 0.25, color=(255, 255, 255), alpha=0.9)
