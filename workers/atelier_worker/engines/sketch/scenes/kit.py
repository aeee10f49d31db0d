"""Things that many scenes draw: skies, hills, water, weather, birds, boats, people."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..canvas import RGB, Canvas, Point, darker, lighter, mix, smooth
from ..noise import clouds
from ..palette import Look
from .base import Layer, Scene


def sky(
    c: Canvas, scene: Scene, horizon: float, *, cloudy: float = 0.5, sun: Point | None = None, moon: bool = True
) -> None:
    """Sky down to `horizon`, with the hour's sun or moon, and clouds as the weather wants."""
    look, rng = scene.look, scene.rand("sky")
    c.gradient(0, 0, c.w, horizon + 0.02, look.sky)
    night = scene.hour() == "night"
    where = sun if sun is not None else (float(rng.uniform(0.15, 0.85)) * c.w, horizon * float(rng.uniform(0.25, 0.6)))
    if night:
        stars(c, rng, horizon)
    heavy = scene.weather("storm") or scene.weather("rain")
    if night and moon and not heavy:
        c.glow(*where, 0.35, (120, 140, 190), 0.5)
        c.oval(*where, 0.05, color=(244, 240, 220))
        c.oval(where[0] + 0.012, where[1] - 0.01, 0.008, color=(220, 216, 198))
    elif not night and not heavy:
        low = scene.hour() in ("dawn", "sunset", "dusk")
        c.glow(*where, 0.9 if low else 0.55, look.light, 0.75 if low else 0.5)
        c.oval(*where, 0.055 if low else 0.04, color=lighter(look.light, 0.5), alpha=0.95)
    veil = clouds(rng, 96, round(96 * c.w / horizon) if horizon > 0.2 else 96, cells=2.2, stretch=2.4)
    cover = 1.0 if scene.weather("storm") else 0.75 if scene.weather("rain") else cloudy
    density = np.clip((veil - (1.02 - 0.62 * cover)) * 2.6, 0, 1).astype(np.float32)
    box = (0.0, 0.0, c.w, horizon)
    if scene.weather("storm"):
        c.field(density * 0.85, mix(look.sky[0], (20, 24, 34), 0.45), box)
        c.field(
            np.roll(np.clip((veil - 0.5) * 2, 0, 1), 3, axis=0) * (1 - density) * 0.6, lighter(look.haze, 0.35), box
        )
    else:
        tint = mix(look.haze, (255, 255, 255) if not look.dark else look.sky[1], 0.5)
        c.field(density * 0.75, tint, box)
        c.field(np.clip(np.roll(density, 4, axis=0) - density, 0, 1) * 0.5, mix(look.sky[0], look.haze, 0.3), box)


def stars(c: Canvas, rng: np.random.Generator, horizon: float, count: int = 160) -> None:
    for x, y, size in rng.random((count, 3)):
        c.oval(x * c.w, y**1.3 * horizon, 0.001 + 0.0018 * size**3, color=(236, 236, 255), alpha=0.35 + 0.6 * size)


def ridge(
    rng: np.random.Generator, x0: float, x1: float, base: float, height: float, *, rough: float = 0.5, points: int = 96
) -> list[Point]:
    """A skyline of hills from x0 to x1 (left to right): `base` is its lowest y, `height` its relief."""
    profile = np.zeros(points)
    for octave in range(5):
        knots = rng.random(3 + 3 * 2**octave)
        profile += np.interp(np.linspace(0, len(knots) - 1, points), np.arange(len(knots)), knots) * (rough**octave)
    profile = (profile - profile.min()) / max(1e-6, float(np.ptp(profile)))
    return [(x0 + (x1 - x0) * i / (points - 1), base - height * float(v)) for i, v in enumerate(profile)]


def hill(c: Canvas, skyline: Sequence[Point], bottom: float, top_color: RGB, low_color: RGB) -> None:
    """Fill under a skyline with a gradient."""
    outline = [*skyline, (skyline[-1][0], bottom), (skyline[0][0], bottom)]
    high = min(y for _, y in skyline)
    with c.clipped(outline):
        c.gradient(skyline[0][0], high, skyline[-1][0], bottom, [top_color, low_color])


def peak(
    c: Canvas,
    rng: np.random.Generator,
    x: float,
    top: float,
    base: float,
    spread: float,
    color: RGB,
    shade: RGB,
    snow: RGB | None,
) -> None:
    """A mountain with a lit and a shaded side, and snow on its head."""
    left = _rugged(rng, (x - spread, base), (x, top))
    right = _rugged(rng, (x, top), (x + spread * float(rng.uniform(0.8, 1.2)), base))
    c.poly([*left, *right], color)
    spine = _rugged(rng, (x, top), (x + spread * 0.1, base), 0.07)
    c.poly([*spine, *reversed(right)], shade)
    if snow is not None:
        line = top + (base - top) * 0.36
        cap = [p for p in left if p[1] < line] + [p for p in right if p[1] < line]
        teeth = np.linspace(cap[-1][0], cap[0][0], 9).tolist()
        zig = [
            (tx, line + (0.05 if i % 2 else -0.03) * (base - top) * float(rng.uniform(0.5, 1.4)))
            for i, tx in enumerate(teeth[1:-1])
        ]
        c.poly([*cap, *zig], snow)
        c.poly(
            [*[p for p in spine if p[1] < line * 0.96 + top * 0.04], *reversed([p for p in right if p[1] < line])],
            darker(snow, 0.22),
        )


def _rugged(rng: np.random.Generator, a: Point, b: Point, rough: float = 0.035) -> list[Point]:
    n = 14
    reach = math.hypot(b[0] - a[0], b[1] - a[1])
    return [
        (
            a[0] + (b[0] - a[0]) * i / n + float(rng.normal()) * rough * reach * (0 < i < n) * 0.6,
            a[1] + (b[1] - a[1]) * i / n + float(rng.normal()) * rough * reach * (0 < i < n),
        )
        for i in range(n + 1)
    ]


def sea(
    c: Canvas,
    scene: Scene,
    horizon: float,
    bottom: float,
    *,
    deep: RGB = (34, 82, 110),
    rough: float = 0.5,
    glint: Point | None = None,
) -> None:
    """Water from the horizon down: gradient, wave strokes that grow nearer, glitter under a light."""
    look, rng = scene.look, scene.rand("sea", str(horizon))
    c.gradient(
        0, horizon, c.w, bottom, [mix(look.haze, look.tone(deep), 0.45), look.tone(deep), darker(look.tone(deep), 0.35)]
    )
    count = round(170 * (0.5 + rough))
    for i in range(count):
        t = ((i + float(rng.random())) / count) ** 1.7
        y = horizon + (bottom - horizon) * t
        x, span = float(rng.uniform(-0.1, c.w)), (0.03 + 0.22 * t) * float(rng.uniform(0.4, 1.2))
        lift = 0.004 + 0.03 * t * rough
        color = lighter(look.haze, 0.25) if rng.random() < 0.45 else darker(look.tone(deep), 0.3)
        arc = [(x, y), (x + span * 0.3, y - lift), (x + span * 0.7, y - lift * 0.6), (x + span, y)]
        c.stroke(arc, color, 0.002 + 0.009 * t, 0.28 + 0.25 * float(rng.random()), end=0.2)
    if glint is not None:
        for _ in range(120):
            t = float(rng.random()) ** 1.4
            y = horizon + (bottom - horizon) * t
            x = glint[0] + float(rng.normal()) * (0.03 + 0.1 * t)
            c.stroke([(x, y), (x + 0.015 + 0.04 * t, y)], look.light, 0.002 + 0.005 * t, 0.5, curve=False)


def spray(c: Canvas, rng: np.random.Generator, x: float, y: float, size: float, color: RGB, count: int = 90) -> None:
    """Water thrown up from a point."""
    for _ in range(count):
        angle, reach = float(rng.normal(-math.pi / 2, 0.55)), float(rng.random()) ** 0.7 * size
        c.oval(
            x + math.cos(angle) * reach,
            y + math.sin(angle) * reach,
            0.002 + 0.006 * float(rng.random()),
            color=color,
            alpha=0.25 + 0.5 * float(rng.random()),
        )
    c.glow(x, y - size * 0.2, size * 0.8, color, 0.4)


def rain(
    c: Canvas,
    rng: np.random.Generator,
    color: RGB,
    *,
    count: int = 260,
    slant: float = 0.18,
    alpha: float = 0.3,
    long: float = 0.07,
) -> None:
    for x, y, k in rng.random((count, 3)).tolist():
        reach = long * (0.4 + k)
        x0, y0 = x * (c.w + 0.3) - 0.15, y * (c.h + 0.2) - 0.1
        c.line([(x0, y0), (x0 - slant * reach, y0 + reach)], color, 0.0012 + 0.001 * k, alpha * (0.4 + 0.6 * k))


def snowfall(c: Canvas, rng: np.random.Generator, count: int = 220) -> None:
    for x, y, k in rng.random((count, 3)).tolist():
        c.oval(x * c.w, y * c.h, 0.002 + 0.006 * k**2, color=(250, 252, 255), alpha=0.5 + 0.4 * k)


def mist(c: Canvas, rng: np.random.Generator, y: float, height: float, color: RGB, density: float = 0.7) -> None:
    """A bank of mist around y, torn at its edges."""
    field = clouds(rng, 40, 120, cells=2.5, stretch=3.5)
    band = np.exp(-(np.linspace(-1.6, 1.6, 40) ** 2)).astype(np.float32)[:, None]
    c.field(np.clip(field * 1.5 - 0.15, 0, 1) * band * density, color, (0, y - height, c.w, y + height))


def bird(c: Canvas, x: float, y: float, span: float, color: RGB, lift: float = 0.3) -> None:
    """A far bird: two curved strokes."""
    c.stroke(
        [(x - span, y - lift * span), (x - span * 0.45, y - lift * span * 1.5), (x, y)], color, span * 0.1, end=1.4
    )
    c.stroke(
        [(x + span, y - lift * span), (x + span * 0.45, y - lift * span * 1.5), (x, y)], color, span * 0.1, end=1.4
    )


def flock(
    c: Canvas, rng: np.random.Generator, x: float, y: float, spread: float, count: int, color: RGB, size: float = 0.014
) -> None:
    for _ in range(count):
        bird(
            c,
            x + float(rng.normal()) * spread,
            y + float(rng.normal()) * spread * 0.4,
            size * float(rng.uniform(0.5, 1.2)),
            color,
            float(rng.uniform(0.1, 0.6)),
        )


def window(
    c: Canvas,
    x0: float,
    y0: float,
    x1: float,
    y1: float,
    *,
    glass: RGB,
    frame: RGB,
    panes: int = 2,
    lit: RGB | None = None,
) -> None:
    """A window with glazing bars; lit windows glow."""
    t = (x1 - x0) * 0.08
    c.rect(x0 - t, y0 - t, x1 + t, y1 + t, frame)
    c.gradient(x0, y0, x1, y1, [lit, mix(lit, (255, 140, 40), 0.25)] if lit else [lighter(glass, 0.25), glass])
    for i in range(1, panes):
        x = x0 + (x1 - x0) * i / panes
        c.line([(x, y0), (x, y1)], frame, t * 0.7)
    c.line([(x0, (y0 + y1) / 2), (x1, (y0 + y1) / 2)], frame, t * 0.7)
    if lit:
        c.glow((x0 + x1) / 2, (y0 + y1) / 2, (y1 - y0) * 1.3, lit, 0.35)


def person(
    c: Canvas,
    x: float,
    base: float,
    height: float,
    coat: RGB,
    *,
    skin: RGB = (196, 150, 118),
    stride: float = 0.5,
    umbrella: RGB | None = None,
    away: bool = False,
) -> None:
    """A small standing or walking figure; `away`: seen from behind."""
    v = c.at(x, base, height)
    legs = darker(coat, 0.55)
    v.stroke([(-0.02, -0.45), (-0.05 - 0.08 * stride, 0)], legs, 0.1, end=0.7, curve=False)
    v.stroke([(0.02, -0.45), (0.04 + 0.1 * stride, 0)], legs, 0.1, end=0.7, curve=False)
    v.blob([(-0.1, -0.8), (0.1, -0.8), (0.15, -0.38), (-0.15, -0.38)], coat)
    v.oval(0, -0.9, 0.075, 0.095, color=skin)
    if away:
        v.oval(0, -0.91, 0.078, 0.09, darker(coat, 0.7))
    v.blob([(-0.08, -0.92), (-0.05, -1.0), (0.05, -1.0), (0.08, -0.92), (0, -0.95)], darker(coat, 0.7))
    if umbrella is not None:
        v.line([(0.1, -0.6), (0.1, -1.05)], (30, 30, 34), 0.02)
        v.poly(
            [
                (-0.3, -1.0),
                *[(0.1 - 0.42 * math.cos(a), -1.0 - 0.3 * math.sin(a)) for a in np.linspace(0, math.pi, 14).tolist()],
                (0.5, -1.0),
            ],
            umbrella,
        )


def lantern(c: Canvas, x: float, y: float, size: float, color: RGB = (224, 58, 40)) -> None:
    """A round paper lantern, lit from inside."""
    c.glow(x, y, size * 4.2, (255, 130, 60), 0.55)
    c.line([(x, y - size * 2.2), (x, y - size)], (24, 16, 16), size * 0.07)
    c.oval(x, y, size * 0.8, size, color=color)
    c.oval(x, y, size * 0.55, size * 0.85, color=mix(color, (255, 190, 90), 0.5), alpha=0.9)
    c.oval(x, y + size * 0.1, size * 0.3, size * 0.5, color=(255, 232, 160), alpha=0.9)
    for k in (-0.5, -0.17, 0.17, 0.5):
        half = 0.8 * math.sqrt(1 - k * k) * size
        c.line([(x - half, y + k * size), (x + half, y + k * size)], darker(color, 0.35), size * 0.05, 0.6)
    c.rect(x - size * 0.35, y - size * 1.08, x + size * 0.35, y - size * 0.9, (30, 18, 18))
    c.rect(x - size * 0.35, y + size * 0.9, x + size * 0.35, y + size * 1.08, (30, 18, 18))


def curve(points: Sequence[Point], steps: int = 6) -> list[Point]:
    return smooth(points, closed=False, steps=steps)


def falling(scene: Scene) -> list[Layer]:
    """The layer of rain, snow or mist in front of everything, if the prompt has any."""
    if not any(scene.weather(name) for name in ("rain", "storm", "snow", "mist")):
        return []
    return [Layer("weather", lambda c: weather_over(c, scene), 1.0)]


def weather_over(c: Canvas, scene: Scene) -> None:
    """What falls in front of everything."""
    look: Look = scene.look
    if scene.weather("rain") or scene.weather("storm"):
        rain(
            c,
            scene.rand("rain"),
            lighter(look.haze, 0.4),
            count=340 if scene.weather("storm") else 260,
            slant=0.5 if scene.weather("storm") else 0.18,
        )
    if scene.weather("snow"):
        snowfall(c, scene.rand("snow"))
    if scene.weather("mist"):
        mist(c, scene.rand("mist"), c.h * 0.62, 0.28, lighter(look.haze, 0.3), 0.6)
