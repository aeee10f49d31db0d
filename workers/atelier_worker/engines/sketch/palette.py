"""Colour: what each hour and weather looks like, what colour words mean, and grading a picture to them."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from .canvas import RGB, Floats, mix

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_BAND_ROWS = 128


@dataclass(frozen=True, slots=True)
class Hue:
    """What a colour word asks for: a hue in degrees, how saturated (0..1), and how light (-1 dark .. 1 light)."""

    degrees: float
    saturation: float
    lightness: float = 0.0

    def rgb(self, value: float = 0.75) -> RGB:
        """A paint of this hue, `value` (0..1) bright."""
        value = min(1.0, max(0.15, value + 0.25 * self.lightness))
        r, g, b = colorsys.hsv_to_rgb(self.degrees / 360, self.saturation, value)
        return round(r * 255), round(g * 255), round(b * 255)


HUES: Mapping[str, Hue] = {
    "red": Hue(2, 0.85), "crimson": Hue(350, 0.85, -0.1), "scarlet": Hue(6, 0.9), "vermilion": Hue(10, 0.9),
    "maroon": Hue(352, 0.75, -0.4), "burgundy": Hue(345, 0.7, -0.4), "rust": Hue(16, 0.75, -0.15),
    "terracotta": Hue(16, 0.6), "coral": Hue(12, 0.6, 0.2), "copper": Hue(20, 0.65), "orange": Hue(28, 0.9),
    "tangerine": Hue(26, 0.9), "amber": Hue(40, 0.85), "ochre": Hue(38, 0.7, -0.1), "sepia": Hue(34, 0.45, -0.05),
    "brown": Hue(26, 0.6, -0.35), "chestnut": Hue(18, 0.6, -0.35), "gold": Hue(45, 0.8), "golden": Hue(43, 0.75),
    "yellow": Hue(54, 0.9, 0.15), "lemon": Hue(56, 0.75, 0.25), "mustard": Hue(48, 0.8, -0.05), "cream": Hue(46, 0.25, 0.4),
    "beige": Hue(40, 0.25, 0.2), "olive": Hue(68, 0.55, -0.25), "lime": Hue(82, 0.8, 0.1), "green": Hue(125, 0.65),
    "emerald": Hue(148, 0.75), "sage": Hue(110, 0.25), "jade": Hue(155, 0.55), "mint": Hue(152, 0.4, 0.3),
    "teal": Hue(180, 0.7, -0.15), "turquoise": Hue(176, 0.7, 0.1), "cyan": Hue(188, 0.8, 0.1), "aqua": Hue(186, 0.6, 0.2),
    "azure": Hue(206, 0.75, 0.1), "blue": Hue(218, 0.78), "navy": Hue(225, 0.7, -0.45), "cobalt": Hue(216, 0.8, -0.1),
    "ultramarine": Hue(228, 0.8, -0.1), "indigo": Hue(248, 0.65, -0.25), "slate": Hue(208, 0.22, -0.25),
    "violet": Hue(272, 0.65), "purple": Hue(282, 0.7), "lavender": Hue(264, 0.35, 0.3), "lilac": Hue(286, 0.35, 0.3),
    "plum": Hue(306, 0.5, -0.25), "magenta": Hue(312, 0.8), "pink": Hue(338, 0.55, 0.25), "rose": Hue(345, 0.5, 0.15),
    "monochrome": Hue(0, 0.0), "grey": Hue(0, 0.0), "gray": Hue(0, 0.0), "black": Hue(0, 0.0, -0.5),
    "white": Hue(0, 0.0, 0.5), "silver": Hue(210, 0.06, 0.15),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Look:
    """The light of a picture. `ambient` multiplies every local colour; `haze` is what distance fades to."""

    sky: tuple[RGB, ...]
    haze: RGB
    light: RGB
    ambient: tuple[float, float, float]
    dark: bool
    accent: RGB
    hues: tuple[Hue, ...] = field(default=())

    def tone(self, color: RGB, lift: float = 0.0) -> RGB:
        """A local colour under this light; `lift` (0..1) moves it towards the light itself."""
        r, g, b = (min(255, round(c * a)) for c, a in zip(color, self.ambient, strict=True))
        return mix((r, g, b), self.light, lift)

    def far(self, color: RGB, distance: float) -> RGB:
        """A local colour seen through `distance` (0..1) of air."""
        return mix(self.tone(color), self.haze, distance)


_SKIES: Mapping[str, tuple[tuple[RGB, ...], RGB, tuple[float, float, float]]] = {
    # hour: (sky from top to horizon, light, ambient)
    "day": (((88, 148, 204), (150, 194, 220), (222, 230, 222)), (255, 246, 220), (1.0, 1.0, 0.98)),
    "noon": (((70, 140, 210), (140, 192, 226), (226, 236, 232)), (255, 250, 230), (1.06, 1.04, 1.0)),
    "dawn": (((112, 134, 176), (206, 180, 190), (252, 208, 168)), (255, 218, 176), (0.96, 0.88, 0.86)),
    "sunset": (((66, 58, 112), (196, 96, 96), (252, 176, 88)), (255, 186, 96), (1.0, 0.78, 0.66)),
    "dusk": (((34, 40, 84), (104, 84, 132), (226, 140, 122)), (255, 190, 140), (0.66, 0.6, 0.74)),
    "night": (((8, 12, 32), (18, 28, 60), (42, 58, 98)), (255, 214, 140), (0.36, 0.44, 0.66)),
}
_WEATHERS: Mapping[str, tuple[tuple[RGB, ...], tuple[float, float, float]]] = {
    "storm": (((34, 44, 56), (66, 80, 92), (150, 164, 166)), (0.68, 0.74, 0.78)),
    "rain": (((96, 110, 124), (142, 154, 164), (196, 204, 206)), (0.84, 0.88, 0.92)),
    "snow": (((150, 164, 184), (192, 202, 214), (230, 234, 238)), (0.92, 0.95, 1.0)),
    "mist": (((176, 188, 196), (206, 212, 212), (236, 232, 222)), (0.95, 0.96, 0.96)),
}


def look_for(hour: str, weathers: Sequence[str], hues: Sequence[Hue], rng: np.random.Generator) -> Look:
    """The light of an hour in a weather, a little different for every seed."""
    sky, light, ambient = _SKIES[hour]
    for weather in weathers:
        cover, dim = _WEATHERS[weather]
        # Weather hides the hour's colours, but night stays night and a dawn mist stays warm.
        share = {"night": 0.12, "dusk": 0.35, "sunset": 0.35, "dawn": 0.4}.get(hour, 0.9)
        sky = tuple(mix(a, b, share) for a, b in zip(sky, cover, strict=True))
        ambient = (
            ambient[0] * (1 + (dim[0] - 1) * share), ambient[1] * (1 + (dim[1] - 1) * share),
            ambient[2] * (1 + (dim[2] - 1) * share),
        )  # fmt: skip
    warm = float(rng.uniform(-0.05, 0.05))
    ambient = (ambient[0] * (1 + warm), ambient[1], ambient[2] * (1 - warm))
    accent = (
        hues[0].rgb(0.8)
        if hues
        else [(206, 62, 48), (222, 142, 44), (52, 122, 142), (150, 66, 96)][int(rng.integers(4))]
    )
    return Look(
        sky=sky,
        haze=sky[-1],
        light=light,
        ambient=ambient,
        dark=hour in ("night", "dusk"),
        accent=accent,
        hues=tuple(hues),
    )


def grade(picture: Image.Image, hues: Sequence[Hue], strength: float) -> Image.Image:
    """Move a picture's colours to the hues: the first colours lights, the last shadows; luminance mostly stays."""
    if not hues or strength <= 0:
        return picture
    ramp = _ramp(hues)
    out = np.array(picture)
    for top in range(0, out.shape[0], _BAND_ROWS):
        band = out[top : top + _BAND_ROWS].astype(np.float32)
        luma = band @ _LUMA
        target = ramp[np.clip(luma, 0, 255).astype(np.uint8)]
        mixed = band * (1 - strength) + target * strength
        out[top : top + _BAND_ROWS] = np.clip(mixed, 0, 255).astype(np.uint8)
    return Image.fromarray(out)


def _ramp(hues: Sequence[Hue]) -> Floats:
    """A table luminance → colour (256, 3) through dark, middle and light paints of the hues."""
    light, dark = hues[0], hues[-1]
    lift = 0.22 * light.lightness
    points = [0.0, 0.25 - lift * 0.5, 0.55 - lift * 0.5, 0.85 - lift * 0.3, 1.0]
    colors = [
        _paint(dark, dark.saturation * 0.9, 0.05), _paint(dark, dark.saturation, 0.4),
        _paint(light, light.saturation, 0.74), _paint(light, light.saturation * 0.55, 0.93),
        _paint(light, light.saturation * 0.22, 1.0),
    ]  # fmt: skip
    level = np.linspace(0, 1, 256)
    return np.stack([np.interp(level, points, [c[i] for c in colors]) for i in range(3)], axis=1).astype(np.float32)


def _paint(hue: Hue, saturation: float, value: float) -> RGB:
    r, g, b = colorsys.hsv_to_rgb(hue.degrees / 360, min(1.0, saturation), value)
    return round(r * 255), round(g * 255), round(b * 255)


def match(picture: Image.Image, reference: Image.Image, strength: float) -> Image.Image:
    """Move a picture's colours towards the mean and spread of a reference's, per channel, by `strength` (0..1)."""
    target = np.asarray(reference, np.float32).reshape(-1, 3)
    small = np.asarray(picture.resize((64, 64), Image.Resampling.BOX), np.float32).reshape(-1, 3)
    gain = np.clip((target.std(axis=0) + 8) / (small.std(axis=0) + 8), 0.4, 2.0)
    table: list[int] = []
    for channel in range(3):
        level = np.arange(256, dtype=np.float32)
        moved = (level - small[:, channel].mean()) * gain[channel] + target[:, channel].mean()
        table += np.clip(level * (1 - strength) + moved * strength, 0, 255).astype(int).tolist()
    return picture.point(table)
