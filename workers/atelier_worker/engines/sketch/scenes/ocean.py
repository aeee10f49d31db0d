"""The open sea: a great wave, a sailing boat, an island or a whale."""

from __future__ import annotations

import math

import numpy as np

from ..canvas import Canvas, darker, lighter, mix
from .base import Layer, Scene
from .kit import falling, flock, sea, sky, spray


class Ocean(Scene):
    """A curling wave in front, or swell with a sailing boat; a whale's tail if the prompt has one."""

    name = "ocean"

    def compose(self, rng: np.random.Generator) -> None:
        self.horizon = self.h * float(rng.uniform(0.4, 0.6))
        self.sun = self.w * float(rng.uniform(0.15, 0.85)), self.horizon * float(rng.uniform(0.4, 0.85))
        self.whale = self.reading.has("whale", "dolphin")
        self.beach = self.reading.has("beach", "shore", "island", "palm")
        self.wave = self.reading.has("wave", "surf", "tide") or (
            not self.whale and not self.beach and bool(rng.random() < 0.45)
        )
        self.boat = self.w * float(rng.uniform(0.25, 0.75)), float(rng.uniform(0.24, 0.4))
        self.crest = self.w * float(rng.uniform(0.5, 0.72)), self.h * float(rng.uniform(0.26, 0.4))

    def layers(self) -> list[Layer]:
        layers = [
            Layer("sky", self._sky, 0.0, "drift"),
            Layer(
                "sea",
                lambda c: sea(c, self, self.horizon, self.h, deep=(22, 96, 130), rough=0.6, glint=self.sun),
                0.3,
                "water",
            ),
        ]
        if self.whale:
            layers.append(Layer("whale", self._whale, 0.6, "bob"))
        elif not self.wave or self.reading.has("sailboat", "boat", "sailing", "yacht", "sail"):
            layers.append(Layer("boat", self._boat, 0.5, "bob"))
        if self.beach:
            layers.append(Layer("beach", self._beach, 0.8))
        if self.wave:
            layers.append(Layer("wave", self._wave, 0.8, "sway"))
        return [*layers, *falling(self)]

    def _sky(self, c: Canvas) -> None:
        sky(c, self, self.horizon, cloudy=0.5, sun=self.sun)
        flock(c, self.rand("gulls"), self.w * 0.35, self.horizon * 0.4, 0.09, 6, lighter(self.look.haze, 0.6), 0.02)

    def _boat(self, c: Canvas) -> None:
        x, size = self.boat
        y = self.horizon + (self.h - self.horizon) * 0.3
        v = c.at(x, y, size * 1.5)
        white = self.look.tone(self.accent((250, 246, 236)), 0.1)
        v.oval(0, 0.02, 0.4, 0.03, (10, 30, 44), 0.5)
        v.line([(0, -0.04), (0, -1.0)], (70, 50, 40), 0.018)
        v.blob([(0.02, -0.98), (0.26, -0.5), (0.44, -0.12), (0.2, -0.1), (0.02, -0.1)], white)
        v.blob([(-0.02, -0.9), (-0.12, -0.4), (-0.34, -0.1), (-0.16, -0.08), (-0.02, -0.1)], darker(white, 0.2))
        v.poly([(-0.42, -0.06), (0.48, -0.06), (0.34, 0.06), (-0.32, 0.06)], self.look.tone((150, 60, 46)))
        v.poly([(-0.42, -0.06), (0.48, -0.06), (0.46, -0.04), (-0.4, -0.04)], lighter(white, 0.2))

    def _whale(self, c: Canvas) -> None:
        """A tail that goes down, with water running off it."""
        x, y = self.boat[0], self.horizon + (self.h - self.horizon) * 0.55
        v = c.at(x, y, 0.75)
        skin = self.look.tone((52, 70, 88))
        v.blob([(-0.12, 0.06), (-0.08, -0.2), (-0.05, -0.42), (0.05, -0.42), (0.08, -0.2), (0.12, 0.06)], skin)
        for side in (-1, 1):
            v.blob(
                [
                    (0, -0.38),
                    (side * 0.16, -0.5),
                    (side * 0.42, -0.62),
                    (side * 0.52, -0.56),
                    (side * 0.34, -0.44),
                    (side * 0.14, -0.34),
                ],
                mix(skin, darker(skin, 0.3), side * 0.5 + 0.5),
            )
            v.stroke(
                [(side * 0.05, -0.42), (side * 0.3, -0.55), (side * 0.5, -0.57)],
                lighter(skin, 0.3),
                0.02,
                0.8,
                swell=True,
            )
        rng = self.rand("drips")
        for _ in range(26):
            dx = float(rng.uniform(-0.45, 0.45))
            v.line([(dx, -0.5 + abs(dx) * 0.1), (dx, -0.44 + 0.2 * float(rng.random()))], (226, 240, 246), 0.007, 0.7)
        spray(c, rng, x - 0.1, y, 0.16, lighter(self.look.haze, 0.5), 70)
        spray(c, rng, x + 0.1, y, 0.16, lighter(self.look.haze, 0.5), 70)

    def _beach(self, c: Canvas) -> None:
        sand = self.look.tone((238, 210, 160))
        y = self.h * 0.8
        edge = [(-0.1, y - 0.06), (self.w * 0.3, y), (self.w * 0.6, y + 0.09), (self.w + 0.1, y + 0.06)]
        c.blob([*edge, (self.w + 0.2, self.h + 0.3), (-0.3, self.h + 0.3)], sand)
        c.stroke([(x, py - 0.012) for x, py in edge], (250, 254, 255), 0.03, 0.9, end=1)
        x, base = self.w * 0.14, self.h * 0.95
        top = (x + 0.16, self.h * 0.34)
        c.stroke([(x, base), (x + 0.03, (base + top[1]) / 2), top], self.look.tone((120, 86, 58)), 0.045, end=0.6)
        for k in range(8):
            a = math.tau * k / 8 + 0.3
            tip = (top[0] + 0.24 * math.cos(a), top[1] + 0.12 * math.sin(a) + 0.1)
            c.stroke(
                [top, ((top[0] + tip[0]) / 2, top[1] - 0.05 + 0.05 * math.sin(a)), tip],
                self.look.tone((52, 120, 66) if k % 2 else (84, 150, 74)),
                0.06,
                swell=True,
            )

    def _wave(self, c: Canvas) -> None:
        """A great wave that curls over, in bands, with fingers of foam."""
        rng = self.rand("wave")
        cx, cy = self.crest
        deep, foam = self.look.tone((24, 74, 118)), lighter(self.look.tone((236, 244, 246)), 0.3)
        low = self.h + 0.1
        back = [(-0.2, self.h * 0.95), (cx - 0.5, self.h * 0.72), (cx - 0.3, cy + 0.16), (cx - 0.1, cy)]
        curl = [(cx + 0.1, cy - 0.03), (cx + 0.26, cy + 0.04), (cx + 0.33, cy + 0.18), (cx + 0.24, cy + 0.15)]
        inner = [
            (cx + 0.14, cy + 0.13),
            (cx + 0.05, cy + 0.24),
            (cx + 0.04, cy + 0.4),
            (cx + 0.2, self.h * 0.92),
            (self.w + 0.2, self.h * 0.94),
        ]
        c.blob([*back, *curl, *inner, (self.w + 0.2, low + 0.2), (-0.2, low + 0.2)], deep)
        for k in range(6):
            t = k / 5
            band = [
                (-0.1 + 0.06 * k, self.h),
                (cx - 0.4 + 0.09 * k, self.h * 0.8),
                (cx - 0.2 + 0.05 * k, cy + 0.22),
                (cx - 0.04 + 0.035 * k, cy + 0.05 + 0.012 * k),
                (cx + 0.16, cy + 0.05 + 0.008 * k),
            ]
            c.stroke(band, mix(foam, deep, 0.35 + 0.1 * (k % 2)), 0.018 * (1.2 - 0.5 * t), 0.9, swell=True)
        rim = [*back[1:], *curl[:3]]
        c.stroke(rim[::-1], foam, 0.055, 1.0, end=0.05)
        for k in range(26):
            t = k / 25
            x, y = cx - 0.12 + 0.44 * t, cy + 0.2 * t**2.2 - 0.01
            r = 0.018 + 0.014 * float(rng.random())
            c.oval(x, y + 0.01, r, color=foam)
            c.oval(x + 0.03 * t, y + 0.045 + 0.03 * float(rng.random()), r * 0.55, color=foam)
            c.oval(
                x + 0.06 * float(rng.random()), y - 0.03 - 0.07 * float(rng.random()), r * 0.3, color=foam, alpha=0.9
            )
        for _ in range(30):
            c.oval(
                float(rng.uniform(0, self.w)),
                self.h * float(rng.uniform(0.9, 1.0)),
                0.03 * float(rng.uniform(0.4, 1.3)),
                0.016,
                foam,
                0.9,
            )
