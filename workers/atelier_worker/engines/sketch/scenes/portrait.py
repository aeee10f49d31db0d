"""A portrait: head and shoulders, lit from behind at the edge, with a place to be in."""

from __future__ import annotations

import math

import numpy as np

from ..canvas import RGB, Canvas, Point, darker, lighter, mix
from .base import Layer, Scene

_SKINS: tuple[RGB, ...] = ((236, 190, 156), (206, 156, 118), (158, 106, 74), (112, 74, 54))
_OLD = ("old", "elderly", "ancient", "grandfather", "grandmother", "aged", "wise", "clockmaker", "watchmaker", "wizard")
_WOMAN = ("woman", "girl", "queen", "grandmother", "lady", "princess", "mother", "her", "she")


# Outlines in the head's own units: its middle at (0, 0), its crown at about y = -0.7.
_BEARD: list[Point] = [
    (-0.42, 0.1), (-0.36, 0.4), (-0.22, 0.34), (0, 0.31), (0.22, 0.34), (0.36, 0.4), (0.42, 0.1), (0.4, 0.5),
    (0.22, 0.86), (0, 1.0), (-0.22, 0.86), (-0.4, 0.5),
]  # fmt: skip
_MOUSTACHE: list[Point] = [
    (-0.26, 0.34), (-0.1, 0.26), (0, 0.29), (0.1, 0.26), (0.26, 0.34), (0.12, 0.37), (0, 0.35), (-0.12, 0.37),
]  # fmt: skip
_LONG_HAIR: list[Point] = [
    (0, -0.78), (-0.4, -0.66), (-0.58, -0.2), (-0.56, 0.5), (-0.44, 0.7), (-0.4, 0.1), (-0.36, -0.3), (0.05, -0.5),
    (0.36, -0.3), (0.42, 0.1), (0.46, 0.7), (0.58, 0.5), (0.58, -0.2), (0.4, -0.66),
]  # fmt: skip
_SHORT_HAIR: list[Point] = [
    (0, -0.8), (-0.4, -0.68), (-0.52, -0.3), (-0.46, -0.08), (-0.4, -0.3), (-0.1, -0.46), (0.2, -0.4), (0.4, -0.3),
    (0.46, -0.08), (0.52, -0.3), (0.4, -0.68),
]  # fmt: skip
_TUFT: list[Point] = [(0.36, -0.5), (0.5, -0.36), (0.58, -0.1), (0.52, 0.12), (0.44, 0.04), (0.42, -0.24)]
_WISP: list[Point] = [
    (-0.36, -0.5), (-0.2, -0.66), (0, -0.7), (0.2, -0.66), (0.36, -0.5), (0.2, -0.6), (0, -0.63), (-0.2, -0.6),
]  # fmt: skip


class Portrait(Scene):
    """A clockmaker among his clocks when the prompt says so; else a sitter before a window or a wall."""

    name = "portrait"

    def compose(self, rng: np.random.Generator) -> None:
        self.old = self.reading.has(*_OLD)
        self.woman = self.reading.has(*_WOMAN)
        self.clocks = self.reading.has("clockmaker", "watchmaker", "clock", "watch", "horologist")
        self.x, self.y = self.w * float(rng.uniform(0.32, 0.68)), self.h * float(rng.uniform(0.34, 0.48))
        self.size = min(self.w, self.h) * float(rng.uniform(0.29, 0.43))
        self.turn = float(rng.uniform(-0.1, 0.1))
        self.skin = _SKINS[int(rng.integers(4))] if not self.clocks else _SKINS[int(rng.integers(2))]
        self.coat: RGB = ((58, 74, 92), (96, 62, 46), (66, 84, 66), (104, 50, 54))[int(rng.integers(4))]
        self.rim: RGB = ((255, 190, 104), (120, 196, 230), (255, 150, 110))[int(rng.integers(3))]
        self.room: RGB = ((52, 36, 30), (34, 42, 50), (60, 46, 30))[int(rng.integers(3))]
        self.glasses = self.clocks or bool(rng.random() < 0.25)
        self.beard = self.old and not self.woman
        self.glare = float(rng.uniform(0.3, 0.85))
        self.glow_side = float(rng.uniform(0.1, 0.9))

    def layers(self) -> list[Layer]:
        return [
            Layer("room", self._room, 0.0),
            Layer("clocks", self._things, 0.2),
            Layer("light", self._light, 0.25, "flicker"),
            Layer("body", self._body, 0.6),
            Layer("head", self._head, 0.62),
            Layer("hair", self._hair, 0.62),
            Layer("hands", self._hands, 0.8),
        ]

    def _view(self, c: Canvas) -> Canvas:
        return c.at(self.x, self.y, self.size, turn=self.turn)

    def _room(self, c: Canvas) -> None:
        base = mix(self.room, self.look.hues[0].rgb(0.35), 0.5) if self.look.hues else self.room
        c.gradient(0, 0, self.w, self.h, [lighter(base, 0.16), base, darker(base, 0.5)])
        if not self.clocks:
            c.rect(self.w * self.glow_side - 0.16, 0.08, self.w * self.glow_side + 0.16, 0.62, lighter(base, 0.3))
            c.soften(0.04)

    def _things(self, c: Canvas) -> None:
        rng = self.rand("clocks")
        if not self.clocks:
            return
        for y in (0.34, 0.7):
            c.rect(0, y * self.h, self.w, y * self.h + 0.02, lighter(self.room, 0.22))
        spots = [
            (0.1, 0.16),
            (0.36, 0.12),
            (0.66, 0.1),
            (0.9, 0.17),
            (0.08, 0.52),
            (0.92, 0.52),
            (0.1, 0.85),
            (0.9, 0.86),
        ]
        for i, (x, y) in enumerate(spots):
            r = float(rng.uniform(0.07, 0.125))
            _clock(c, rng, x * self.w, y * self.h, r, i % 3)

    def _light(self, c: Canvas) -> None:
        if self.clocks:
            c.soften(0.003)
        c.glow(self.w * self.glow_side, self.h * 0.3, 0.75, self.rim, self.glare)

    def _body(self, c: Canvas) -> None:
        v = self._view(c)
        coat = self.coat
        v.blob(
            [
                (-1.3, 2.6),
                (-1.18, 1.2),
                (-0.72, 0.78),
                (-0.3, 0.62),
                (0.3, 0.62),
                (0.72, 0.78),
                (1.18, 1.2),
                (1.3, 2.6),
            ],
            darker(coat, 0.3),
        )
        v.poly([(-0.28, 0.6), (0.28, 0.6), (0.2, 1.1), (0, 1.5), (-0.2, 1.1)], (226, 220, 206))
        v.poly([(-0.32, 0.6), (-0.04, 1.2), (-0.2, 2.6), (-0.8, 2.6), (-0.52, 0.86)], coat)
        v.poly([(0.32, 0.6), (0.04, 1.2), (0.2, 2.6), (0.8, 2.6), (0.52, 0.86)], darker(coat, 0.15))
        v.stroke([(-0.3, 0.62), (-0.46, 1.0), (-0.06, 1.4)], lighter(coat, 0.2), 0.05, end=0.4)
        v.stroke([(0.3, 0.62), (0.46, 1.0), (0.06, 1.4)], lighter(coat, 0.1), 0.05, end=0.4)
        for y in (1.5, 1.75, 2.0):
            v.oval(0, y, 0.035, color=(206, 166, 84))
        v.stroke([(0.35, 0.7), (0.78, 0.82), (1.16, 1.22), (1.26, 2.4)], self.rim, 0.035, 0.85, end=0.6)

    def _head(self, c: Canvas) -> None:
        v, skin = self._view(c), self.skin
        shade = darker(skin, 0.35)
        v.poly([(-0.2, 0.3), (0.2, 0.3), (0.26, 0.74), (0, 0.92), (-0.26, 0.74)], darker(skin, 0.45))
        for x in (-0.47, 0.47):
            v.oval(x, 0.02, 0.08, 0.13, darker(skin, 0.2))
        face: list[Point] = [
            (0, -0.66),
            (-0.34, -0.52),
            (-0.46, -0.1),
            (-0.4, 0.26),
            (-0.2, 0.52),
            (0, 0.6),
            (0.2, 0.52),
            (0.4, 0.26),
            (0.46, -0.1),
            (0.34, -0.52),
        ]
        v.blob(face, skin)
        with v.clipped(face) as b:
            b.gradient(-0.5, -0.7, 0.16, 0.7, [darker(skin, 0.6), skin], across=True, alpha=0.55, fade=True)
            b.glow(0.42, -0.05, 0.4, self.rim, 0.7, ry=0.7)
        for side in (-1, 1):
            x = 0.185 * side
            v.oval(x, -0.04, 0.095, 0.055, shade, 0.6)
            v.oval(x, -0.03, 0.07, 0.034, (240, 236, 226))
            v.oval(x + 0.012, -0.03, 0.034, color=(70, 84, 92))
            v.oval(x + 0.012, -0.03, 0.017, color=(16, 16, 20))
            v.oval(x + 0.022, -0.042, 0.009, color=(255, 255, 255))
            v.stroke([(x - 0.09, -0.035), (x, -0.08), (x + 0.09, -0.03)], darker(skin, 0.6), 0.026, swell=True)
            brow = (214, 210, 204) if self.old else darker(self.skin, 0.7)
            v.stroke([(x - 0.12, -0.13), (x, -0.185), (x + 0.12, -0.14)], brow, 0.06, swell=True)
            if self.old:
                v.stroke([(x - 0.08, 0.05), (x, 0.075), (x + 0.08, 0.05)], shade, 0.018, 0.7, swell=True)
                for k in range(3):
                    v.stroke([(0.33 * side, -0.05 + 0.04 * k), (0.42 * side, -0.08 + 0.06 * k)], shade, 0.012, 0.7)
        v.stroke([(0.04, -0.1), (0.075, 0.12), (0.1, 0.2), (0.0, 0.235), (-0.06, 0.21)], shade, 0.035, end=0.5)
        v.oval(0.015, 0.19, 0.075, 0.055, lighter(skin, 0.1), 0.8)
        v.stroke([(-0.14, 0.365), (0, 0.395), (0.14, 0.36)], (150, 78, 70), 0.05 if self.woman else 0.035, swell=True)
        if self.old:
            for k in range(3):
                v.stroke(
                    [(-0.24, -0.34 - 0.06 * k), (0, -0.37 - 0.06 * k), (0.24, -0.34 - 0.06 * k)],
                    shade,
                    0.014,
                    0.6,
                    swell=True,
                )
            for side in (-1, 1):
                v.stroke([(0.1 * side, 0.2), (0.22 * side, 0.3), (0.24 * side, 0.42)], shade, 0.018, 0.7, swell=True)

    def _hair(self, c: Canvas) -> None:
        v, rng = self._view(c), self.rand("hair")
        young: tuple[RGB, ...] = ((46, 34, 30), (92, 58, 36), (24, 24, 30), (176, 130, 70))
        color: RGB = (206, 202, 196) if self.old else young[int(rng.integers(4))]
        if self.beard:
            self._beard(v, rng, color)
        if self.woman:
            v.blob(_LONG_HAIR, color)
        elif self.old:
            for side in (-1, 1):
                v.blob([(x * side, y) for x, y in _TUFT], color)
            v.blob(_WISP, color)
        else:
            v.blob(_SHORT_HAIR, color)
        v.stroke([(0.1, -0.68), (0.36, -0.52), (0.49, -0.22), (0.49, 0.06)], self.rim, 0.04, 0.9, swell=True)
        if self.glasses:
            self._spectacles(v)

    @staticmethod
    def _beard(v: Canvas, rng: np.random.Generator, color: RGB) -> None:
        v.blob(_BEARD, color)
        for _ in range(70):
            x = float(rng.uniform(-0.36, 0.36))
            shade = mix(darker(color, 0.4), lighter(color, 0.6), float(rng.random()) * 0.6 + x * 0.5 + 0.2)
            v.stroke([(x, 0.4), (x * 0.9 + 0.02, 0.62), (x * 0.6, 0.95 - abs(x) * 0.7)], shade, 0.018, 0.8)
        v.blob(_MOUSTACHE, lighter(color, 0.3))

    @staticmethod
    def _spectacles(v: Canvas) -> None:
        brass: RGB = (206, 164, 80)
        for x in (-0.185, 0.185):
            v.oval(x, -0.02, 0.13, color=(220, 236, 240), alpha=0.18)
            v.ring(x, -0.02, 0.13, 0.024, brass)
            v.stroke([(x - 0.06, -0.07), (x - 0.02, -0.1)], (255, 255, 255), 0.02, 0.8)
        v.line([(-0.06, -0.04), (0.06, -0.04)], brass, 0.024)
        v.line([(0.31, -0.04), (0.46, -0.06)], brass, 0.02)
        v.line([(-0.31, -0.04), (-0.46, -0.06)], brass, 0.02)

    def _hands(self, c: Canvas) -> None:
        """The clockmaker holds up an open watch; others keep their hands out of the picture."""
        if not self.clocks:
            return
        rng = self.rand("watch")
        x, y = self.x - 0.2 * self.size, min(self.h - 0.16, self.y + 1.42 * self.size)
        skin = darker(self.skin, 0.12)
        c.blob(
            [
                (x - 0.2, self.h + 0.1),
                (x - 0.15, y + 0.04),
                (x - 0.06, y + 0.04),
                (x + 0.06, y + 0.05),
                (x + 0.1, self.h + 0.1),
            ],
            darker(self.coat, 0.1),
        )
        c.blob(
            [(x - 0.12, y + 0.08), (x - 0.1, y), (x, y + 0.03), (x + 0.1, y), (x + 0.1, y + 0.08), (x, y + 0.13)], skin
        )
        _clock(c, rng, x, y - 0.03, 0.1, 0)
        for k in range(4):
            fx = x + 0.045 + 0.022 * k
            c.stroke(
                [(fx + 0.03, y + 0.08), (fx + 0.028, y + 0.03), (fx + 0.005, y + 0.005)],
                lighter(skin, 0.06),
                0.024,
                end=0.8,
            )
        c.stroke([(x - 0.1, y + 0.08), (x - 0.11, y + 0.02), (x - 0.08, y - 0.01)], lighter(skin, 0.08), 0.032, end=0.8)


def _clock(c: Canvas, rng: np.random.Generator, x: float, y: float, r: float, kind: int) -> None:
    """A clock of radius `r`: 0 round, 1 with a pendulum case, 2 with a gable."""
    wood: RGB = ((120, 74, 42), (86, 52, 36), (186, 144, 66))[int(rng.integers(3))]
    if kind == 1:
        c.rect(x - r * 0.7, y, x + r * 0.7, y + r * 2.5, darker(wood, 0.2))
        c.rect(x - r * 0.5, y + r, x + r * 0.5, y + r * 2.3, (40, 30, 28))
        swing = float(rng.uniform(-0.25, 0.25))
        c.line([(x, y + r), (x + swing * r, y + r * 2)], (214, 176, 92), r * 0.06)
        c.oval(x + swing * r, y + r * 2, r * 0.2, color=(226, 186, 96))
    elif kind == 2:
        c.poly(
            [
                (x - r * 1.2, y + r * 1.15),
                (x - r * 1.2, y - r * 0.6),
                (x, y - r * 1.7),
                (x + r * 1.2, y - r * 0.6),
                (x + r * 1.2, y + r * 1.15),
            ],
            darker(wood, 0.15),
        )
    c.oval(x, y, r * 1.12, color=darker(wood, 0.35))
    c.oval(x, y, r * 1.06, color=wood)
    c.oval(x, y, r * 0.9, color=(240, 230, 204))
    for k in range(12):
        a = math.tau * k / 12
        inner = 0.66 if k % 3 else 0.58
        c.line(
            [
                (x + r * inner * math.cos(a), y + r * inner * math.sin(a)),
                (x + r * 0.8 * math.cos(a), y + r * 0.8 * math.sin(a)),
            ],
            (50, 40, 36),
            r * (0.05 if k % 3 else 0.1),
        )
    for reach, width in ((0.42, 0.11), (0.66, 0.07)):
        a = float(rng.uniform(0, math.tau))
        c.stroke(
            [(x, y), (x + r * reach * math.cos(a), y + r * reach * math.sin(a))],
            (36, 30, 32),
            r * width,
            end=0.4,
            curve=False,
        )
    c.oval(x, y, r * 0.08, color=(36, 30, 32))
