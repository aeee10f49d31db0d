"""Plants that many scenes draw: leaves, trees, grass."""

from __future__ import annotations

import math

import numpy as np

from ..canvas import RGB, Canvas, darker, lighter, mix


def leafy(
    c: Canvas,
    rng: np.random.Generator,
    x: float,
    y: float,
    rx: float,
    ry: float,
    color: RGB,
    *,
    count: int = 60,
    size: float = 0.022,
) -> None:
    """A mass of leaves: dabs from dark below to light above."""
    for i in range(count):
        angle, reach = float(rng.uniform(0, 2 * math.pi)), math.sqrt(float(rng.random()))
        dx, dy = math.cos(angle) * reach, math.sin(angle) * reach
        shade = mix(
            darker(color, 0.45),
            lighter(color, 0.3),
            0.5 - dy * 0.35 - dx * 0.15 + float(rng.normal()) * 0.12 + i / count * 0.15,
        )
        s = size * float(rng.uniform(0.5, 1.1))
        c.at(x + dx * rx, y + dy * ry, 1, turn=angle).oval(0, 0, s, s * 0.7, color=shade, alpha=0.92)


def tree(c: Canvas, rng: np.random.Generator, x: float, base: float, height: float, leaf: RGB, bark: RGB) -> None:
    """A broad tree with a trunk and a crown of dabs."""
    lean = float(rng.normal()) * 0.05 * height
    c.stroke(
        [(x, base), (x + lean * 0.4, base - height * 0.35), (x + lean, base - height * 0.7)],
        bark,
        height * 0.09,
        end=0.4,
    )
    for side in (-1, 1):
        c.stroke(
            [(x + lean * 0.4, base - height * 0.38), (x + side * height * 0.2, base - height * 0.62)],
            bark,
            height * 0.04,
            end=0.3,
            curve=False,
        )
    for dx, dy, r in ((-0.2, 0.6, 0.2), (0.2, 0.62, 0.2), (0, 0.78, 0.24), (0.02, 0.58, 0.2)):
        leafy(
            c,
            rng,
            x + lean + dx * height,
            base - dy * height,
            r * height,
            r * height * 0.85,
            leaf,
            count=48,
            size=height * 0.055,
        )


def conifer(
    c: Canvas, rng: np.random.Generator, x: float, base: float, height: float, color: RGB, snow: RGB | None = None
) -> None:
    c.rect(x - height * 0.02, base - height * 0.15, x + height * 0.02, base, darker(color, 0.5))
    tiers = 6
    for i in range(tiers):
        y = base - height * (0.1 + 0.9 * i / tiers)
        half = height * 0.22 * (1 - i / tiers) + height * 0.02
        top = y - height * 0.24
        jag = [
            (x - half + 2 * half * k / 6, y + (0.015 if k % 2 else -0.01) * height + float(rng.normal()) * 0.004)
            for k in range(7)
        ]
        c.poly([(x, top), *reversed(jag)], mix(color, darker(color, 0.35), 1 - i / tiers))
        if snow is not None:
            c.poly(
                [
                    (x, top),
                    (x + half * 0.75, y - height * 0.015),
                    (x + half * 0.2, y - height * 0.06),
                    (x - half * 0.3, y - height * 0.03),
                    (x - half * 0.6, y - height * 0.03),
                ],
                snow,
                0.9,
            )


def grasses(
    c: Canvas,
    rng: np.random.Generator,
    y: float,
    height: float,
    color: RGB,
    count: int = 120,
    *,
    x0: float = 0.0,
    x1: float | None = None,
) -> None:
    right = c.w if x1 is None else x1
    for _ in range(count):
        x, k, bend = float(rng.uniform(x0, right)), float(rng.uniform(0.4, 1)), float(rng.normal()) * 0.3
        c.stroke(
            [(x, y), (x + bend * height * 0.3, y - height * k * 0.6), (x + bend * height, y - height * k)],
            mix(darker(color, 0.3), lighter(color, 0.2), float(rng.random())),
            height * 0.06,
            end=0.1,
        )
