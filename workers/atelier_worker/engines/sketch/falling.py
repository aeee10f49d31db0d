"""What is new in every frame of a video: rain and snow on their way down, rings on water, the light of the day."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .canvas import RGB, lighter, mix
from .rng import generator
from .scenes.base import Scene

_RING_SECONDS = 0.9

# The colour of the light through one day, and how strongly it colours everything: (part of the day, light).
_DAY: tuple[tuple[float, tuple[float, float, float]], ...] = (
    (0.0, (0.62, 0.6, 0.82)),
    (0.14, (1.06, 0.84, 0.74)),
    (0.35, (1.04, 1.02, 0.98)),
    (0.62, (1.05, 1.02, 0.94)),
    (0.84, (1.12, 0.8, 0.56)),
    (1.0, (0.6, 0.5, 0.68)),
)


@dataclass(frozen=True, slots=True)
class Falling:
    """Rain or snow over frames of a size; every drop has its own way, speed and time."""

    kind: str
    color: RGB
    slant: float
    drops: NDArray[np.float64]
    rings: NDArray[np.float64]
    size: tuple[int, int]

    @classmethod
    def over(cls, scene: Scene, size: tuple[int, int], *, wet: bool) -> Falling | None:
        """What falls in a scene; None in dry weather. `wet`: there is water that drops strike."""
        storm = scene.weather("storm")
        if storm or scene.weather("rain"):
            rng = scene.rand("falling rain")
            rings = scene.rand("rings").random((26 if wet else 0, 4))
            drops = rng.random((300 if storm else 210, 4))
            return cls("rain", lighter(scene.look.haze, 0.45), 0.5 if storm else 0.14, drops, rings, size)
        if scene.weather("snow"):
            return cls(
                "snow", (250, 252, 255), 0.1, scene.rand("falling snow").random((240, 4)), np.empty((0, 4)), size
            )
        return None

    def draw(self, frame: Image.Image, t: float) -> None:
        """Draw the drops of a moment onto a frame."""
        width, height = self.size
        unit = min(self.size)
        pen = ImageDraw.Draw(frame, "RGBA")
        for x, y, speed, phase in self.drops.tolist():
            if self.kind == "snow":
                down = (y + t * (0.08 + 0.14 * speed)) % 1.1 - 0.05
                side = (x + 0.03 * math.sin(1.7 * t + phase * math.tau) + t * 0.02) % 1.1 - 0.05
                r = max(0.7, unit * (0.002 + 0.006 * speed**2))
                px, py = side * width, down * height
                pen.ellipse((px - r, py - r, px + r, py + r), fill=(*self.color, round(120 + 110 * speed)))
            else:
                down = (y + t * (1.5 + 1.3 * speed)) % 1.3 - 0.15
                reach = unit * (0.035 + 0.06 * speed)
                px = (x * 1.4 - 0.2) * width - self.slant * (down - 0.5) * height
                py = down * height
                pen.line(
                    (px, py, px - self.slant * reach, py + reach),
                    fill=(*self.color, round(50 + 80 * speed)),
                    width=max(1, round(unit * (0.001 + 0.0025 * speed))),
                )

    def draw_rings(self, frame: Image.Image, t: float, top: float) -> None:
        """Draw the rings of drops that struck the water, which begins at the row `top`."""
        width, height = self.size
        pen = ImageDraw.Draw(frame, "RGBA")
        for number, (x, y, size, phase) in enumerate(self.rings.tolist()):
            turn, age = divmod(t / _RING_SECONDS + phase, 1.0)
            # Each new drop of a series strikes elsewhere.
            place = generator("ring", number, round(turn), round(x * 1e6)).random(2)
            near = (y + float(place[1])) % 1.0
            px, py = (x + float(place[0])) % 1.0 * width, top + (height - top) * (0.04 + 0.96 * near)
            r = min(self.size) * (0.012 + 0.05 * near) * (0.5 + size) * (0.15 + age)
            alpha = round(190 * (1 - age))
            line = max(1, round(min(self.size) * 0.004))
            pen.ellipse((px - r, py - r * 0.28, px + r, py + r * 0.28), outline=(*self.color, alpha), width=line)
            if age < 0.25:
                rise = r * (2.4 - 6 * age)
                pen.line((px, py, px, py - rise), fill=(*self.color, alpha), width=line)


def daylight(part: float) -> tuple[float, float, float]:
    """The light of a part of the day (0 dawn .. 1 dusk), as a factor for red, green and blue."""
    places = [place for place, _ in _DAY]
    r, g, b = (float(np.interp(part, places, [light[i] for _, light in _DAY])) for i in range(3))
    return r, g, b


def lit(frame: Image.Image, light: tuple[float, float, float]) -> Image.Image:
    """A frame under a light."""
    return frame.point([min(255, round(level * factor)) for factor in light for level in range(256)])


def day_sky(sky: tuple[RGB, ...], part: float) -> tuple[RGB, ...]:
    """A sky at a part of the day: red near its ends."""
    edge = abs(2 * part - 1) ** 2.2
    low: tuple[RGB, ...] = ((58, 66, 128), (206, 124, 118), (255, 190, 106))
    return tuple(mix(a, b, 0.85 * edge) for a, b in zip(sky, low, strict=True))


def flash(scene: Scene, t: float) -> float:
    """How bright lightning is at a moment, 0..1; 0 without a storm."""
    if not scene.weather("storm"):
        return 0.0
    moments = scene.rand("lightning").random(4) * 0.8 + np.arange(4) * 1.4
    since = t - moments
    return max((math.exp(-9 * float(s)) for s in since if s >= 0), default=0.0)
