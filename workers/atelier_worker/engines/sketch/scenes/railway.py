"""A railway carriage on a viaduct among autumn hills; a library in it when the prompt has books."""

from __future__ import annotations

import math

import numpy as np

from ..canvas import RGB, Canvas, Point, darker, lighter
from .base import Layer, Scene
from .kit import falling, flock, hill, peak, ridge, sky
from .plants import leafy, tree


class Railway(Scene):
    """Stone arches over a valley, a lit carriage with curtains and shelves, ivy on its wheels, starlings."""

    name = "railway"

    def compose(self, rng: np.random.Generator) -> None:
        self.deck = self.h * float(rng.uniform(0.44, 0.64))
        self.length = min(self.w * 0.86, 1.02) * float(rng.uniform(0.7, 1.0))
        self.x = self.w * 0.5 + float(rng.uniform(-0.14, 0.14))
        self.arch = float(rng.uniform(0.22, 0.36))
        self.offset = float(rng.uniform(0, self.arch))
        self.books = self.reading.has("library", "book", "books", "shelf", "shelves", "reading")
        self.autumn = self.reading.has("autumn", "ivy", "fall") or bool(rng.random() < 0.4)
        self.paint: RGB = ((124, 40, 42), (36, 78, 66), (46, 62, 104), (150, 96, 40))[int(rng.integers(4))]
        self.bordered = self.reading.has("border", "illustration", "deckled")
        if self.bordered:
            self.closest = 0.0
        self.birds = self.w * float(rng.uniform(0.2, 0.8)), self.h * float(rng.uniform(0.12, 0.22))

    def layers(self) -> list[Layer]:
        layers = [
            Layer("sky", lambda c: sky(c, self, self.deck, cloudy=0.35), 0.0, "drift"),
            Layer("mountains", self._mountains, 0.1),
            Layer("starlings", self._starlings, 0.2, "drift"),
            Layer("valley", self._valley, 0.3),
            Layer("viaduct", self._viaduct, 0.5),
            Layer("carriage", self._carriage, 0.6),
            Layer("windows", self._windows, 0.6, "flicker"),
            Layer("ivy", self._ivy, 0.65),
            Layer("trees", self._trees, 0.9, "sway"),
            *falling(self),
        ]
        if self.bordered:
            layers.append(Layer("border", self._border, 1.0))
        return layers

    def _mountains(self, c: Canvas) -> None:
        rng = self.rand("mountains")
        for k in range(4):
            x = self.w * (0.1 + 0.27 * k) + float(rng.uniform(-0.08, 0.08))
            rock = self.look.far((120, 124, 156), 0.5)
            peak(
                c,
                rng,
                x,
                self.deck - float(rng.uniform(0.24, 0.42)),
                self.deck + 0.05,
                float(rng.uniform(0.26, 0.4)),
                rock,
                darker(rock, 0.15),
                self.look.far((250, 250, 255), 0.2),
            )

    def _starlings(self, c: Canvas) -> None:
        rng = self.rand("starlings")
        for k in range(5):
            flock(
                c,
                rng,
                self.birds[0] + 0.09 * k * math.cos(k),
                self.birds[1] + 0.03 * math.sin(k * 1.6),
                0.06,
                16,
                darker(self.look.haze, 0.7),
                0.01,
            )

    def _valley(self, c: Canvas) -> None:
        rng = self.rand("valley")
        for k, distance in enumerate((0.45, 0.22)):
            skyline = ridge(rng, -0.1, self.w + 0.1, self.deck + 0.04 + 0.12 * k, 0.16, rough=0.45)
            base = (176, 128, 70) if self.autumn else (92, 130, 84)
            hill(
                c,
                skyline,
                self.h + 0.1,
                self.look.far(base, distance),
                self.look.far(darker(base, 0.3), distance * 0.6),
            )
            for _ in range(34):
                x, y = skyline[int(rng.integers(len(skyline)))]
                r = float(rng.uniform(0.014, 0.03)) * (1 + k)
                leaf = (
                    ((214, 120, 44), (190, 70, 42), (226, 170, 62), (130, 130, 60))[int(rng.integers(4))]
                    if self.autumn
                    else (76, 120, 72)
                )
                y += float(rng.uniform(0, 0.2))
                c.oval(x, y, r, r * 0.9, self.look.far(darker(leaf, 0.25), distance))
                c.oval(x - r * 0.2, y - r * 0.25, r * 0.75, r * 0.65, self.look.far(leaf, distance))

    def _viaduct(self, c: Canvas) -> None:
        stone = self.look.tone((170, 150, 130))
        y = self.deck + 0.05
        spring = y + 0.045
        pier = self.arch * 0.2
        count = math.ceil(self.w / self.arch) + 3
        for k in range(-1, count):
            x = k * self.arch - self.offset
            # One pier and half an arch on each side of it, as a single outline.
            half = (self.arch - pier) / 2
            outline: list[Point] = [(x - half - pier / 2, y), (x + half + pier / 2, y)]
            outline += [
                (x + half + pier / 2 - half * math.sin(a), spring + half - half * math.cos(a))
                for a in np.linspace(0, math.pi / 2, 12).tolist()
            ]
            outline += [(x + pier / 2 + 0.012, self.h + 0.1), (x - pier / 2 - 0.012, self.h + 0.1)]
            outline += [
                (x - half - pier / 2 + half * math.sin(a), spring + half - half * math.cos(a))
                for a in np.linspace(math.pi / 2, 0, 12).tolist()
            ]
            c.poly(outline, stone)
            c.rect(x + pier * 0.14, spring + half, x + pier / 2 + 0.012, self.h + 0.1, darker(stone, 0.3), 0.7)
            for row in range(12):
                py = spring + half + 0.03 * row
                c.line([(x - pier / 2, py), (x + pier / 2, py)], darker(stone, 0.35), 0.003, 0.7)
            rim = [
                (x + half + pier / 2 - half * math.sin(a), spring + half - half * math.cos(a))
                for a in np.linspace(-math.pi / 2, math.pi / 2, 25).tolist()
            ]
            c.line(rim, darker(stone, 0.4), 0.012)
            for a in np.linspace(-1.5, 1.5, 15).tolist():
                cx, cy = x + half + pier / 2, spring + half
                c.line(
                    [
                        (cx - half * math.sin(a), cy - half * math.cos(a)),
                        (cx - (half + 0.03) * math.sin(a), cy - (half + 0.03) * math.cos(a)),
                    ],
                    darker(stone, 0.4),
                    0.004,
                )
        c.rect(0, y - 0.02, self.w, y + 0.012, lighter(stone, 0.2))
        c.rect(0, y + 0.012, self.w, y + 0.03, darker(stone, 0.3))
        c.rect(0, self.deck, self.w, self.deck + 0.012, (70, 58, 54))
        for k in range(round(self.w / 0.05) + 1):
            c.rect(k * 0.05, self.deck + 0.012, k * 0.05 + 0.024, self.deck + 0.03, self.look.tone((96, 72, 56)))

    def _frame(self, c: Canvas) -> Canvas:
        """The carriage's own units: 1 long, its wheels on y = 0."""
        return c.at(self.x, self.deck, self.length)

    def _carriage(self, c: Canvas) -> None:
        v = self._frame(c)
        paint = self.look.tone(self.accent(self.paint), 0.04)
        for x in (-0.38, -0.27, 0.27, 0.38):
            v.oval(x, -0.04, 0.045, color=(42, 40, 44))
            v.oval(x, -0.04, 0.032, color=(110, 100, 92))
            for k in range(4):
                a = k * math.pi / 4
                v.line(
                    [
                        (x - 0.032 * math.cos(a), -0.04 - 0.032 * math.sin(a)),
                        (x + 0.032 * math.cos(a), -0.04 + 0.032 * math.sin(a)),
                    ],
                    (42, 40, 44),
                    0.007,
                )
        v.rect(-0.47, -0.1, 0.47, -0.07, (50, 44, 44))
        v.rect(-0.48, -0.32, 0.48, -0.1, paint)
        v.rect(-0.48, -0.155, 0.48, -0.148, (214, 172, 84))
        v.rect(-0.48, -0.32, 0.48, -0.31, (214, 172, 84))
        for k in range(12):
            v.rect(-0.47 + 0.08 * k, -0.145, -0.464 + 0.08 * k, -0.105, darker(paint, 0.35))
        v.blob(
            [(-0.5, -0.315), (-0.49, -0.35), (-0.4, -0.375), (0, -0.385), (0.4, -0.375), (0.49, -0.35), (0.5, -0.315)],
            darker(paint, 0.55),
        )
        for x in (-0.3, 0.1):
            v.rect(x, -0.42, x + 0.05, -0.37, darker(paint, 0.4))
        v.stroke([(0.34, -0.37), (0.34, -0.44)], (60, 54, 54), 0.03, end=1, curve=False)
        for k in range(4):
            v.oval(
                0.35 + 0.03 * k,
                -0.48 - 0.035 * k,
                0.018 + 0.009 * k,
                color=lighter(self.look.haze, 0.3),
                alpha=0.45 - 0.08 * k,
            )
        v.rect(0.385, -0.3, 0.465, -0.1, darker(paint, 0.3))
        for k in range(2):
            v.rect(0.38, -0.07 + 0.03 * k, 0.48 + 0.02 * k, -0.055 + 0.03 * k, (110, 84, 62))
        # The cat asleep on the step.
        v.blob(
            [(0.4, -0.085), (0.42, -0.11), (0.46, -0.115), (0.49, -0.09), (0.47, -0.07), (0.42, -0.07)], (222, 134, 60)
        )
        v.oval(0.408, -0.088, 0.016, color=(222, 134, 60))
        v.poly([(0.396, -0.095), (0.4, -0.115), (0.409, -0.1)], (222, 134, 60))

    def _windows(self, c: Canvas) -> None:
        v, rng = self._frame(c), self.rand("books")
        for k in range(6):
            x = -0.45 + 0.138 * k
            v.rect(x - 0.006, -0.297, x + 0.116, -0.165, (214, 172, 84))
            v.gradient(x, -0.291, x + 0.11, -0.17, [(255, 226, 150), (255, 190, 96)])
            if self.books:
                for shelf in (-0.232, -0.176):
                    bx = x + 0.004
                    while bx < x + 0.1:
                        wide, tall = float(rng.uniform(0.006, 0.013)), float(rng.uniform(0.026, 0.046))
                        v.rect(
                            bx,
                            shelf - tall,
                            bx + wide,
                            shelf,
                            ((136, 50, 44), (60, 84, 96), (96, 66, 92), (156, 104, 44), (70, 92, 60))[
                                int(rng.integers(5))
                            ],
                        )
                        bx += wide + 0.001
                    v.rect(x, shelf, x + 0.11, shelf + 0.005, (110, 70, 44))
            for side in (0, 1):
                cx = x if side == 0 else x + 0.11
                d = 1 if side == 0 else -1
                v.poly(
                    [
                        (cx, -0.291),
                        (cx + 0.045 * d, -0.291),
                        (cx + 0.03 * d, -0.24),
                        (cx + 0.012 * d, -0.17),
                        (cx, -0.17),
                    ],
                    (252, 246, 230),
                    0.75,
                )
            v.glow(x + 0.055, -0.23, 0.13, (255, 200, 110), 0.35)

    def _ivy(self, c: Canvas) -> None:
        v, rng = self._frame(c), self.rand("ivy")
        for _ in range(7):
            x = float(rng.uniform(-0.47, 0.3))
            leaf = (
                ((190, 66, 44), (214, 128, 50), (150, 120, 50))[int(rng.integers(3))] if self.autumn else (66, 110, 60)
            )
            for step in range(round(float(rng.uniform(7, 20)))):
                y = 0.02 - 0.014 * step
                leafy(
                    v, rng, x + 0.012 * math.sin(step * 0.9), y, 0.016, 0.012, self.look.tone(leaf), count=4, size=0.016
                )

    def _trees(self, c: Canvas) -> None:
        rng = self.rand("trees")
        for x in (-0.02, self.w + 0.01):
            leaf = (
                ((206, 96, 40), (222, 154, 52), (182, 60, 40))[int(rng.integers(3))] if self.autumn else (62, 104, 60)
            )
            tree(
                c,
                rng,
                x,
                self.h * 1.06,
                float(rng.uniform(0.38, 0.52)),
                self.look.tone(leaf),
                self.look.tone((66, 48, 40)),
            )

    def _border(self, c: Canvas) -> None:
        cream, t = (250, 244, 226), 0.045
        for box in (
            (0, 0, self.w, t),
            (0, self.h - t, self.w, self.h),
            (0, 0, t, self.h),
            (self.w - t, 0, self.w, self.h),
        ):
            c.rect(box[0], box[1], box[2], box[3], cream)
        inner = 0.05
        c.line(
            [
                (inner, inner),
                (self.w - inner, inner),
                (self.w - inner, self.h - inner),
                (inner, self.h - inner),
                (inner, inner),
            ],
            (90, 76, 66),
            0.003,
        )
