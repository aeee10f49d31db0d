"""A still life: a bowl of fruit, a jug or teapot, a cloth, light from one side."""

from __future__ import annotations

import math

import numpy as np

from ..canvas import RGB, Canvas, darker, lighter, mix
from .base import Layer, Scene
from .plants import leafy

_FRUITS: dict[str, RGB] = {
    "apple": (206, 48, 44), "pear": (190, 186, 70), "lemon": (246, 214, 62), "orange": (240, 140, 36), "plum": (104, 52, 96),
    "peach": (246, 168, 110), "pomegranate": (170, 36, 52),
}  # fmt: skip


class StillLife(Scene):
    """Round things on a table before a dark or plain wall; steam if there is something hot."""

    name = "stilllife"

    def compose(self, rng: np.random.Generator) -> None:
        self.table = self.h * float(rng.uniform(0.56, 0.7))
        self.x = self.w * float(rng.uniform(0.4, 0.6))
        self.light_x = float(rng.uniform(-0.2, 0.3))
        self.wall: RGB = ((74, 62, 58), (54, 68, 72), (150, 140, 122), (196, 176, 150), (90, 56, 52))[
            int(rng.integers(5))
        ]
        named = [name for name in _FRUITS if self.reading.has(name, f"{name}s")]
        self.fruits = named or [list(_FRUITS)[int(k)] for k in rng.permutation(len(_FRUITS))[:3]]
        self.tea = self.reading.has("teapot", "tea", "coffee", "cup", "teacup", "breakfast")
        self.side = float(rng.uniform(0.28, 0.38))
        self.glaze: RGB = ((44, 84, 132), (216, 206, 186), (96, 120, 92), (166, 84, 58))[int(rng.integers(4))]

    def layers(self) -> list[Layer]:
        return [
            Layer("wall", self._wall, 0.0),
            Layer("table", self._table, 0.3),
            Layer("vessel", self._vessel, 0.5),
            Layer("fruit in the bowl", self._heap, 0.6),
            Layer("bowl", self._bowl, 0.65),
            Layer("fruit", self._loose, 0.8),
            Layer("light", self._light, 0.9, "flicker"),
        ]

    def _wall(self, c: Canvas) -> None:
        tone = self.look.tone(self.wall)
        c.gradient(0, 0, self.w, self.table, [lighter(tone, 0.22), tone, darker(tone, 0.45)], across=True)
        c.poly(
            [(-0.1, 0.05), (0.2, -0.1), (self.w * 0.75, self.table), (self.w * 0.35, self.table)],
            lighter(self.look.light, 0.1),
            0.14,
        )

    def _table(self, c: Canvas) -> None:
        wood = self.look.tone((142, 92, 56))
        c.gradient(0, self.table, self.w, self.h, [lighter(wood, 0.1), wood, darker(wood, 0.45)])
        for k in range(14):
            y = self.table + (self.h - self.table) * (k / 14) ** 1.2
            c.stroke(
                [(0, y), (self.w * 0.5, y + 0.004 * math.sin(k)), (self.w, y)], darker(wood, 0.3), 0.004, 0.5, end=1
            )
        cloth = self.look.tone((236, 230, 218))
        left, right = self.x - 0.42, self.x + 0.4
        c.blob(
            [
                (left, self.table + 0.1),
                (self.x, self.table + 0.06),
                (right, self.table + 0.12),
                (right - 0.08, self.table + 0.2),
                (self.x + 0.1, self.h + 0.04),
                (left + 0.16, self.h - 0.02),
            ],
            cloth,
        )
        for k in range(5):
            x = left + 0.16 + 0.14 * k
            c.stroke(
                [(x, self.table + 0.12), (x + 0.03, self.table + 0.22), (x - 0.02, self.h)],
                darker(cloth, 0.25),
                0.016,
                0.7,
                swell=True,
            )

    def _shaded(self, c: Canvas, x: float, y: float, rx: float, ry: float, color: RGB) -> None:
        """A round body lit from the left above."""
        color = self.look.tone(color)
        c.oval(x + rx * 0.35, y + ry * 0.92, rx * 1.05, ry * 0.2, (16, 12, 14), 0.45)
        c.oval(x, y, rx, ry, darker(color, 0.5))
        for k in range(7):
            t = k / 6
            c.oval(
                x - rx * 0.22 * t,
                y - ry * 0.2 * t,
                rx * (0.98 - 0.5 * t),
                ry * (0.98 - 0.5 * t),
                mix(darker(color, 0.4), lighter(color, 0.22), t),
            )
        c.oval(x - rx * 0.36, y - ry * 0.4, rx * 0.13, ry * 0.1, (255, 252, 244), 0.85)

    def _fruit(self, c: Canvas, kind: str, x: float, y: float, r: float) -> None:
        color = self.accent(_FRUITS[kind]) if kind == self.fruits[0] else _FRUITS[kind]
        if kind == "pear":
            self._shaded(c, x, y - r * 1.05, r * 0.52, r * 0.66, color)
        if kind == "lemon":
            c.oval(x + r * 1.08, y, r * 0.2, r * 0.16, self.look.tone(darker(color, 0.2)))
        self._shaded(c, x, y, r * (1.1 if kind == "lemon" else 1), r * (0.82 if kind == "lemon" else 0.94), color)
        top = y - r * (1.65 if kind == "pear" else 0.86)
        if kind in ("apple", "pear", "peach", "plum"):
            c.stroke(
                [(x, top + r * 0.1), (x + r * 0.05, top - r * 0.16), (x + r * 0.16, top - r * 0.32)],
                (70, 46, 32),
                r * 0.1,
                end=0.7,
            )
            c.blob(
                [
                    (x + r * 0.08, top - r * 0.1),
                    (x + r * 0.4, top - r * 0.36),
                    (x + r * 0.72, top - r * 0.2),
                    (x + r * 0.4, top - r * 0.06),
                ],
                self.look.tone((84, 124, 58)),
            )
        elif kind == "pomegranate":
            c.poly(
                [
                    (x - r * 0.2, top + r * 0.1),
                    (x - r * 0.28, top - r * 0.26),
                    (x, top - r * 0.06),
                    (x + r * 0.28, top - r * 0.26),
                    (x + r * 0.2, top + r * 0.1),
                ],
                self.look.tone(darker(color, 0.2)),
            )

    def _vessel(self, c: Canvas) -> None:
        x, y = self.x + self.side, self.table + 0.06
        glaze = self.look.tone(self.glaze)
        c.oval(x + 0.08, y + 0.005, 0.2, 0.03, (16, 12, 14), 0.5)
        if self.tea:
            v = c.at(x, y, 0.36)
            v.stroke([(-0.3, -0.3), (-0.46, -0.4), (-0.52, -0.66)], darker(glaze, 0.2), 0.12, end=0.5)
            v.ring(0.36, -0.36, 0.19, 0.06, darker(glaze, 0.3))
            self._shaded(v, 0, -0.32, 0.38, 0.34, self.glaze)
            v.oval(0, -0.62, 0.18, 0.06, lighter(glaze, 0.2))
            v.oval(0, -0.7, 0.05, color=darker(glaze, 0.2))
            for k in range(5):
                v.oval(
                    -0.54 + 0.03 * math.sin(k),
                    -0.76 - 0.09 * k,
                    0.04 + 0.018 * k,
                    color=(255, 255, 255),
                    alpha=0.28 - 0.04 * k,
                )
            return
        with c.clipped(
            [
                (x - 0.05, y - 0.5),
                (x - 0.07, y - 0.38),
                (x - 0.14, y - 0.24),
                (x - 0.13, y - 0.08),
                (x - 0.08, y),
                (x + 0.08, y),
                (x + 0.13, y - 0.08),
                (x + 0.14, y - 0.24),
                (x + 0.07, y - 0.38),
                (x + 0.05, y - 0.5),
            ]
        ) as v:
            v.gradient(
                x - 0.15,
                y - 0.52,
                x + 0.15,
                y,
                [darker(glaze, 0.15), lighter(glaze, 0.35), glaze, darker(glaze, 0.4), darker(glaze, 0.6)],
                across=True,
            )
            for band in (0.2, 0.32):
                v.rect(x - 0.2, y - band - 0.01, x + 0.2, y - band, lighter(glaze, 0.4), 0.5)
        rng = self.rand("branch")
        for k in range(6):
            a = -1.57 + (k - 2.5) * 0.28
            tip = (x + 0.26 * math.cos(a), y - 0.5 + 0.3 * math.sin(a))
            c.stroke(
                [(x, y - 0.48), ((x + tip[0]) / 2 + 0.02, (y - 0.5 + tip[1]) / 2), tip],
                self.look.tone((70, 84, 48)),
                0.008,
                end=0.6,
            )
            leafy(
                c,
                rng,
                *tip,
                0.06,
                0.05,
                self.look.tone(((226, 110, 120), (240, 220, 200), (120, 146, 84))[k % 3]),
                count=16,
                size=0.024,
            )

    def _heap(self, c: Canvas) -> None:
        rng = self.rand("heap")
        for k, (dx, dy) in enumerate(
            ((-0.13, -0.19), (0.13, -0.19), (0.0, -0.2), (-0.07, -0.28), (0.08, -0.29), (0.0, -0.36))
        ):
            self._fruit(
                c,
                self.fruits[k % len(self.fruits)],
                self.x - 0.06 + dx,
                self.table + 0.14 + dy,
                0.085 * float(rng.uniform(0.9, 1.08)),
            )

    def _bowl(self, c: Canvas) -> None:
        x, y = self.x - 0.06, self.table + 0.14
        glaze = self.look.tone((226, 220, 206) if sum(self.glaze) < 420 else (52, 84, 126))
        c.oval(x + 0.06, y + 0.02, 0.22, 0.03, (16, 12, 14), 0.5)
        rim = [(x - 0.26 + 0.52 * k / 24, y - 0.16 + 0.022 * math.sin(math.pi * k / 24)) for k in range(25)]
        body = [
            *rim,
            *[(x + 0.26 * math.cos(a), y - 0.16 + 0.19 * math.sin(a)) for a in np.linspace(0, math.pi, 24).tolist()],
        ]
        with c.clipped(body) as v:
            v.gradient(
                x - 0.27,
                y - 0.2,
                x + 0.27,
                y + 0.06,
                [glaze, lighter(glaze, 0.3), glaze, darker(glaze, 0.5)],
                across=True,
            )
            for k in range(13):
                v.ring(x - 0.26 + 0.043 * k, y - 0.09, 0.02, 0.006, mix(glaze, (40, 80, 140), 0.7))
        c.line(rim, lighter(glaze, 0.3), 0.012)
        c.rect(x - 0.08, y + 0.02, x + 0.08, y + 0.04, darker(glaze, 0.25))

    def _loose(self, c: Canvas) -> None:
        rng = self.rand("loose")
        for k, dx in enumerate((-0.36, -0.24, 0.22)):
            x = self.x + dx + float(rng.uniform(-0.03, 0.03))
            self._fruit(
                c,
                self.fruits[(k + 1) % len(self.fruits)],
                x,
                self.table + 0.2 + 0.02 * k,
                0.09 * float(rng.uniform(0.85, 1.1)),
            )
        if self.reading.has("candle"):
            x = self.x - 0.42
            c.rect(x - 0.025, self.table - 0.18, x + 0.025, self.table + 0.1, (240, 232, 206))
            c.blob(
                [
                    (x, self.table - 0.27),
                    (x - 0.018, self.table - 0.21),
                    (x, self.table - 0.18),
                    (x + 0.018, self.table - 0.21),
                ],
                (255, 220, 120),
            )
            c.glow(x, self.table - 0.22, 0.4, (255, 190, 90), 0.8)

    def _light(self, c: Canvas) -> None:
        c.glow(self.light_x * self.w, 0.05, 0.9, self.look.light, 0.35)
