"""Paper boats in the running water of a gutter, seen from close to the water."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from ..canvas import RGB, Canvas, darker, lighter, mix
from .base import Layer, Scene
from .kit import rain


class PaperBoats(Scene):
    """A kerb, wet cobbles, a stream with drops falling into it, and folded boats one behind the other."""

    name = "paperboats"
    closest = 0.22

    def compose(self, rng: np.random.Generator) -> None:
        self.shore = self.h * float(rng.uniform(0.3, 0.48))
        self.kerb = float(rng.uniform(0.08, 0.2))
        self.slope = float(rng.uniform(-0.05, 0.05))
        front = self.w * float(rng.uniform(0.3, 0.66))
        self.wet = float(rng.uniform(0, 0.55))
        self.boats = [
            (front, 0.62, 0.25),
            (front + self.w * float(rng.uniform(0.22, 0.32)), 0.4, 0.15),
            (front - self.w * float(rng.uniform(0.26, 0.34)), 0.3, 0.12),
        ]
        self.lean = [float(v) for v in rng.uniform(-0.1, 0.1, 3)]
        self.printed = bool(rng.random() < 0.5)
        papers: tuple[RGB, ...] = ((250, 246, 236), (250, 206, 96), (226, 92, 80), (140, 192, 212))
        self.papers = [self.accent(papers[0]), *(papers[int(k)] for k in rng.permutation(4)[:2])]

    def layers(self) -> list[Layer]:
        layers = [
            Layer("street", self._street, 0.1),
            Layer("kerb", self._kerb, 0.3),
            Layer("water", self._water, 0.4, "water"),
        ]
        for k in (2, 1, 0):
            layers.append(Layer(f"boat {k}", partial(self._boat, k=k), 0.5 + 0.15 * (2 - k), "bob", self._place(k)))
        layers += [Layer("drops", self._drops, 0.8), Layer("petals", self._petals, 0.85, "drift")]
        if self.weather("rain") or self.weather("storm"):
            layers.append(
                Layer(
                    "rain",
                    lambda c: rain(c, self.rand("rain"), (232, 240, 248), count=200, slant=0.12, alpha=0.45),
                    1.0,
                )
            )
        return layers

    def _place(self, k: int) -> tuple[float, float]:
        x, t, _ = self.boats[k]
        return x, self.shore + (self.h - self.shore) * t

    def _street(self, c: Canvas) -> None:
        rng, look = self.rand("street"), self.look
        c.gradient(
            0,
            0,
            self.w,
            self.shore,
            [look.far((120, 128, 138), 0.8 - self.wet), look.tone((122, 124, 128)), look.tone((86, 90, 98))],
        )
        # The street beyond, out of focus: green of spring trees, a lamp, a red wheel of light.
        for _ in range(26):
            x, y = float(rng.uniform(0, self.w)), float(rng.uniform(-0.05, self.shore * 0.42))
            color: RGB = ((128, 172, 104), (170, 198, 130), (236, 184, 200), (210, 216, 220), (246, 206, 130))[
                int(rng.integers(5))
            ]
            c.oval(x, y, float(rng.uniform(0.03, 0.075)), color=look.far(color, 0.25), alpha=0.55)
        c.soften(0.012, (0, 0, self.w, self.shore))
        for row in range(5):
            y = self.shore * (0.5 + 0.1 * row)
            step = 0.07 + 0.025 * row
            for k in range(math.ceil(self.w / step) + 1):
                x = k * step - (row % 2) * step / 2
                stone = mix(look.tone((126, 124, 126)), look.tone((92, 96, 108)), float(rng.random()))
                c.oval(x, y, step * 0.46, 0.026 + 0.004 * row, darker(stone, 0.3))
                c.oval(x, y - 0.005, step * 0.43, 0.022 + 0.004 * row, stone)
                c.stroke(
                    [(x - step * 0.25, y - 0.012), (x, y - 0.019), (x + step * 0.25, y - 0.012)],
                    lighter(look.haze, 0.2),
                    0.006,
                    0.6,
                    swell=True,
                )

    def _kerb(self, c: Canvas) -> None:
        rng = self.rand("kerb")
        stone = self.look.tone((172, 168, 164))
        top = self.shore - self.kerb
        c.poly(
            [(0, top + self.slope), (self.w, top - self.slope), (self.w, self.shore + 0.05), (0, self.shore + 0.05)],
            darker(stone, 0.3),
        )
        c.poly(
            [
                (0, top + self.slope),
                (self.w, top - self.slope),
                (self.w, top + 0.035 - self.slope),
                (0, top + 0.035 + self.slope),
            ],
            lighter(stone, 0.25),
        )
        x = float(rng.uniform(0, 0.2))
        while x < self.w:
            c.line([(x, top), (x + 0.01, self.shore + 0.05)], darker(stone, 0.65), 0.008)
            x += float(rng.uniform(0.3, 0.42))
        for _ in range(40):
            x, y = float(rng.uniform(0, self.w)), float(rng.uniform(top + 0.04, self.shore))
            c.stroke([(x, y), (x - 0.002, y + 0.04)], lighter(stone, 0.3), 0.004, 0.5)
        for _ in range(8):
            x = float(rng.uniform(0, self.w))
            for k in range(5):
                c.stroke(
                    [(x, top + 0.02), (x + 0.012 * (k - 2), top - 0.02 - 0.02 * float(rng.random()))],
                    self.look.tone((96, 150, 70)),
                    0.007,
                )

    def _water(self, c: Canvas) -> None:
        rng, look = self.rand("water"), self.look
        deep = mix(look.tone((58, 92, 104)), look.haze, self.wet)
        c.gradient(0, self.shore, self.w, self.h, [darker(deep, 0.45), deep, mix(deep, look.haze, 0.35)])
        for _ in range(150):
            t = float(rng.random()) ** 1.3
            y = self.shore + (self.h - self.shore) * t
            x, span = float(rng.uniform(-0.1, self.w)), (0.06 + 0.24 * t) * float(rng.uniform(0.4, 1))
            color = lighter(look.haze, 0.35) if rng.random() < 0.5 else darker(deep, 0.35)
            c.stroke(
                [(x, y), (x + span * 0.35, y - 0.008 - 0.014 * t), (x + span * 0.7, y + 0.006), (x + span, y - 0.004)],
                color,
                0.004 + 0.01 * t,
                0.5,
                swell=True,
            )
        c.gradient(0, self.shore, self.w, self.shore + 0.06, [(16, 24, 32), deep], alpha=0.6, fade=True)

    def _boat(self, c: Canvas, k: int) -> None:
        """A folded boat: hull, two sides of its peak, its reflection and the wave at its bow."""
        x, y = self._place(k)
        size = self.boats[k][2] * 2.1
        paper = self.look.tone(self.papers[k], 0.06)
        shade, deep = darker(paper, 0.24), darker(paper, 0.42)
        m = c.at(x, y, size, tall=-0.6)
        m.poly([(-0.5, -0.3), (0.5, -0.3), (0.3, 0), (-0.3, 0)], mix(paper, self.look.tone((58, 92, 104)), 0.5), 0.5)
        m.poly([(-0.22, -0.2), (0.22, -0.2), (0, -0.72)], mix(paper, self.look.tone((58, 92, 104)), 0.55), 0.4)
        c.oval(x, y + 0.004, size * 0.42, size * 0.06, (20, 34, 42), 0.55)
        v = c.at(x, y, size, turn=self.lean[k])
        v.poly([(-0.2, -0.16), (0, -0.7), (0.0, -0.1)], paper)
        v.poly([(0.2, -0.16), (0, -0.7), (0.0, -0.1)], shade)
        v.poly([(-0.56, -0.34), (0, -0.2), (0, 0.02), (-0.3, 0.02)], lighter(paper, 0.25))
        v.poly([(0.56, -0.34), (0, -0.2), (0, 0.02), (0.3, 0.02)], shade)
        v.poly([(-0.56, -0.34), (0, -0.2), (-0.1, -0.14), (-0.38, -0.2)], paper)
        v.poly([(0.56, -0.34), (0, -0.2), (0.1, -0.14), (0.38, -0.2)], deep)
        v.line([(0, -0.2), (0, 0.02)], deep, 0.01)
        v.line([(0, -0.7), (0, -0.2)], deep, 0.008)
        v.line([(-0.28, -0.27), (-0.14, 0.02)], shade, 0.007)
        if self.printed and k == 0:
            for row in range(5):
                v.line(
                    [(-0.36 + 0.04 * row, -0.2 + 0.035 * row), (-0.06, -0.13 + 0.028 * row)],
                    (110, 110, 116),
                    0.009,
                    0.8,
                )
        foam = (244, 250, 252)
        v.stroke([(-0.46, 0.05), (-0.2, 0.005), (0.1, 0.05), (0.36, 0.01), (0.52, 0.05)], foam, 0.03, 0.8, swell=True)
        c.ring(x, y + 0.015, size * 0.56, 0.004, foam, 0.5, ry=size * 0.1)

    def _drops(self, c: Canvas) -> None:
        """Drops that have just struck: rings and little crowns."""
        rng = self.rand("drops")
        for _ in range(16 if self.weather("rain") else 4):
            t = float(rng.uniform(0.1, 1))
            x, y = float(rng.uniform(0, self.w)), self.shore + (self.h - self.shore) * t
            r = (0.015 + 0.045 * t) * float(rng.uniform(0.5, 1.1))
            for k in range(2):
                c.ring(x, y, r * (1 - 0.45 * k), 0.004, (236, 244, 248), 0.7, ry=r * 0.26 * (1 - 0.45 * k))
            if rng.random() < 0.6:
                for dx in (-0.5, 0, 0.5):
                    c.stroke([(x + dx * r * 0.4, y), (x + dx * r * 0.9, y - r * 0.9)], (244, 250, 252), 0.006, 0.85)
                    c.oval(x + dx * r, y - r * 1.1, 0.004, color=(250, 252, 255), alpha=0.9)

    def _petals(self, c: Canvas) -> None:
        rng = self.rand("petals")
        for _ in range(18):
            t = float(rng.random())
            x, y = float(rng.uniform(0, self.w)), self.shore + (self.h - self.shore) * t
            c.at(x, y, 1, turn=float(rng.uniform(0, 3)), tall=0.6).oval(
                0, 0, 0.007 + 0.009 * t, 0.004 + 0.006 * t, self.look.tone((250, 190, 206)), 0.95
            )
