"""Things that fly: hot-air balloons, or an airship, over a wide country."""

from __future__ import annotations

import math

import numpy as np

from ..canvas import RGB, Canvas, darker, lighter
from .base import Layer, Scene
from .kit import falling, hill, mist, ridge, sky

_STRIPES: tuple[tuple[RGB, RGB], ...] = (
    ((214, 62, 52), (250, 214, 120)),
    ((44, 110, 160), (246, 240, 226)),
    ((236, 140, 52), (120, 56, 96)),
    ((70, 140, 110), (246, 226, 150)),
)


class Balloon(Scene):
    """One great striped balloon near, others far, hills and mist below."""

    name = "balloon"

    def compose(self, rng: np.random.Generator) -> None:
        self.horizon = self.h * float(rng.uniform(0.68, 0.86))
        self.x, self.y = self.w * float(rng.uniform(0.28, 0.7)), self.h * float(rng.uniform(0.3, 0.44))
        self.size = float(rng.uniform(0.19, 0.28))
        self.airship = self.reading.has("airship", "zeppelin", "dirigible", "plane", "airplane")
        self.stripes = int(rng.integers(4))
        self.others = [
            (float(rng.uniform(0.05, 0.95)), float(rng.uniform(0.15, 0.7)), float(rng.uniform(0.03, 0.08)))
            for _ in range(6)
        ]
        self.sun = self.w * float(rng.uniform(0.1, 0.9)), self.horizon * float(rng.uniform(0.5, 0.9))

    def layers(self) -> list[Layer]:
        return [
            Layer("sky", lambda c: sky(c, self, self.horizon, cloudy=0.7, sun=self.sun), 0.0, "drift"),
            Layer("land", self._land, 0.2),
            Layer("far balloons", self._others, 0.4, "drift"),
            Layer("balloon", self._great, 0.7, "bob", (self.x, self.y)),
            *falling(self),
        ]

    def _land(self, c: Canvas) -> None:
        rng = self.rand("land")
        for i, distance in enumerate((0.6, 0.4, 0.18)):
            skyline = ridge(rng, -0.1, self.w + 0.1, self.horizon + 0.05 * i + 0.02, 0.12, rough=0.5)
            color = self.look.far(((110, 130, 140), (130, 150, 96), (92, 124, 70))[i], distance)
            hill(c, skyline, self.h + 0.1, color, darker(color, 0.3))
            mist(c, rng, self.horizon + 0.05 * i + 0.03, 0.05, lighter(self.look.haze, 0.3), 0.7)

    def _others(self, c: Canvas) -> None:
        for k, (x, y, size) in enumerate(self.others):
            if abs(x * self.w - self.x) > self.size * 1.1:
                self._balloon(c, x * self.w, y * self.horizon, size, *_STRIPES[(self.stripes + k + 1) % 4], far=0.45)

    def _great(self, c: Canvas) -> None:
        paint, other = _STRIPES[self.stripes]
        if self.airship:
            self._airship(c, self.accent(paint), other)
        else:
            self._balloon(c, self.x, self.y, self.size, self.accent(paint), other, far=0.0)

    def _balloon(self, c: Canvas, x: float, y: float, r: float, paint: RGB, other: RGB, *, far: float) -> None:
        a, b = self.look.far(paint, far), self.look.far(other, far)
        outline = [
            (x + r * math.cos(t), y + r * math.sin(t)) for t in np.linspace(math.pi * 0.86, math.pi * 2.14, 40).tolist()
        ]
        outline += [(x + r * 0.22, y + r * 1.28), (x - r * 0.22, y + r * 1.28)]
        with c.clipped(outline) as v:
            v.rect(x - r, y - r, x + r, y + r * 1.4, b)
            for k in range(-4, 5, 2):
                gore = [
                    (x + r * 1.04 * math.sin((k + s) * math.pi / 9) * math.sin(t) ** 0.8, y - r * math.cos(t) * 1.02)
                    for s in (-0.5,)
                    for t in np.linspace(0, 1.9, 14).tolist()
                ]
                back = [
                    (x + r * 1.04 * math.sin((k + 0.5) * math.pi / 9) * math.sin(t) ** 0.8, y - r * math.cos(t) * 1.02)
                    for t in np.linspace(1.9, 0, 14).tolist()
                ]
                v.poly(
                    [*gore, (x + r * 0.06 * (k - 0.5), y + r * 1.3), (x + r * 0.06 * (k + 0.5), y + r * 1.3), *back], a
                )
            v.gradient(x - r, y - r, x + r, y + r * 1.3, [lighter(b, 0.4), a, darker(a, 0.6)], across=True, alpha=0.35)
        for side in (-1, 1):
            c.line([(x + side * r * 0.2, y + r * 1.28), (x + side * r * 0.12, y + r * 1.62)], (60, 46, 40), r * 0.025)
        c.rect(x - r * 0.15, y + r * 1.6, x + r * 0.15, y + r * 1.84, self.look.far((140, 94, 56), far))
        c.rect(x - r * 0.17, y + r * 1.58, x + r * 0.17, y + r * 1.64, self.look.far((96, 62, 40), far))
        c.glow(x, y + r * 1.36, r * 0.5, (255, 190, 90), 0.7 if self.look.dark else 0.4)

    def _airship(self, c: Canvas, paint: RGB, other: RGB) -> None:
        v = c.at(self.x, self.y, self.size * 1.9, turn=-0.06)
        a = self.look.tone(paint)
        hull = [(-0.9, 0), (-0.6, -0.26), (0, -0.36), (0.6, -0.26), (0.92, 0), (0.6, 0.26), (0, 0.36), (-0.6, 0.26)]
        for y0, y1 in ((-0.12, -0.46), (0.12, 0.46)):
            v.poly([(-0.6, y0), (-1.0, y1), (-0.98, y0 * 0.3), (-0.8, 0)], darker(a, 0.3))
        v.blob(hull, a)
        v.blob(
            [(-0.88, 0.02), (-0.5, 0.1), (0.2, 0.14), (0.9, 0.03), (0.6, 0.25), (0, 0.35), (-0.6, 0.25)],
            darker(a, 0.35),
        )
        v.stroke([(-0.7, -0.12), (0, -0.22), (0.74, -0.12)], self.look.tone(other), 0.1, swell=True)
        v.blob([(-0.2, 0.36), (0.3, 0.36), (0.24, 0.5), (-0.16, 0.5)], self.look.tone((110, 76, 52)))
        for k in range(4):
            v.oval(-0.1 + 0.11 * k, 0.42, 0.03, color=(255, 226, 150))
