"""What is drawn when no word names a subject: a composition of shapes in the prompt's colours and light."""

from __future__ import annotations

import math

import numpy as np

from ..canvas import RGB, Canvas, darker, lighter, mix
from ..noise import clouds
from .base import Layer, Scene

_PALETTES: tuple[tuple[RGB, ...], ...] = (
    ((24, 40, 62), (214, 84, 60), (242, 190, 90), (236, 226, 206), (70, 130, 140)),
    ((46, 30, 62), (226, 110, 130), (250, 200, 150), (120, 96, 170), (240, 236, 226)),
    ((20, 58, 54), (230, 170, 60), (240, 232, 206), (190, 72, 50), (96, 150, 120)),
    ((232, 224, 206), (34, 50, 74), (206, 60, 52), (236, 178, 66), (88, 128, 150)),
)


class Abstract(Scene):
    """Discs, bands, arcs and lines around one great form; each seed composes them anew."""

    name = "abstract"

    def compose(self, rng: np.random.Generator) -> None:
        self.colors = _PALETTES[int(rng.integers(len(_PALETTES)))]
        self.x, self.y = self.w * float(rng.uniform(0.28, 0.72)), self.h * float(rng.uniform(0.28, 0.72))
        self.size = float(rng.uniform(0.2, 0.38))
        self.kind = int(rng.integers(3))
        self.angle = float(rng.uniform(0, math.tau))

    def layers(self) -> list[Layer]:
        return [
            Layer("ground", self._ground, 0.0),
            Layer("bands", self._bands, 0.2, "drift"),
            Layer("form", self._form, 0.5, "turn", (self.x, self.y)),
            Layer("shapes", self._shapes, 0.7, "bob"),
            Layer("lines", self._lines, 0.9, "sway"),
        ]

    def _ground(self, c: Canvas) -> None:
        base = self.look.tone(self.colors[0])
        c.gradient(0, 0, self.w, self.h, [lighter(base, 0.15), base, darker(base, 0.2)])
        c.field(clouds(self.rand("ground"), 60, 60) * 0.4, self.look.tone(self.colors[4]))

    def _bands(self, c: Canvas) -> None:
        rng = self.rand("bands")
        v = c.at(self.w / 2, self.h / 2, 1, turn=self.angle)
        y = -1.2
        while y < 1.2:
            wide = float(rng.uniform(0.04, 0.2))
            if rng.random() < 0.55:
                v.rect(-1.8, y, 1.8, y + wide, self.look.tone(self.colors[int(rng.integers(5))]), 0.75)
            y += wide

    def _form(self, c: Canvas) -> None:
        v = c.at(self.x, self.y, self.size, turn=self.angle)
        for k in range(6):
            color, s = self.look.tone(self.colors[(k + 1) % 5]), 1 - k * 0.16
            if self.kind == 0:
                v.oval(0.06 * k, 0.03 * k, s, color=color)
            elif self.kind == 1:
                v.poly(
                    [
                        (s * math.cos(a + 0.2 * k), s * math.sin(a + 0.2 * k))
                        for a in np.linspace(0, math.tau, 4)[:3].tolist()
                    ],
                    color,
                )
            else:
                arc = np.linspace(0, math.pi, 30).tolist()
                v.poly([*((s * math.cos(a), s * math.sin(a)) for a in arc)], color)
                v.poly(
                    [*((s * 0.8 * math.cos(a), -s * 0.8 * math.sin(a)) for a in arc)], mix(color, self.colors[0], 0.35)
                )

    def _shapes(self, c: Canvas) -> None:
        rng = self.rand("shapes")
        for k in range(14):
            x, y, r = float(rng.uniform(0, self.w)), float(rng.uniform(0, self.h)), float(rng.uniform(0.015, 0.09))
            color = self.look.tone(self.colors[int(rng.integers(5))])
            v = c.at(x, y, r, turn=float(rng.uniform(0, 6)))
            if k % 3 == 0:
                v.oval(0, 0, 1, color=color, alpha=0.92)
            elif k % 3 == 1:
                v.rect(-1, -0.6, 1, 0.6, color, 0.92)
            else:
                v.poly([(-1, 0.8), (1, 0.8), (0, -1)], color, 0.92)

    def _lines(self, c: Canvas) -> None:
        rng = self.rand("lines")
        for k in range(5):
            points = [
                (float(rng.uniform(-0.1, 1.1)) * self.w, float(rng.uniform(-0.1, 1.1)) * self.h) for _ in range(4)
            ]
            c.stroke(
                points, self.look.tone(self.colors[(k + 2) % 5]), 0.012 * float(rng.uniform(0.4, 1.6)), 0.95, swell=True
            )
        c.ring(self.x, self.y, self.size * 1.25, 0.006, self.look.tone(self.colors[3]))
