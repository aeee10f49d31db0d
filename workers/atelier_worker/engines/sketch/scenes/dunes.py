"""Dunes, with a kite over them or a caravan in them."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from ..canvas import RGB, Canvas, Point, darker, lighter, mix, smooth
from .base import Layer, Scene
from .kit import falling, person, sky


class Dunes(Scene):
    """Lit and shaded dunes under a wide sky; a diamond kite with a ribboned tail when the prompt has one."""

    name = "dunes"

    def compose(self, rng: np.random.Generator) -> None:
        self.horizon = self.h * float(rng.uniform(0.5, 0.74))
        self.kite = self.reading.has("kite")
        self.kx, self.ky = self.w * float(rng.uniform(0.35, 0.75)), self.horizon * float(rng.uniform(0.34, 0.52))
        self.turn = float(rng.uniform(0.15, 0.75))
        self.size = float(rng.uniform(0.17, 0.24))
        self.px = self.w * float(rng.uniform(0.12, 0.3))
        self.paint = self.accent((222, 54, 44))
        self.sand: RGB = ((232, 190, 128), (224, 164, 104), (238, 206, 156))[int(rng.integers(3))]
        self.caps = [float(v) for v in rng.uniform(0.15, 0.85, 5)]

    def layers(self) -> list[Layer]:
        layers = [Layer("sky", lambda c: sky(c, self, self.horizon, cloudy=0.35), 0.0, "drift")]
        layers += [Layer(f"dune {i}", partial(self._dune, i=i), 0.2 + 0.18 * i) for i in range(4)]
        if self.kite:
            layers += [
                Layer("flyer", self._flyer, 0.7),
                Layer("kite", self._kite, 0.5, "sway", (self.px, self.h * 0.9)),
            ]
        else:
            layers.append(Layer("caravan", self._caravan, 0.5))
        return [*layers, *falling(self)]

    def _crest(self, i: int) -> float:
        return self.horizon + (self.h - self.horizon) * (0.0, 0.16, 0.4, 0.72)[i]

    def _dune(self, c: Canvas, i: int) -> None:
        """One dune: the windward side lit, the lee side in shadow, divided by a curved crest."""
        rng = self.rand("dune", i)
        y, rise = self._crest(i), 0.07 + 0.06 * i
        x = self.w * self.caps[i]
        lit, shade = (
            self.look.far(self.sand, 0.42 - 0.13 * i),
            self.look.far(darker(mix(self.sand, (150, 70, 60), 0.3), 0.3), 0.36 - 0.11 * i),
        )
        skyline = smooth(
            [
                (-0.2, y + 0.06),
                (x - self.w * 0.35, y + rise * 0.1),
                (x, y - rise),
                (x + self.w * 0.3, y - rise * 0.1),
                (self.w + 0.2, y + 0.05),
            ],
            closed=False,
            steps=14,
        )
        outline = [*skyline, (self.w + 0.2, self.h + 0.1), (-0.2, self.h + 0.1)]
        with c.clipped(outline) as v:
            v.gradient(-0.2, y - rise, self.w + 0.2, self.h, [lighter(lit, 0.25), lit, darker(lit, 0.2)])
            foot = x + self.w * float(rng.uniform(-0.2, 0.1))
            edge = smooth(
                [(x, y - rise), (x - 0.05, y + rise * 0.3), (x + 0.06, y + rise * 1.4), (foot, self.h + 0.1)],
                closed=False,
                steps=10,
            )
            v.poly([*edge, (self.w + 0.3, self.h + 0.1), (self.w + 0.3, y - rise - 0.1), (x, y - rise)], shade)
            for _ in range(9 * i):
                ry = y + (self.h - y) * float(rng.random())
                rx = float(rng.uniform(-0.1, x))
                v.stroke(
                    [(rx, ry), (rx + 0.08, ry - 0.008), (rx + 0.18, ry + 0.004)], darker(lit, 0.22), 0.004, 0.4, end=0.2
                )

    def _flyer(self, c: Canvas) -> None:
        person(c, self.px, self.h * 0.93, 0.2, self.look.tone((40, 64, 104)))

    def _kite(self, c: Canvas) -> None:
        hand: Point = (self.px + 0.035, self.h * 0.93 - 0.13)
        sag = ((hand[0] + self.kx) / 2 + 0.06, (hand[1] + self.ky) / 2 + 0.07)
        c.stroke([hand, sag, (self.kx, self.ky)], darker(self.look.haze, 0.55), 0.003, 0.9, end=0.8)
        v = c.at(self.kx, self.ky, self.size, turn=self.turn)
        paint, other = (
            self.look.tone(self.paint, 0.05),
            self.look.tone(lighter(self.paint, 0.1) if self.reading.subject_hue else (250, 204, 70), 0.05),
        )
        top, right, bottom, left = (0.0, -0.75), (0.5, -0.15), (0.0, 0.85), (-0.5, -0.15)
        mid = (0.0, -0.15)
        v.poly([top, right, mid], other)
        v.poly([right, bottom, mid], paint)
        v.poly([bottom, left, mid], mix(other, paint, 0.25))
        v.poly([left, top, mid], darker(paint, 0.18))
        v.line([top, bottom], (70, 46, 40), 0.02)
        v.line([left, right], (70, 46, 40), 0.02)
        wave = [(0.22 * math.sin(k * 1.25) * min(1, k / 2), 0.85 + 0.21 * k) for k in range(7)]
        v.stroke(wave, (80, 56, 50), 0.02)
        for k, (x, y) in enumerate(wave[1:]):
            color = (paint, other, self.look.tone((52, 128, 160)))[k % 3]
            v.poly([(x, y), (x - 0.14, y - 0.08), (x - 0.14, y + 0.08)], color)
            v.poly([(x, y), (x + 0.14, y - 0.08), (x + 0.14, y + 0.08)], color)

    def _caravan(self, c: Canvas) -> None:
        """Camels in a row along a crest, dark against the sand."""
        rng = self.rand("caravan")
        dark, y = darker(self.look.tone((92, 60, 50)), 0.35), self._crest(2) + 0.02
        for k in range(5):
            v = c.at(self.w * (0.2 + 0.14 * k), y + 0.012 * math.sin(k * 2), 0.15 * float(rng.uniform(0.85, 1.1)))
            for x in (-0.3, -0.2, 0.2, 0.3):
                v.stroke([(x, -0.4), (x + 0.03, 0.1)], dark, 0.06, end=0.6, curve=False)
            v.blob(
                [
                    (-0.38, -0.45),
                    (-0.3, -0.62),
                    (-0.12, -0.7),
                    (0.0, -0.95),
                    (0.14, -0.7),
                    (0.34, -0.6),
                    (0.36, -0.4),
                    (0, -0.34),
                ],
                dark,
            )
            v.stroke([(0.3, -0.5), (0.52, -0.5), (0.55, -0.85)], dark, 0.12, end=0.6)
            v.blob([(0.5, -0.9), (0.58, -0.98), (0.74, -0.88), (0.6, -0.82)], dark)
            v.rect(-0.14, -0.86, 0.14, -0.55, self.look.tone(self.look.accent))
