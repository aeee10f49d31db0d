"""Space: planets, a nebula, a rocket."""

from __future__ import annotations

import math

import numpy as np

from ..canvas import RGB, Canvas, darker, lighter, mix
from ..noise import clouds
from .base import Layer, Scene
from .kit import stars


class Space(Scene):
    """A ringed or banded planet before a coloured nebula, moons, a rocket with its trail or an astronaut."""

    name = "space"

    def compose(self, rng: np.random.Generator) -> None:
        self.x, self.y = self.w * float(rng.uniform(0.28, 0.72)), self.h * float(rng.uniform(0.3, 0.72))
        self.size = float(rng.uniform(0.2, 0.36))
        self.ringed = self.reading.has("saturn", "ring") or bool(rng.random() < 0.55)
        self.rocket = self.reading.has("rocket", "spaceship", "ship", "astronaut") or bool(rng.random() < 0.4)
        pairs: tuple[tuple[RGB, RGB], ...] = (
            ((226, 146, 84), (246, 206, 150)),
            ((80, 150, 196), (190, 226, 230)),
            ((176, 86, 130), (240, 170, 170)),
            ((196, 80, 56), (236, 150, 100)),
        )
        self.band, self.pale = pairs[3] if self.reading.has("mars") else pairs[int(rng.integers(4))]
        self.clouds: tuple[RGB, RGB] = (
            ((120, 50, 150), (40, 110, 170)),
            ((170, 50, 90), (60, 60, 160)),
            ((30, 130, 130), (90, 60, 170)),
        )[int(rng.integers(3))]
        self.tilt = float(rng.uniform(-0.6, 0.6))
        self.light = float(rng.uniform(0, math.tau))

    def layers(self) -> list[Layer]:
        layers = [
            Layer("nebula", self._nebula, 0.0, "drift"),
            Layer("moons", self._moons, 0.3),
            Layer("planet", self._planet, 0.5),
        ]
        if self.rocket:
            layers.append(Layer("rocket", self._rocket, 0.8, "bob"))
        return layers

    def _nebula(self, c: Canvas) -> None:
        rng = self.rand("nebula")
        c.gradient(0, 0, self.w, self.h, [(8, 8, 24), (16, 14, 40), (6, 8, 22)])
        for color in self.clouds:
            field = clouds(rng, 80, round(80 * self.w / self.h), cells=1.6, octaves=5)
            c.field(np.clip((field - 0.48) * 1.9, 0, 0.85), color)
        stars(c, rng, self.h * 1.05, 320)
        for _ in range(9):
            x, y = float(rng.uniform(0, self.w)), float(rng.uniform(0, self.h))
            c.glow(x, y, 0.05, (220, 226, 255), 0.8)
            for dx, dy in ((0.022, 0), (0, 0.022)):
                c.stroke([(x - dx, y - dy), (x, y), (x + dx, y + dy)], (250, 250, 255), 0.004, swell=True)

    def _globe(self, c: Canvas, x: float, y: float, r: float, color: RGB) -> None:
        outline = [
            (x + r * math.cos(a), y + r * math.sin(a)) for a in np.linspace(0, math.tau, 72, endpoint=False).tolist()
        ]
        rng = self.rand("globe", str(r))
        with c.clipped(outline) as v:
            v.rect(x - r, y - r, x + r, y + r, color)
            t = v.at(x, y, r, turn=self.tilt)
            for _ in range(9):
                by, high = float(rng.uniform(-1, 1)), float(rng.uniform(0.04, 0.14))
                t.blob(
                    [
                        (-1.2, by),
                        (-0.4, by - high * 0.6),
                        (0.4, by - high * 0.3),
                        (1.2, by - high),
                        (1.2, by + high * 0.4),
                        (0, by + high * 0.7),
                    ],
                    mix(color, self.pale, float(rng.random())),
                    0.75,
                )
            t = v.at(x, y, r, turn=self.light)
            half = np.linspace(-math.pi / 2, math.pi / 2, 24).tolist()
            for edge in (0.45, 0.25, 0.05, -0.15, -0.35, -0.55):
                t.poly(
                    [
                        *((-1.05 * math.cos(a), 1.05 * math.sin(a)) for a in half),
                        *((edge * math.cos(a), 1.05 * math.sin(a)) for a in reversed(half)),
                    ],
                    (4, 4, 16),
                    0.25,
                )
        sx, sy = x + r * 0.7 * math.cos(self.light), y + r * 0.7 * math.sin(self.light)
        c.glow(x + (sx - x) * 0.5, y + (sy - y) * 0.5, r * 1.5, lighter(color, 0.3), 0.3)

    def _moons(self, c: Canvas) -> None:
        rng = self.rand("moons")
        for k in range(2):
            a = float(rng.uniform(0, math.tau))
            self._globe(
                c,
                self.x + self.size * 1.7 * math.cos(a),
                self.y + self.size * 1.5 * math.sin(a),
                self.size * (0.16 + 0.1 * k),
                (170, 166, 160) if k else (140, 120, 130),
            )

    def _planet(self, c: Canvas) -> None:
        color = self.accent(self.look.hues[0].rgb(0.7) if self.look.hues else self.band)
        if self.ringed:
            self._ring(c, back=True)
        self._globe(c, self.x, self.y, self.size, color)
        if self.ringed:
            self._ring(c, back=False)

    def _ring(self, c: Canvas, *, back: bool) -> None:
        v = c.at(self.x, self.y, self.size, turn=self.tilt)
        start = math.pi if back else 0.0
        for k in range(7):
            r = 1.35 + 0.09 * k
            arc = [(r * math.cos(a), r * 0.26 * math.sin(a)) for a in np.linspace(start, start + math.pi, 40).tolist()]
            v.stroke(arc, mix(self.pale, self.band, (k % 3) / 2), 0.07, 0.4 + 0.14 * (k % 4), end=1, curve=False)

    def _rocket(self, c: Canvas) -> None:
        away = 1 if self.x < self.w / 2 else -1
        v = c.at(
            self.w * (0.5 + 0.28 * away), self.h * 0.7 if self.y < self.h / 2 else self.h * 0.3, 0.27, turn=0.6 * away
        )
        for k in range(12):
            v.oval(
                0.02 * math.sin(k * 2),
                0.68 + 0.14 * k,
                0.1 + 0.018 * k,
                color=mix((255, 226, 150), (190, 190, 210), k / 5),
                alpha=0.7 - 0.055 * k,
            )
        v.blob([(-0.12, 0.48), (0, 0.95), (0.12, 0.48)], (255, 150, 50))
        v.blob([(-0.06, 0.48), (0, 0.75), (0.06, 0.48)], (255, 240, 180))
        for side in (-1, 1):
            v.poly([(0.14 * side, 0.15), (0.36 * side, 0.55), (0.14 * side, 0.46)], (206, 56, 50))
        v.blob(
            [(0, -0.75), (-0.16, -0.4), (-0.2, 0.05), (-0.14, 0.5), (0.14, 0.5), (0.2, 0.05), (0.16, -0.4)],
            (236, 236, 240),
        )
        v.blob([(0.02, -0.72), (0.15, -0.4), (0.19, 0.05), (0.13, 0.49), (0.06, 0.49), (0.1, 0)], (170, 176, 190))
        v.poly([(0, -0.8), (-0.13, -0.46), (0.13, -0.46)], (206, 56, 50))
        v.oval(0, -0.2, 0.1, color=(60, 70, 90))
        v.oval(0, -0.2, 0.075, color=darker((120, 206, 236), 0.05))
