"""A Japanese alley by night: paper lanterns, shop curtains, signs, and all of it again in the wet ground."""

from __future__ import annotations

import math

import numpy as np

from ..canvas import RGB, Canvas, darker, lighter, mix
from .base import Layer
from .kit import lantern, person, rain, stars
from .receding import Receding

_SIGNS: tuple[RGB, ...] = ((255, 72, 96), (80, 220, 230), (255, 196, 70), (190, 110, 255), (110, 240, 150))


class Alley(Receding):
    """Two rows of eaves towards a lit end, lanterns along them, figures with umbrellas, puddles."""

    name = "alley"

    def compose(self, rng: np.random.Generator) -> None:
        self.vx, self.vy = self.w * float(rng.uniform(0.36, 0.64)), self.h * float(rng.uniform(0.42, 0.56))
        self.ground = self.vy + float(rng.uniform(0.06, 0.1))
        self.floor = self.h * float(rng.uniform(0.7, 0.82))
        self.big = float(rng.uniform(0.055, 0.085))
        self.figures = [
            (float(rng.uniform(-0.12, 0.12)), float(rng.uniform(0.45, 0.8))) for _ in range(int(rng.integers(1, 4)))
        ]
        self.red = self.accent((226, 52, 38))
        self.bar: RGB = ((44, 28, 30), (30, 32, 44), (48, 36, 28))[int(rng.integers(3))]

    def layers(self) -> list[Layer]:
        layers = [
            Layer("sky", self._sky, 0.0),
            Layer("end", self._end, 0.1),
            Layer("left", lambda c: self._side(c, -1), 0.4),
            Layer("right", lambda c: self._side(c, 1), 0.4),
            Layer("lanterns", self._lanterns, 0.5, "flicker"),
            Layer("ground", self._ground, 0.55, "water"),
            Layer("figures", self._people, 0.7),
            Layer("near lantern", self._near, 0.9, "sway"),
        ]
        if self.weather("rain") or self.weather("storm"):
            layers.append(
                Layer(
                    "rain", lambda c: rain(c, self.rand("rain"), (186, 206, 236), count=240, slant=0.12, alpha=0.4), 1.0
                )
            )
        return layers

    def _sky(self, c: Canvas) -> None:
        tint = self.look.hues[0].rgb(0.25) if self.look.hues else (16, 18, 44)
        c.gradient(0, 0, self.w, self.h, [darker(tint, 0.6), tint, lighter(tint, 0.12)])
        stars(c, self.rand("stars"), self.vy, 40)
        c.glow(self.vx, self.vy, 0.6, (255, 120, 60), 0.5)

    def _end(self, c: Canvas) -> None:
        x, y = self.vx, self.vy
        c.rect(x - 0.11, y - 0.1, x + 0.11, y + 0.12, (88, 44, 30))
        c.gradient(x - 0.08, y - 0.04, x + 0.08, y + 0.1, [(255, 214, 130), (255, 150, 70)])
        for k in range(5):
            c.line([(x - 0.08 + 0.04 * k, y - 0.04), (x - 0.08 + 0.04 * k, y + 0.1)], (88, 44, 30), 0.005)
        c.poly([(x - 0.16, y - 0.08), (x - 0.1, y - 0.15), (x + 0.1, y - 0.15), (x + 0.16, y - 0.08)], (34, 24, 30))
        c.poly([(x - 0.12, y - 0.17), (x - 0.07, y - 0.23), (x + 0.07, y - 0.23), (x + 0.12, y - 0.17)], (28, 20, 28))
        c.glow(x, y + 0.02, 0.3, (255, 170, 80), 0.7)

    def _side(self, c: Canvas, side: int) -> None:
        edge = self.w + 0.03 if side > 0 else -0.03
        bottom = self._wall_bottom()
        depths = [0.0, 0.34, 0.56, 0.72, 0.84]
        for i in range(3, -1, -1):
            near, far = depths[i], depths[i + 1]
            rng = self.rand("shop", side, i)

            quad = self.side_wall(c, edge, near, far)

            wood = mix(self.bar, (90, 60, 46), 0.25 * i / 3 + 0.2 * float(rng.random()))
            quad(0, 1, -0.8, bottom, wood)
            for k in range(7):
                quad(k / 7, k / 7 + 0.02, -0.8, bottom, darker(wood, 0.5))
            # Upper floor: a paper window; lower floor: the open shop with its curtain.
            quad(0.15, 0.8, -0.2, 0.12 * self.h, (255, 206, 124) if rng.random() < 0.6 else (66, 64, 88))
            for k in range(5):
                quad(0.15 + 0.13 * k, 0.165 + 0.13 * k, -0.2, 0.12 * self.h, darker(wood, 0.4))
            quad(0.15, 0.8, -0.04, -0.02, darker(wood, 0.4))
            warm = (255, 186, 96)
            quad(0.12, 0.86, self.h * 0.42, bottom, warm)
            quad(0.12, 0.86, self.h * 0.74, bottom, darker(wood, 0.2))
            for k in range(4):
                quad(
                    0.2 + 0.17 * k,
                    0.28 + 0.17 * k,
                    self.h * 0.62,
                    self.h * 0.74,
                    darker(((120, 60, 40), (60, 80, 70))[k % 2], 0.2),
                )
            cloth = ((44, 58, 112), (150, 36, 40), (38, 76, 66))[int(rng.integers(3))]
            for k in range(4):
                quad(0.12 + 0.185 * k, 0.29 + 0.185 * k, self.h * 0.36, self.h * 0.52, cloth)
                quad(0.17 + 0.185 * k, 0.24 + 0.185 * k, self.h * 0.4, self.h * 0.46, (240, 230, 210), 0.85)
            # The eaves stand out over the alley.
            inner = edge - side * 0.16
            roof = [
                self.at(edge, self.h * 0.22, near),
                self.at(inner, self.h * 0.34, near),
                self.at(inner, self.h * 0.34, far),
                self.at(edge, self.h * 0.22, far),
            ]
            c.poly(roof, (36, 34, 46))
            c.line([roof[1], roof[2]], (92, 84, 96), 0.012 * (1 - near))
            for k in range(8):
                d = near + (far - near) * k / 8
                c.line(
                    [self.at(edge, self.h * 0.22, d), self.at(inner, self.h * 0.34, d)],
                    (62, 58, 72),
                    0.006 * (1 - near),
                )
            sign = _SIGNS[int(rng.integers(5))]
            self._sign(c, edge - side * 0.2, near + (far - near) * 0.5, sign, rng)

    def _wall_bottom(self) -> float:
        """The near plane's height at which walls meet the ground: it is at `floor` halfway to the vanishing point."""
        return self.h * 1.12

    def _sign(self, c: Canvas, x: float, depth: float, color: RGB, rng: np.random.Generator) -> None:
        """An upright lit sign with strokes that stand for letters."""
        (sx, sy), s = self.at(x, -0.06, depth), 1 - depth
        wide, tall = 0.05 * s, 0.3 * s
        c.rect(sx - wide - 0.006, sy - 0.006, sx + wide + 0.006, sy + tall + 0.006, (20, 16, 24))
        c.rect(sx - wide, sy, sx + wide, sy + tall, mix(color, (20, 16, 30), 0.55))
        for k in range(4):
            y = sy + tall * (0.06 + 0.235 * k)
            for _ in range(4):
                a = (sx + wide * float(rng.uniform(-0.6, 0.6)), y + tall * 0.18 * float(rng.random()))
                b = (
                    (sx + wide * float(rng.uniform(-0.6, 0.6)), y + tall * 0.18 * float(rng.random()))
                    if rng.random() < 0.4
                    else ((a[0] + wide * 0.8, a[1]) if rng.random() < 0.5 else (a[0], a[1] + tall * 0.14))
                )
                c.line([a, b], lighter(color, 0.6), 0.011 * s)
        c.glow(sx, sy + tall / 2, tall * 0.95, color, 0.5)

    def _lanterns(self, c: Canvas) -> None:
        for side in (-1, 1):
            edge = (self.w + 0.03 if side > 0 else -0.03) - side * 0.2
            for depth in (0.78, 0.66, 0.52, 0.36, 0.16):
                x, y = self.at(edge, self.h * 0.46, depth)
                lantern(
                    c,
                    x,
                    y,
                    self.big * (1 - depth) * 0.95,
                    self.red if (side > 0) == (int(depth * 100) % 4 == 0) else (244, 232, 206),
                )
        wire = [(self.vx - 0.34 + 0.68 * k / 20, self.vy - 0.26 + 0.06 * math.sin(math.pi * k / 20)) for k in range(21)]
        c.line(wire, (14, 12, 18), 0.003)
        for k in range(2, 20, 4):
            lantern(c, wire[k][0], wire[k][1] + 0.045, 0.024, self.red)

    def _ground(self, c: Canvas) -> None:
        """Wet stones: the alley above, upside down and broken up."""
        base = self.vy + 0.1
        c.reflect(base, tint=(22, 22, 40), amount=0.62, ripple=0.013, depth=1.0, rng=self.rand("ripples"))
        left, right = self.at(-0.03, self.h * 1.12, 0), self.at(self.w + 0.03, self.h * 1.12, 0)
        rng = self.rand("stones")
        for r in range(1, 14):
            depth = 1 - 1 / (1 + 0.28 * (14 - r))
            y = self.at(0, self.h * 1.12, depth)[1]
            if y < base:
                continue
            a, b = self.at(left[0], 0, depth)[0], self.at(right[0], 0, depth)[0]
            c.line([(a, y), (b, y)], (14, 14, 26), 0.004 * (1.3 - depth), 0.55)
            for _ in range(6):
                x = a + (b - a) * float(rng.random())
                c.line(
                    [(x, y), (x + (x - self.vx) * 0.1, y + 0.06 * (1.1 - depth))],
                    (14, 14, 26),
                    0.004 * (1.2 - depth),
                    0.5,
                )
        for _ in range(26):
            y = base + (self.h - base) * float(rng.random()) ** 0.8
            t = (y - base) / (self.h - base)
            x = self.vx + float(rng.normal()) * 0.3 * (0.2 + t)
            c.ring(
                x,
                y,
                (0.012 + 0.04 * t) * float(rng.uniform(0.5, 1.2)),
                0.003,
                (214, 200, 220),
                0.45,
                ry=(0.004 + 0.012 * t),
            )

    def _people(self, c: Canvas) -> None:
        rng = self.rand("people")
        for k, (offset, depth) in enumerate(sorted(self.figures, key=lambda f: -f[1])):
            x, base = self.at(self.w * 0.5 + offset * 2.6, self.h * 1.02, depth)
            tall = 0.72 * (1 - depth)
            c.oval(x, base, tall * 0.2, tall * 0.03, (8, 8, 16), 0.6)
            c.gradient(
                x - tall * 0.12,
                base,
                x + tall * 0.12,
                base + tall * 0.7,
                [(18, 16, 28), (30, 26, 44)],
                alpha=0.55,
                fade=True,
            )
            umbrella = ((206, 52, 48), (236, 226, 206), (60, 120, 130))[(k + int(rng.integers(3))) % 3]
            person(c, x, base, tall, ((40, 38, 60), (70, 44, 52), (36, 56, 60))[k % 3], umbrella=umbrella, away=True)

    def _near(self, c: Canvas) -> None:
        x = self.w * (0.86 if self.vx < self.w / 2 else 0.14)
        lantern(c, x, self.h * 0.2, self.big * 1.35, self.red)
        for k in range(3):
            y = self.h * 0.2 + self.big * (-0.62 + 0.6 * k)
            for dx, dy, ex, ey in ((-0.18, 0, 0.18, 0), (0, -0.14, 0, 0.22), (-0.16, 0.14, 0.16, 0.12)):
                c.line(
                    [(x + dx * self.big, y + dy * self.big), (x + ex * self.big, y + ey * self.big)],
                    (44, 18, 18),
                    self.big * 0.09,
                )
