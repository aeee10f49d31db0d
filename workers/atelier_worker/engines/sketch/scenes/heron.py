"""Herons: a sheet of studies, or one bird in a marsh."""

from __future__ import annotations

import math

import numpy as np

from ..canvas import RGB, Canvas, Point, darker, lighter, mix
from .base import Layer, Scene
from .kit import falling, mist, sea, sky
from .plants import grasses


class Heron(Scene):
    """Long legs, a neck like an S, wide fingered wings; several poses of one take-off on a sheet."""

    name = "heron"
    closest = 0.08

    def compose(self, rng: np.random.Generator) -> None:
        self.sheet = self.reading.medium in ("charcoal", "pencil", "ink") or self.reading.has(
            "study", "studies", "sketch", "sketches"
        )
        self.horizon = self.h * float(rng.uniform(0.45, 0.65))
        self.big = self.w * float(rng.uniform(0.4, 0.6)), self.h * float(rng.uniform(0.42, 0.6))
        self.arrangement = int(rng.integers(4))
        self.lift = float(rng.uniform(0.75, 1.3))
        self.sun = self.w * float(rng.uniform(0.2, 0.8)), self.horizon * float(rng.uniform(0.3, 0.6))

    def layers(self) -> list[Layer]:
        if self.sheet:
            return [
                Layer("paper", self._paper, 0.0),
                Layer("ghosts", self._ghosts, 0.2),
                Layer("small studies", self._small, 0.4),
                Layer("great study", self._great, 0.7, "sway"),
                Layer("notes", self._notes, 0.8),
            ]
        return [
            Layer("sky", lambda c: sky(c, self, self.horizon, cloudy=0.4, sun=self.sun), 0.0, "drift"),
            Layer(
                "water",
                lambda c: sea(c, self, self.horizon, self.h, deep=(74, 116, 122), rough=0.15, glint=self.sun),
                0.3,
                "water",
            ),
            Layer(
                "mist",
                lambda c: mist(c, self.rand("mist"), self.horizon, 0.12, lighter(self.look.haze, 0.4)),
                0.4,
                "drift",
            ),
            Layer("bird", self._marsh_bird, 0.6),
            Layer("reeds", self._reeds, 0.9, "sway"),
            *falling(self),
        ]

    def _paper(self, c: Canvas) -> None:
        c.rect(0, 0, self.w, self.h, (172, 160, 138))
        rng = self.rand("smudge")
        for _ in range(5):
            x, y = float(rng.uniform(0, self.w)), float(rng.uniform(0, self.h))
            c.blob(
                [
                    (
                        x + 0.22 * math.cos(a) * float(rng.uniform(0.5, 1)),
                        y + 0.1 * math.sin(a) * float(rng.uniform(0.5, 1)),
                    )
                    for a in np.linspace(0, 6, 9).tolist()
                ],
                (130, 120, 104),
                0.35,
            )
        c.soften(0.03)

    def _spots(self) -> list[tuple[float, float, float]]:
        """Where the small studies stand: x, y of the body and the pose (0 standing, 1 crouching, 2 away)."""
        w, h = self.w, self.h
        spots = (
            [(0.18, 0.72, 0), (0.42, 0.84, 1), (0.24, 0.16, 2)],
            [(0.82, 0.7, 0), (0.18, 0.82, 1), (0.8, 0.14, 2)],
            [(0.14, 0.3, 0), (0.8, 0.84, 1), (0.26, 0.88, 2)],
            [(0.86, 0.28, 0), (0.72, 0.86, 1), (0.22, 0.88, 2)],
        )[self.arrangement]
        return [(x * w, y * h, pose) for x, y, pose in spots]

    def _ghosts(self, c: Canvas) -> None:
        """Construction lines: the arc of the movement and ovals for the masses."""
        rng = self.rand("ghosts")
        x, y = self.big
        for k in range(4):
            c.stroke(
                [(x - 0.5, y + 0.3 - 0.02 * k), (x, y - 0.02 * k), (x + 0.45, y - 0.3 - 0.02 * k)],
                (110, 100, 90),
                0.004,
                0.6,
                end=0.3,
            )
        for _ in range(3):
            c.ring(
                x + float(rng.normal()) * 0.01, y + float(rng.normal()) * 0.01, 0.15, 0.003, (104, 96, 86), 0.5, ry=0.09
            )

    def _small(self, c: Canvas) -> None:
        for i, (x, y, pose) in enumerate(self._spots()):
            heron(c.at(x, y, 0.29, flip=bool(i % 2)), self.rand("small", i), int(pose), lift=0.55 + 0.5 * i)

    def _great(self, c: Canvas) -> None:
        x, y = self.big
        heron(c.at(x, y, 0.5, turn=-0.12), self.rand("great"), 3, lift=self.lift)

    def _notes(self, c: Canvas) -> None:
        rng = self.rand("notes")
        for _ in range(2):
            x, y = float(rng.uniform(0.1, 0.7)) * self.w, float(rng.uniform(0.9, 0.96)) * self.h
            for line in range(2):
                points = [(x + 0.012 * k, y + 0.02 * line + 0.006 * float(rng.normal())) for k in range(14)]
                c.stroke(points, (70, 62, 56), 0.003, 0.8, end=0.7)

    def _marsh_bird(self, c: Canvas) -> None:
        grey = self.look.tone((108, 124, 146))
        flying = self.reading.has("flying", "taking", "flight", "takes", "wing", "wings")
        v = c.at(self.w * 0.5, self.h * 0.56, 0.62)
        heron(
            v,
            self.rand("bird"),
            3 if flying else 0,
            lift=self.lift,
            body=grey,
            pale=self.look.tone((232, 232, 228)),
            dark=self.look.tone((40, 44, 58)),
        )

    def _reeds(self, c: Canvas) -> None:
        grasses(
            c, self.rand("reeds"), self.h * 1.03, 0.34, self.look.tone((110, 122, 62)), 70, x0=-0.05, x1=self.w * 0.3
        )
        grasses(
            c,
            self.rand("reeds 2"),
            self.h * 1.03,
            0.24,
            self.look.tone((96, 110, 58)),
            60,
            x0=self.w * 0.62,
            x1=self.w * 1.05,
        )
        grasses(c, self.rand("reeds 3"), self.h * 1.02, 0.1, self.look.tone((80, 96, 54)), 90)


def heron(
    c: Canvas,
    rng: np.random.Generator,
    pose: int,
    *,
    lift: float,
    body: RGB = (112, 104, 96),
    pale: RGB = (236, 230, 218),
    dark: RGB = (34, 32, 32),
) -> None:
    """A heron around (0, 0), about 1.4 wide: 0 standing, 1 crouching to jump, 2 flying off, 3 taking off."""
    tilt = (-0.9, -0.35, -0.12, -0.5)[pose]
    b = c.at(0, 0, 1, turn=tilt)
    if pose >= 2:
        _wing(c, rng, (0.02, -0.04), lift + 0.35, 0.72, mix(body, pale, 0.3), dark)
    _legs(c, pose, dark)
    b.blob([(-0.34, 0.02), (-0.2, -0.09), (0.05, -0.11), (0.22, -0.05), (0.24, 0.03), (0.06, 0.1), (-0.16, 0.08)], body)
    b.blob([(-0.05, 0.09), (0.14, 0.02), (0.24, 0.02), (0.16, 0.08)], pale)
    for k in range(5):
        b.stroke(
            [(0.06 - 0.05 * k, -0.05), (-0.14 - 0.04 * k, 0.0), (-0.34 - 0.03 * k, 0.06 + 0.012 * k)],
            darker(body, 0.5),
            0.018,
            0.8,
            end=0.2,
        )
    start = (0.22 * math.cos(tilt), 0.22 * math.sin(tilt))
    neck: list[Point] = {
        0: [start, (0.24, -0.32), (0.1, -0.46), (0.17, -0.62), (0.27, -0.66)],
        1: [start, (0.38, -0.14), (0.36, -0.3), (0.5, -0.36), (0.58, -0.36)],
        2: [start, (0.34, 0.06), (0.3, -0.08), (0.38, -0.1), (0.42, -0.09)],
        3: [start, (0.38, -0.08), (0.34, -0.26), (0.5, -0.36), (0.6, -0.38)],
    }[pose]
    c.stroke(neck, dark, 0.082, end=0.6)
    c.stroke(neck, pale, 0.066, end=0.57)
    c.stroke([(x + 0.012, y + 0.01) for x, y in neck[:-1]], dark, 0.014, 0.8, end=0.5)
    hx, hy = neck[-1]
    c.blob(
        [
            (hx - 0.05, hy - 0.02),
            (hx, hy - 0.045),
            (hx + 0.07, hy - 0.02),
            (hx + 0.06, hy + 0.02),
            (hx - 0.02, hy + 0.03),
        ],
        pale,
    )
    c.poly([(hx + 0.05, hy - 0.022), (hx + 0.3, hy + 0.012), (hx + 0.05, hy + 0.022)], mix(dark, (210, 150, 50), 0.4))
    c.stroke([(hx + 0.06, hy - 0.03), (hx - 0.02, hy - 0.04), (hx - 0.2, hy + 0.01)], dark, 0.03, end=0.1)
    c.oval(hx + 0.035, hy - 0.01, 0.009, color=dark)
    if pose in (1, 2, 3):
        _wing(c, rng, (0.04, -0.03), lift if pose != 1 else 0.35, 0.78 if pose != 1 else 0.5, body, dark)


def _legs(c: Canvas, pose: int, dark: RGB) -> None:
    if pose == 2:
        paths: list[list[Point]] = [
            [(-0.2, 0.05), (-0.5, 0.1), (-0.72, 0.12)],
            [(-0.2, 0.07), (-0.48, 0.15), (-0.7, 0.18)],
        ]
    elif pose == 3:
        paths = [[(-0.12, 0.14), (-0.24, 0.34), (-0.44, 0.46)], [(-0.06, 0.14), (-0.14, 0.38), (-0.32, 0.54)]]
    elif pose == 1:
        paths = [[(-0.08, 0.08), (-0.2, 0.22), (-0.04, 0.4)], [(0.0, 0.08), (-0.1, 0.24), (0.06, 0.4)]]
    else:
        paths = [[(-0.04, 0.12), (-0.1, 0.36), (-0.06, 0.66)], [(0.02, 0.12), (0.0, 0.36), (0.06, 0.66)]]
    for path in paths:
        c.stroke(path, dark, 0.026, end=0.6, curve=False)
        x, y = path[-1]
        back = -1 if pose in (2, 3) else 1
        for dx, dy in ((0.08, 0.02), (0.07, -0.015), (-0.04, 0.015)):
            c.stroke([(x, y), (x + dx * back, y + dy)], dark, 0.014, end=0.4, curve=False)


def _wing(
    c: Canvas, rng: np.random.Generator, shoulder: Point, lift: float, reach: float, color: RGB, dark: RGB
) -> None:
    """A raised wing: arm, hand, and a fan of feathers that trail behind it. `lift` is the arm's angle above level."""
    x, y = shoulder
    wrist = (x + 0.42 * reach * math.cos(lift + 0.25), y - 0.5 * reach * math.sin(lift + 0.25))
    tip = (wrist[0] - 0.62 * reach * math.cos(lift - 0.45), wrist[1] - 0.66 * reach * math.sin(lift + 0.1))
    rear = (x - 0.32 * reach, y + 0.03)
    c.blob(
        [
            (x + 0.06, y),
            wrist,
            ((wrist[0] + tip[0]) / 2 + 0.03, (wrist[1] + tip[1]) / 2 - 0.03),
            tip,
            ((tip[0] + rear[0]) / 2, (tip[1] + rear[1]) / 2 + 0.03),
            rear,
        ],
        color,
    )
    count = 15
    for k in range(count):
        t = k / (count - 1)
        root = (x + (wrist[0] - x) * min(1, t * 2), y + (wrist[1] - y) * min(1, t * 2))
        if t > 0.5:
            root = (wrist[0] + (tip[0] - wrist[0]) * (t - 0.5) * 0.8, wrist[1] + (tip[1] - wrist[1]) * (t - 0.5) * 0.8)
        end = (rear[0] + (tip[0] - rear[0]) * t, rear[1] + (tip[1] - rear[1]) * t)
        out = (
            end[0] - 0.07 - 0.05 * t + float(rng.normal()) * 0.01,
            end[1] + 0.03 - 0.06 * t + float(rng.normal()) * 0.01,
        )
        middle = ((root[0] + out[0]) / 2 + 0.03, (root[1] + out[1]) / 2 - 0.03)
        c.stroke([root, middle, out], dark if t > 0.35 else darker(color, 0.35), 0.05, 0.9, end=0.35)
        c.stroke([root, middle, out], mix(color, dark, 0.15 + 0.45 * t), 0.03, 1.0, end=0.35)
    c.stroke([(x + 0.08, y + 0.02), wrist, tip], lighter(color, 0.35), 0.05, 0.9, end=0.3)
