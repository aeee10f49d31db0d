"""The last step: colours moved to the prompt's, and the surface of the medium: charcoal, ink, wash, film, paint."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageChops, ImageFilter, ImageOps

from .canvas import Floats
from .noise import clouds, grain
from .palette import grade
from .scenes.base import Scene

_BAND_ROWS = 128
_DEEPEST_SHADE = 0.2
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_PAPER = np.array([204, 188, 160], np.float32)
_CHARCOAL = np.array([34, 31, 32], np.float32)
_CHALK = np.array([250, 246, 236], np.float32)
_INK = np.array([34, 30, 40], np.float32)

# A band of the picture and the rows of it: (band as float32, first row) → the band as it becomes.
Surface = Callable[[Floats, int], Floats]


class Finish:
    """How a scene's picture is finished. It works on any size, so that previews look like the picture."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._medium = scene.reading.medium
        named = scene.reading.hues
        # A colour in a short prompt is meant for the picture, in a long one for a thing among many.
        self._hue_strength = 0.0 if not named else 0.66 if len(scene.reading.words) <= 14 else 0.2
        if all(hue.saturation < 0.3 for hue in named):
            # Cream, grey or white is the colour of a thing more often than of a picture.
            self._hue_strength *= 0.4
        if scene.reading.has("colourful", "colorful", "rainbow", "multicoloured"):
            self._hue_strength *= 0.35
        if scene.reading.subject_hue is not None:
            # "a red bicycle": the bicycle is painted red by its scene, the rest only leans to it.
            self._hue_strength *= 0.25 if scene.reading.has("white", "whitewashed") else 0.55

    def apply(self, picture: Image.Image) -> Image.Image:
        """The finished picture, of the same size; the given one may be used up."""
        picture = grade(picture, self._scene.reading.hues, self._hue_strength)
        # Lifted by half of what the shade takes on average: more would burn out the lights.
        lifted = picture.point([min(255, round(i / (1 - _DEEPEST_SHADE / 4))) for i in range(256)] * 3)
        picture = ImageChops.multiply(lifted, self._shade(picture.size))
        surface = self._surface(picture)
        out = np.array(picture)
        for top in range(0, out.shape[0], _BAND_ROWS):
            band = surface(out[top : top + _BAND_ROWS].astype(np.float32), top)
            out[top : top + _BAND_ROWS] = np.clip(band, 0, 255).astype(np.uint8)
        picture = Image.fromarray(out)
        return _pixelated(picture) if self._medium == "pixel" else picture

    def _shade(self, size: tuple[int, int]) -> Image.Image:
        """Where this seed's light falls off: broad soft shadows, as under passing clouds."""
        field = clouds(self._scene.rand("shade"), 24, 24, cells=1.6, octaves=2)
        shade = Image.fromarray((255 * (1 - _DEEPEST_SHADE * field)).astype(np.uint8))
        return shade.resize(size, Image.Resampling.BICUBIC).convert("RGB")

    def _surface(self, picture: Image.Image) -> Surface:
        width, height = picture.size
        rng = self._scene.rand("surface")
        noise = grain(rng, height, width)
        match self._medium:
            case "charcoal":
                return _charcoal(picture, noise, self._field(rng, picture))
            case "ink" | "pencil":
                return _ink(picture, noise, self._field(rng, picture))
            case "watercolour":
                return _wash(picture, noise, self._field(rng, picture))
            case "photo" | "noir":
                return _film(picture, noise, grey=self._medium == "noir")
            case _:
                return _paint(noise)

    @staticmethod
    def _field(rng: np.random.Generator, picture: Image.Image) -> Floats:
        small = clouds(rng, 96, max(8, round(96 * picture.width / picture.height)), cells=5, octaves=3)
        return np.asarray(Image.fromarray(small).resize(picture.size, Image.Resampling.BILINEAR))


def _charcoal(picture: Image.Image, noise: Floats, patches: Floats) -> Surface:
    # Bare paper is at 0.62 of the brightness: what is darker is rubbed in with charcoal, what is lighter with chalk.
    levels = np.asarray(ImageOps.autocontrast(picture.convert("L"), cutoff=0.5), np.uint8)

    def surface(band: Floats, top: int) -> Floats:
        rows = slice(top, top + len(band))
        light = levels[rows].astype(np.float32) / 255
        tooth = noise[rows] * 0.16 + (patches[rows] - 0.5) * 0.16
        black = np.clip((0.62 - light) * 1.7 + tooth * np.clip((0.78 - light) * 3, 0, 1), 0, 1)[:, :, None]
        white = np.clip((light - 0.8) * 3.4 + tooth * 0.8, 0, 0.9)[:, :, None] * (light > 0.74)[:, :, None]
        paper = _PAPER * (1 + noise[rows] * 0.025 + (patches[rows] - 0.5) * 0.08)[:, :, None]
        toned = paper * (1 - black) + _CHARCOAL * black
        mixed: Floats = toned * (1 - white) + _CHALK * white
        return mixed

    return surface


def _ink(picture: Image.Image, noise: Floats, patches: Floats) -> Surface:
    lines = _outlines(picture)
    diagonal = np.add.outer(np.arange(picture.height), np.arange(picture.width)).astype(np.int32)
    pitch = max(3, round(max(picture.size) / 170))

    def surface(band: Floats, top: int) -> Floats:
        rows = slice(top, top + len(band))
        light = (band @ _LUMA) / 255
        wash = _granulated(band, noise[rows], patches[rows], lift=0.2)
        hatch = ((diagonal[rows] % pitch) < 1) & (light < 0.42)
        cross = (((diagonal[rows] - 2 * np.arange(band.shape[1])[None, :]) % pitch) < 1) & (light < 0.26)
        line = np.clip(lines[rows].astype(np.float32) / 255 * (1.25 + noise[rows] * 0.1), 0, 1)
        dark = np.maximum(line, (hatch | cross) * 0.6)[:, :, None]
        mixed: Floats = wash * (1 - dark) + _INK * dark
        return mixed

    return surface


def _wash(picture: Image.Image, noise: Floats, patches: Floats) -> Surface:
    lines = _outlines(picture)

    def surface(band: Floats, top: int) -> Floats:
        rows = slice(top, top + len(band))
        pale = np.asarray(1 - lines[rows] / np.float32(730), np.float32)[:, :, None]
        washed: Floats = _granulated(band, noise[rows], patches[rows], lift=0.2) * pale
        return washed

    return surface


def _granulated(band: Floats, noise: Floats, patches: Floats, lift: float) -> Floats:
    """Thin paint on white paper: lighter, uneven, with pigment in the paper's valleys."""
    grey = (band @ _LUMA)[:, :, None]
    thin = 255 - (255 - (grey + (band - grey) * 1.3)) * (1 - lift)
    pigment = (1 + (patches - 0.5) * 0.22 + noise * 0.03)[:, :, None]
    return np.asarray(252 - (252 - thin) * pigment, np.float32)


def _film(picture: Image.Image, noise: Floats, *, grey: bool) -> Surface:
    across = np.linspace(-1, 1, picture.width, dtype=np.float32) ** 2
    down = np.linspace(-1, 1, picture.height, dtype=np.float32) ** 2
    bloom = picture.resize((max(1, picture.width // 8), max(1, picture.height // 8)), Image.Resampling.BOX).filter(
        ImageFilter.BoxBlur(picture.width / 400)
    )
    glare = np.asarray(bloom.resize(picture.size, Image.Resampling.BILINEAR))

    def surface(band: Floats, top: int) -> Floats:
        rows = slice(top, top + len(band))
        band = band + np.clip(glare[rows].astype(np.float32) - 170, 0, 90) * 0.35
        if grey:
            band = np.repeat((band @ _LUMA)[:, :, None], 3, axis=2)
        vignette = 1 - 0.2 * (across[None, :] + down[rows][:, None])
        curve = band + 18 * np.sin((band / 255 - 0.5) * np.pi * 2) * 0.5
        filmed: Floats = curve * vignette[:, :, None] + (noise[rows] * 4.5)[:, :, None]
        return filmed

    return surface


def _paint(noise: Floats) -> Surface:
    def surface(band: Floats, top: int) -> Floats:
        painted: Floats = band + (noise[top : top + len(band)] * 3.2)[:, :, None]
        return painted

    return surface


def _outlines(picture: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Where brightness changes: 255 on strong edges."""
    soft = picture.convert("L").filter(ImageFilter.GaussianBlur(max(picture.size) / 1400))
    edges = soft.filter(ImageFilter.Kernel((3, 3), (-1, -1, -1, -1, 8, -1, -1, -1, -1), scale=1))
    return np.asarray(edges.point([min(255, max(0, (i - 14) * 6)) for i in range(256)]))


def _pixelated(picture: Image.Image) -> Image.Image:
    size = (
        max(1, round(96 * picture.width / max(picture.size))),
        max(1, round(96 * picture.height / max(picture.size))),
    )
    small = picture.resize(size, Image.Resampling.BOX).quantize(32, dither=Image.Dither.NONE).convert("RGB")
    return small.resize(picture.size, Image.Resampling.NEAREST)
