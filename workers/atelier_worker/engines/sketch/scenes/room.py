"""An isometric cutaway of a room: two walls, a floor, what is in it, and the weather outside."""

from __future__ import annotations

import math

import numpy as np

from ..canvas import RGB, Canvas, Point, darker, lighter, mix
from .base import Layer, Scene
from .kit import rain

_COS, _SIN = math.cos(math.pi / 6), 0.5


def iso(x: float, y: float, z: float = 0.0) -> Point:
    """Where a point of the room (each side 0..1) lies in the picture: x to the right front, y to the left front, z up."""
    return (x - y) * _COS, (x + y) * _SIN - z


class Room(Scene):
    """A keeper's room like a doll's house: bed, desk, lamp, stove, shelves, a window with rain on the glass."""

    name = "room"
    closest = 0.06

    def compose(self, rng: np.random.Generator) -> None:
        self.size = float(rng.uniform(0.32, 0.47))
        self.high = float(rng.uniform(0.66, 0.95))
        self.x = float(rng.uniform(0.9 * self.size, self.w - 0.9 * self.size))
        self.y = float(rng.uniform(self.high * self.size + 0.02, self.h - 1.12 * self.size))
        self.swap = bool(rng.random() < 0.5)
        self.from_left, self.sideways, self.disc = (bool(v) for v in rng.random(3) < 0.5)
        self.round_window = bool(rng.random() < 0.5)
        self.wall: RGB = ((62, 116, 122), (150, 92, 72), (96, 108, 148), (128, 132, 92))[int(rng.integers(4))]
        self.night = self.hour() in ("night", "dusk") or self.reading.has("lamp", "rain")
        self.bed_color: RGB = ((186, 62, 54), (220, 168, 76), (66, 92, 140), (92, 128, 92))[int(rng.integers(4))]
        self.backdrop: RGB = ((30, 40, 62), (44, 38, 58), (24, 50, 58), (206, 190, 166), (176, 192, 190))[
            int(rng.integers(5))
        ]

    def layers(self) -> list[Layer]:
        layers = [
            Layer("backdrop", self._backdrop, 0.0),
            Layer("walls", self._walls, 0.3),
            Layer("window", self._window, 0.35, "flicker"),
            Layer("on the walls", self._hung, 0.4),
            Layer("furniture", self._furniture, 0.5),
            Layer("lamp", self._lamp, 0.6, "flicker"),
        ]
        if self.weather("rain") or self.weather("storm"):
            layers.append(
                Layer("rain", lambda c: rain(c, self.rand("outside"), (190, 206, 226), count=90, alpha=0.22), 1.0)
            )
        return layers

    def _view(self, c: Canvas) -> Canvas:
        return c.at(self.x, self.y, self.size, flip=self.swap)

    def _backdrop(self, c: Canvas) -> None:
        tone = mix(self.backdrop, self.look.hues[0].rgb(0.4), 0.5) if self.look.hues else self.backdrop
        stops = [lighter(tone, 0.3), tone, darker(tone, 0.5)]
        c.gradient(0, 0, self.w, self.h, stops if self.from_left else stops[::-1], across=self.sideways)
        if self.disc:
            c.oval(self.x, self.y, self.size * 1.25, color=lighter(tone, 0.22))
        c.oval(self.x, self.y + self.size * 1.08, self.size * 1.05, self.size * 0.3, darker(tone, 0.5), 0.6)

    def _quad(self, v: Canvas, points: list[tuple[float, float, float]], color: RGB, alpha: float = 1.0) -> None:
        v.poly([iso(*p) for p in points], color, alpha)

    def _box(self, v: Canvas, x: float, y: float, z: float, wide: float, deep: float, high: float, color: RGB) -> None:
        """A block from (x, y, z): its top, its right front and its left front."""
        x1, y1, z1 = x + wide, y + deep, z + high
        self._quad(v, [(x1, y, z), (x1, y1, z), (x1, y1, z1), (x1, y, z1)], darker(color, 0.38))
        self._quad(v, [(x, y1, z), (x1, y1, z), (x1, y1, z1), (x, y1, z1)], darker(color, 0.18))
        self._quad(v, [(x, y, z1), (x1, y, z1), (x1, y1, z1), (x, y1, z1)], lighter(color, 0.14))

    def _walls(self, c: Canvas) -> None:
        v = self._view(c)
        t, z = 0.07, self.high
        left, right = lighter(self.wall, 0.1), darker(self.wall, 0.2)
        cut = lighter(self.wall, 0.65)
        self._box(v, -t, -t, -0.1, 1 + 2 * t, 1 + 2 * t, 0.1, (122, 104, 92))
        self._quad(v, [(0, 0, 0), (1, 0, 0), (1, 0, z), (0, 0, z)], left)
        self._quad(v, [(0, 0, 0), (0, 1, 0), (0, 1, z), (0, 0, z)], right)
        self._quad(v, [(-t, -t, z), (1, -t, z), (1, 0, z), (-t, 0, z)], cut)
        self._quad(v, [(-t, -t, z), (0, -t, z), (0, 1, z), (-t, 1, z)], cut)
        self._quad(v, [(1, -t, 0), (1, 0, 0), (1, 0, z), (1, -t, z)], darker(cut, 0.25))
        self._quad(v, [(-t, 1, 0), (0, 1, 0), (0, 1, z), (-t, 1, z)], darker(cut, 0.12))
        planks = 9
        for k in range(planks):
            wood = mix((176, 122, 78), (142, 94, 60), 0.5 + 0.5 * math.sin(k * 2.4))
            self._quad(
                v, [(k / planks, 0, 0), ((k + 1) / planks, 0, 0), ((k + 1) / planks, 1, 0), (k / planks, 1, 0)], wood
            )
            v.line([iso(k / planks, 0), iso(k / planks, 1)], darker(wood, 0.5), 0.005)
        for k in range(1, 7):
            v.line([iso(k / 7, 0, 0), iso(k / 7, 0, z * 0.36)], darker(left, 0.2), 0.005)
            v.line([iso(0, k / 7, 0), iso(0, k / 7, z * 0.36)], darker(right, 0.3), 0.005)
        v.line([iso(1, 0, z * 0.36), iso(0, 0, z * 0.36), iso(0, 1, z * 0.36)], lighter(self.wall, 0.4), 0.014)
        rug = [(0.5 + 0.27 * math.cos(a), 0.56 + 0.27 * math.sin(a)) for a in np.linspace(0, math.tau, 40).tolist()]
        v.poly([iso(x, y) for x, y in rug], self.bed_color)
        v.poly([iso(0.5 + (x - 0.5) * 0.75, 0.56 + (y - 0.56) * 0.75) for x, y in rug], lighter(self.bed_color, 0.5))
        v.poly([iso(0.5 + (x - 0.5) * 0.5, 0.56 + (y - 0.56) * 0.5) for x, y in rug], darker(self.bed_color, 0.2))

    def _pane(self) -> list[Point]:
        """The window's outline on the left wall (y = 0)."""
        mid = (0.6, self.high * 0.62)
        if self.round_window:
            return [
                iso(mid[0] + 0.18 * math.cos(a), 0, mid[1] + 0.2 * math.sin(a))
                for a in np.linspace(0, math.tau, 40, endpoint=False).tolist()
            ]
        return [iso(mid[0] + dx, 0, mid[1] + dz) for dx, dz in ((-0.18, -0.2), (0.18, -0.2), (0.18, 0.2), (-0.18, 0.2))]

    def _window(self, c: Canvas) -> None:
        v, rng = self._view(c), self.rand("window")
        pane = self._pane()
        frame = (238, 228, 206)
        with v.clipped(pane) as b:
            b.rect(-1, -1.5, 1, 1, (34, 52, 84) if self.night else (150, 196, 226))
            x, y = iso(0.6, 0, self.high * 0.52)
            b.rect(-1, y, 1, 1, (24, 66, 90))
            b.glow(x + 0.04, y - 0.06, 0.24, (150, 176, 210), 0.5)
            for k in range(5):
                b.stroke(
                    [(x - 0.2, y + 0.03 * k), (x, y + 0.015 + 0.03 * k), (x + 0.2, y + 0.03 * k + 0.02)],
                    (120, 160, 180),
                    0.008,
                    0.7,
                    swell=True,
                )
            if self.weather("rain") or self.weather("storm"):
                for _ in range(46):
                    px, pz = float(rng.uniform(0.4, 0.8)), float(rng.uniform(0.3, 0.95)) * self.high
                    a = iso(px, 0, pz)
                    b.line([a, (a[0] - 0.012, a[1] + 0.05)], (206, 222, 240), 0.005, 0.75)
                    b.oval(a[0], a[1], 0.006, color=(230, 240, 250), alpha=0.8)
        v.line([*pane, pane[0]], frame, 0.03)
        v.line([iso(0.6, 0, self.high * 0.62 - 0.2), iso(0.6, 0, self.high * 0.62 + 0.2)], frame, 0.014)
        v.line([iso(0.42, 0, self.high * 0.62), iso(0.78, 0, self.high * 0.62)], frame, 0.014)

    def _hung(self, c: Canvas) -> None:
        """On the right wall: shelves with books, a chart, a lifebelt."""
        v, rng, z = self._view(c), self.rand("hung"), self.high
        for level in (0.52, 0.76):
            y = 0.42
            while y < 0.9:
                wide, tall = float(rng.uniform(0.025, 0.05)), float(rng.uniform(0.09, 0.15))
                book = ((172, 62, 50), (206, 160, 74), (74, 110, 122), (92, 74, 104), (220, 210, 188))[
                    int(rng.integers(5))
                ]
                self._quad(
                    v,
                    [
                        (0.07, y, level * z),
                        (0.07, y + wide, level * z),
                        (0.07, y + wide, level * z + tall),
                        (0.07, y, level * z + tall),
                    ],
                    book,
                )
                y += wide + 0.004
            self._box(v, 0, 0.4, level * z - 0.025, 0.09, 0.52, 0.025, (120, 78, 48))
        belt = [
            (0.22 + 0.09 * math.cos(a), 0.72 * z + 0.1 * math.sin(a)) for a in np.linspace(0, math.tau, 33).tolist()
        ]
        for k in range(32):
            a, b = belt[k], belt[k + 1]
            v.line([iso(0.01, *a), iso(0.01, *b)], (214, 66, 52) if (k // 4) % 2 else (246, 240, 228), 0.045)

    def _furniture(self, c: Canvas) -> None:
        v = self._view(c)
        wood: RGB = (150, 98, 60)
        # Along the right wall the bed, along the left wall the desk, in the corner the stove; far things first.
        self._box(v, 0.06, 0.06, 0, 0.17, 0.17, 0.24, (58, 58, 66))
        self._box(v, 0.12, 0.12, 0.24, 0.05, 0.05, self.high - 0.2, (70, 70, 78))
        self._quad(
            v, [(0.231, 0.1, 0.06), (0.231, 0.19, 0.06), (0.231, 0.19, 0.15), (0.231, 0.1, 0.15)], (255, 150, 50)
        )
        for x in (0.46, 0.86):
            for y in (0.05, 0.25):
                self._box(v, x, y, 0, 0.035, 0.035, 0.26, darker(wood, 0.3))
        self._box(v, 0.43, 0.03, 0.26, 0.5, 0.28, 0.03, wood)
        self._quad(
            v, [(0.52, 0.12, 0.291), (0.68, 0.12, 0.291), (0.68, 0.25, 0.291), (0.52, 0.25, 0.291)], (242, 232, 206)
        )
        v.stroke([iso(0.55, 0.16, 0.295), iso(0.6, 0.19, 0.295), iso(0.66, 0.2, 0.295)], (120, 90, 70), 0.006)
        self._box(v, 0.56, 0.4, 0, 0.17, 0.16, 0.15, lighter(wood, 0.12))
        self._box(v, 0.03, 0.38, 0, 0.36, 0.6, 0.13, darker(wood, 0.1))
        self._box(v, 0.04, 0.39, 0.13, 0.34, 0.58, 0.07, (238, 230, 214))
        self._box(v, 0.03, 0.56, 0.15, 0.36, 0.42, 0.07, self.bed_color)
        self._box(v, 0.08, 0.41, 0.2, 0.26, 0.11, 0.05, (250, 246, 238))
        self._box(v, 0.68, 0.72, 0, 0.22, 0.18, 0.14, (134, 88, 52))
        self._box(v, 0.67, 0.71, 0.14, 0.24, 0.2, 0.03, (170, 116, 66))
        x, y = iso(0.5, 0.82)
        v.blob(
            [(x - 0.07, y - 0.01), (x - 0.03, y - 0.06), (x + 0.05, y - 0.06), (x + 0.08, y - 0.01), (x, y + 0.02)],
            (58, 50, 52),
        )
        v.oval(x + 0.06, y - 0.05, 0.032, color=(58, 50, 52))
        v.poly([(x + 0.035, y - 0.07), (x + 0.045, y - 0.11), (x + 0.065, y - 0.08)], (58, 50, 52))
        v.poly([(x + 0.065, y - 0.08), (x + 0.085, y - 0.11), (x + 0.09, y - 0.065)], (58, 50, 52))

    def _lamp(self, c: Canvas) -> None:
        v = self._view(c)
        x, y = iso(0.8, 0.15, 0.29)
        v.line([(x, y), (x, y - 0.14)], (190, 150, 70), 0.018)
        v.oval(x, y, 0.04, 0.02, (190, 150, 70))
        v.poly(
            [(x - 0.09, y - 0.12), (x + 0.09, y - 0.12), (x + 0.05, y - 0.23), (x - 0.05, y - 0.23)], (255, 206, 110)
        )
        if self.night:
            v.poly(
                [iso(0, 0, self.high), iso(1, 0, self.high), iso(1, 0), iso(1, 1), iso(0, 1), iso(0, 1, self.high)],
                (20, 26, 60),
                0.26,
            )
        v.glow(x, y - 0.15, 0.85, (255, 176, 84), 0.72 if self.night else 0.4)
        v.glow(x, y - 0.17, 0.24, (255, 236, 180), 0.9)
        stove = iso(0.24, 0.15, 0.1)
        v.glow(stove[0], stove[1], 0.24, (255, 130, 50), 0.5)
