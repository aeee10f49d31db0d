"""A bicycle that leans on a wall."""

from __future__ import annotations

import math

import numpy as np

from ..canvas import RGB, Canvas, Point, darker, lighter, mix
from ..noise import clouds
from .base import Layer, Scene
from .kit import falling, window
from .plants import leafy

_BACK: Point = (-0.36, -0.25)
_FRONT: Point = (0.4, -0.25)
_CRANK: Point = (-0.04, -0.26)
_SEAT: Point = (-0.13, -0.62)
_HEAD: Point = (0.28, -0.6)


class Bicycle(Scene):
    """A plastered wall in hard light, a window, a pot of flowers, and the bicycle with its shadow."""

    name = "bicycle"
    closest = 0.06

    def compose(self, rng: np.random.Generator) -> None:
        self.ground = self.h * float(rng.uniform(0.76, 0.9))
        self.size = min(self.w, self.ground) * float(rng.uniform(0.74, 0.98))
        self.x = self.w * float(rng.uniform(0.42, 0.58))
        self.slant = float(rng.uniform(0.12, 0.3))
        self.opening = str(rng.choice(["window", "door", "none"], p=[0.5, 0.3, 0.2]))
        self.ox = self.w * float(rng.uniform(0.1, 0.62))
        self.dado = float(rng.uniform(0.14, 0.42)) if rng.random() < 0.6 else 0.0
        self.shade = float(rng.uniform(0.15, 0.8))
        self.paint = self.accent((200, 44, 40))

    def layers(self) -> list[Layer]:
        return [
            Layer("wall", self._wall, 0.1),
            Layer("opening", self._opening, 0.12),
            Layer("ground", self._ground, 0.3),
            Layer("shadow", self._shadow, 0.35),
            Layer("bicycle", self._bicycle, 0.6),
            Layer("plants", self._plants, 0.8, "sway"),
            *falling(self),
        ]

    def _wall(self, c: Canvas) -> None:
        rng = self.rand("wall")
        white = (
            (246, 240, 228)
            if self.reading.has("whitewashed", "white") or rng.random() < 0.4
            else ((228, 196, 140), (210, 160, 136), (150, 180, 180))[int(rng.integers(3))]
        )
        plaster = self.look.tone(white)
        c.gradient(0, 0, self.w, self.ground, [lighter(plaster, 0.25), plaster, darker(plaster, 0.08)])
        c.field(
            np.clip(clouds(rng, 80, 80, cells=4) - 0.55, 0, 1) * 0.6, darker(plaster, 0.25), (0, 0, self.w, self.ground)
        )
        for _ in range(5):
            x, y = float(rng.uniform(0, self.w)), float(rng.uniform(0, self.ground))
            crack = [(x + 0.012 * k * float(rng.normal()), y + 0.02 * k) for k in range(6)]
            c.line(crack, darker(plaster, 0.4), 0.002, 0.6)
        if self.dado:
            tone = self.look.tone((70, 120, 168)) if rng.random() < 0.6 else self.look.tone((214, 170, 70))
            c.rect(0, self.ground - self.dado, self.w, self.ground, tone, 0.85)
            c.rect(0, self.ground - self.dado - 0.012, self.w, self.ground - self.dado, darker(tone, 0.3), 0.8)
        # A roof's shadow falls across the wall; its slope is the hour.
        drop = 0.1 + 0.3 * self.shade
        c.poly(
            [(0, 0), (self.w, 0), (self.w, drop * 0.3), (0, drop)], darker(mix(plaster, (80, 90, 150), 0.4), 0.25), 0.45
        )

    def _opening(self, c: Canvas) -> None:
        if self.opening == "window":
            y = self.ground * 0.14
            green = self.look.tone((46, 116, 120))
            window(
                c,
                self.ox,
                y,
                self.ox + 0.24,
                y + 0.32,
                glass=self.look.tone((64, 90, 110)),
                frame=lighter(green, 0.5),
                lit=(255, 214, 130) if self.look.dark else None,
            )
            for x in (self.ox - 0.15, self.ox + 0.27):
                c.rect(x, y - 0.02, x + 0.12, y + 0.34, green)
                for k in range(9):
                    c.rect(x + 0.015, y + 0.01 + 0.036 * k, x + 0.105, y + 0.025 + 0.036 * k, darker(green, 0.3))
            c.rect(self.ox - 0.03, y + 0.34, self.ox + 0.27, y + 0.37, self.look.tone((180, 170, 160)))
        elif self.opening == "door":
            wood, y = self.look.tone((64, 110, 150)), self.ground * 0.22
            c.rect(self.ox - 0.03, y - 0.03, self.ox + 0.35, self.ground, self.look.tone((206, 196, 180)))
            c.rect(self.ox, y, self.ox + 0.32, self.ground, wood)
            for k in range(5):
                c.line([(self.ox + 0.064 * k, y), (self.ox + 0.064 * k, self.ground)], darker(wood, 0.4), 0.004)
            c.oval(self.ox + 0.28, (y + self.ground) / 2, 0.012, color=(230, 190, 90))

    def _ground(self, c: Canvas) -> None:
        rng = self.rand("ground")
        stone = self.look.tone((186, 168, 146))
        c.gradient(0, self.ground, self.w, self.h, [darker(stone, 0.1), stone, lighter(stone, 0.1)])
        rows = max(2, round((self.h - self.ground) / 0.05))
        for r in range(rows):
            y = self.ground + (self.h - self.ground) * r / rows
            c.line([(0, y), (self.w, y)], darker(stone, 0.4), 0.004, 0.7)
            for k in range(9):
                x = self.w * (k + (r % 2) / 2 + 0.1 * float(rng.random())) / 8.5
                c.line([(x, y), (x + 0.01, y + (self.h - self.ground) / rows)], darker(stone, 0.4), 0.004, 0.7)

    def _shadow(self, c: Canvas) -> None:
        shade = darker(mix(self.look.tone((150, 150, 170)), (70, 80, 130), 0.5), 0.3)
        v = c.at(self.x + self.slant * 0.5, self.ground - 0.015, self.size * 0.98, turn=0.05)
        for hub in (_BACK, _FRONT):
            v.ring(*hub, 0.25, 0.02, shade, 0.4)
        for a, b in self._tubes():
            v.line([a, b], shade, 0.02, 0.4)
        c.oval(self.x, self.ground + 0.02, self.size * 0.55, 0.014, shade, 0.45)

    @staticmethod
    def _tubes() -> list[tuple[Point, Point]]:
        return [(_BACK, _CRANK), (_BACK, _SEAT), (_SEAT, _CRANK), (_CRANK, _HEAD), (_SEAT, _HEAD), (_HEAD, _FRONT)]

    def _bicycle(self, c: Canvas) -> None:
        v = c.at(self.x, self.ground + 0.02, self.size)
        dark: RGB = (30, 30, 34)
        steel = self.look.tone((206, 208, 212), 0.1)
        for x, y in (_BACK, _FRONT):
            v.ring(x, y, 0.25, 0.028, dark)
            v.ring(x, y, 0.228, 0.01, steel)
            for k in range(16):
                a = math.tau * k / 16 + 0.1
                v.line([(x, y), (x + 0.225 * math.cos(a), y + 0.225 * math.sin(a))], steel, 0.003, 0.9)
            v.oval(x, y, 0.022, color=steel)
            arc = [
                (x + 0.275 * math.cos(a), y + 0.275 * math.sin(a))
                for a in np.linspace(-2.9, -0.5 if x < 0 else -1.2, 16).tolist()
            ]
            v.stroke(arc, self.look.tone(self.paint), 0.022, end=1)
        paint = self.look.tone(self.paint, 0.06)
        for p, q in self._tubes():
            v.line([p, q], darker(paint, 0.35), 0.038)
            v.line([(p[0] - 0.004, p[1] - 0.006), (q[0] - 0.004, q[1] - 0.006)], paint, 0.026)
            v.line([(p[0] - 0.008, p[1] - 0.01), (q[0] - 0.008, q[1] - 0.01)], lighter(paint, 0.45), 0.005)
        v.line([_CRANK, _BACK], dark, 0.012)
        v.ring(*_CRANK, 0.07, 0.016, steel)
        v.line([(_CRANK[0] - 0.06, _CRANK[1] - 0.08), (_CRANK[0] + 0.06, _CRANK[1] + 0.08)], dark, 0.018)
        v.rect(_CRANK[0] + 0.02, _CRANK[1] + 0.075, _CRANK[0] + 0.11, _CRANK[1] + 0.1, dark)
        v.rect(_CRANK[0] - 0.11, _CRANK[1] - 0.1, _CRANK[0] - 0.02, _CRANK[1] - 0.075, dark)
        v.line([_SEAT, (-0.155, -0.7)], steel, 0.02)
        v.blob(
            [(-0.27, -0.73), (-0.2, -0.745), (-0.04, -0.72), (-0.05, -0.7), (-0.16, -0.69), (-0.26, -0.67)],
            (92, 56, 36),
        )
        v.line([_HEAD, (0.255, -0.72)], steel, 0.022)
        v.stroke([(0.255, -0.72), (0.33, -0.76), (0.38, -0.72), (0.34, -0.66), (0.24, -0.65)], dark, 0.026, end=1)
        v.oval(0.34, -0.62, 0.035, color=steel)
        if self.rand("basket").random() < 0.6:
            wicker = self.look.tone((176, 124, 70))
            v.poly([(0.33, -0.72), (0.58, -0.72), (0.54, -0.52), (0.37, -0.52)], wicker)
            for k in range(6):
                v.line([(0.34 + 0.045 * k, -0.72), (0.375 + 0.035 * k, -0.52)], darker(wicker, 0.4), 0.006)
                v.line([(0.335, -0.71 + 0.034 * k), (0.575, -0.71 + 0.034 * k)], darker(wicker, 0.3), 0.005)
            leafy(
                v, self.rand("flowers"), 0.455, -0.76, 0.12, 0.05, self.look.tone((236, 190, 70)), count=26, size=0.03
            )

    def _plants(self, c: Canvas) -> None:
        rng = self.rand("plants")
        side = 0.08 if rng.random() < 0.5 else self.w - 0.08
        clay = self.look.tone((178, 92, 60))
        leafy(c, rng, side, self.ground - 0.2, 0.12, 0.15, self.look.tone((70, 124, 64)), count=90, size=0.03)
        for _ in range(12):
            c.oval(
                side + float(rng.normal()) * 0.06,
                self.ground - 0.2 + float(rng.normal()) * 0.07,
                0.014,
                color=self.look.tone((226, 92, 120)),
            )
        c.poly(
            [
                (side - 0.08, self.ground - 0.1),
                (side + 0.08, self.ground - 0.1),
                (side + 0.055, self.ground + 0.05),
                (side - 0.055, self.ground + 0.05),
            ],
            clay,
        )
        c.rect(side - 0.09, self.ground - 0.115, side + 0.09, self.ground - 0.075, lighter(clay, 0.15))
