"""The canvas: drawing in the picture's own units on a supersampled bitmap.

The short side of a picture is 1.0 units; x grows to the right, y downwards. A canvas is a view through an affine
transform, so that a subject is drawn once in its own units and placed, scaled, turned or mirrored anywhere.
Pillow draws without anti-aliasing; the bitmap is larger than the picture (up to twice), which supplies it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

RGB = tuple[int, int, int]
Point = tuple[float, float]
Matrix = tuple[float, float, float, float, float, float]
Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_LONGEST_BITMAP_SIDE = 1792
_OVAL = tuple((math.cos(a), math.sin(a)) for a in np.linspace(0, 2 * math.pi, 48, endpoint=False).tolist())


def mix(a: RGB, b: RGB, t: float) -> RGB:
    """The colour a fraction `t` (0..1) of the way from `a` to `b`."""
    t = min(1.0, max(0.0, t))
    return (
        round(a[0] + (b[0] - a[0]) * t),
        round(a[1] + (b[1] - a[1]) * t),
        round(a[2] + (b[2] - a[2]) * t),
    )


def darker(color: RGB, t: float) -> RGB:
    return mix(color, (12, 12, 22), t)


def lighter(color: RGB, t: float) -> RGB:
    return mix(color, (255, 250, 240), t)


def smooth(points: Sequence[Point], *, closed: bool = True, steps: int = 6) -> list[Point]:
    """A Catmull-Rom curve through the points."""
    n = len(points)
    spans = range(n if closed else n - 1)
    out: list[Point] = []
    for i in spans:
        if closed:
            p0, p1, p2, p3 = points[i - 1], points[i], points[(i + 1) % n], points[(i + 2) % n]
        else:
            p0, p1, p2, p3 = points[max(0, i - 1)], points[i], points[i + 1], points[min(n - 1, i + 2)]
        for s in range(steps):
            t = s / steps
            out.append((_spline(p0[0], p1[0], p2[0], p3[0], t), _spline(p0[1], p1[1], p2[1], p3[1], t)))
    if not closed:
        out.append(points[-1])
    return out


def _spline(a: float, b: float, c: float, d: float, t: float) -> float:
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t * t + (3 * b - a - 3 * c + d) * t**3)


class Canvas:
    """A view on a bitmap. `w` and `h` are the picture's extent in units (the short side is 1.0)."""

    def __init__(
        self,
        width: int,
        height: int,
        *,
        background: RGB = (0, 0, 0),
        mirrored: bool = False,
        zoom: float = 1.0,
        focus: Point = (0.5, 0.5),
    ) -> None:
        """A canvas of `width` × `height` pixels; `zoom` (1 or more) enlarges around `focus`, given in shares of the picture."""
        scale = min(2.0, _LONGEST_BITMAP_SIDE / max(width, height))
        self.size = (width, height)
        self.w, self.h = width / min(width, height), height / min(width, height)
        self.image = Image.new("RGB", (round(width * scale), round(height * scale)), background)
        unit = min(self.image.size)
        scale, left, top = (
            unit * zoom,
            -focus[0] * (zoom - 1) * self.image.width,
            -focus[1] * (zoom - 1) * self.image.height,
        )
        self.matrix: Matrix = (
            (-scale, 0, self.image.width - left, 0, scale, top) if mirrored else (scale, 0, left, 0, scale, top)
        )
        self._draw = ImageDraw.Draw(self.image, "RGBA")

    def at(
        self, x: float, y: float, scale: float = 1.0, *, turn: float = 0.0, flip: bool = False, tall: float = 1.0
    ) -> Canvas:
        """A view with its origin at (x, y), `scale` times larger, turned clockwise by `turn` radians."""
        view = Canvas.__new__(Canvas)
        view.size, view.w, view.h, view.image, view._draw = self.size, self.w, self.h, self.image, self._draw
        cos, sin = math.cos(turn) * scale, math.sin(turn) * scale
        f = -1.0 if flip else 1.0
        a, b, c, d, e, g = self.matrix
        m = (cos * f, -sin * tall, x, sin * f, cos * tall, y)
        view.matrix = (
            a * m[0] + b * m[3], a * m[1] + b * m[4], a * m[2] + b * m[5] + c,
            d * m[0] + e * m[3], d * m[1] + e * m[4], d * m[2] + e * m[5] + g,
        )  # fmt: skip
        return view

    def px(self, point: Point) -> Point:
        a, b, c, d, e, f = self.matrix
        return a * point[0] + b * point[1] + c, d * point[0] + e * point[1] + f

    @property
    def unit(self) -> float:
        """Bitmap pixels per unit of this view."""
        a, b, _, d, e, _ = self.matrix
        return math.sqrt(abs(a * e - b * d))

    def box(self, x0: float, y0: float, x1: float, y1: float) -> tuple[int, int, int, int]:
        """The bitmap box around two corners, not cut to the bitmap."""
        p, q = self.px((x0, y0)), self.px((x1, y1))
        left, right = sorted((p[0], q[0]))
        top, bottom = sorted((p[1], q[1]))
        return (
            math.floor(left),
            math.floor(top),
            max(math.floor(left) + 1, math.ceil(right)),
            max(math.floor(top) + 1, math.ceil(bottom)),
        )

    def poly(self, points: Iterable[Point], color: RGB, alpha: float = 1.0) -> None:
        flat = [self.px(p) for p in points]
        if len(flat) >= 3:
            self._draw.polygon(flat, fill=(*color, round(255 * alpha)))

    def blob(self, points: Sequence[Point], color: RGB, alpha: float = 1.0) -> None:
        """A smooth closed shape through the points."""
        self.poly(smooth(points), color, alpha)

    def rect(self, x0: float, y0: float, x1: float, y1: float, color: RGB, alpha: float = 1.0) -> None:
        self.poly([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], color, alpha)

    def oval(
        self, x: float, y: float, rx: float, ry: float | None = None, color: RGB = (0, 0, 0), alpha: float = 1.0
    ) -> None:
        ry = rx if ry is None else ry
        self.poly([(x + rx * c, y + ry * s) for c, s in _OVAL], color, alpha)

    def ring(
        self, x: float, y: float, r: float, width: float, color: RGB, alpha: float = 1.0, ry: float | None = None
    ) -> None:
        ry = r if ry is None else ry
        points = [(x + r * c, y + ry * s) for c, s in _OVAL]
        self.line([*points, points[0]], color, width, alpha)

    def line(self, points: Sequence[Point], color: RGB, width: float, alpha: float = 1.0) -> None:
        pixels = max(1, round(width * self.unit))
        self._draw.line(
            [self.px(p) for p in points],
            fill=(*color, round(255 * alpha)),
            width=pixels,
            joint="curve" if pixels > 3 else None,
        )

    def stroke(
        self,
        points: Sequence[Point],
        color: RGB,
        width: float,
        alpha: float = 1.0,
        *,
        end: float = 0.0,
        curve: bool = True,
        swell: bool = False,
    ) -> None:
        """A brush stroke that ends `end` × `width` wide; `swell`: thin at both ends, `width` wide in between."""
        path = smooth(points, closed=False) if curve and len(points) > 2 else list(points)
        left: list[Point] = []
        right: list[Point] = []
        for i, (x, y) in enumerate(path):
            x0, y0 = path[max(0, i - 1)]
            x1, y1 = path[min(len(path) - 1, i + 1)]
            length = math.hypot(x1 - x0, y1 - y0) or 1.0
            along = i / max(1, len(path) - 1)
            half = 0.5 * width * (math.sin(math.pi * along) if swell else 1 + (end - 1) * along)
            nx, ny = -(y1 - y0) / length * half, (x1 - x0) / length * half
            left.append((x + nx, y + ny))
            right.append((x - nx, y - ny))
        self.poly([*left, *reversed(right)], color, alpha)

    def gradient(
        self,
        x0: float,
        y0: float,
        x1: float,
        y1: float,
        stops: Sequence[RGB],
        *,
        across: bool = False,
        alpha: float = 1.0,
        fade: bool = False,
    ) -> None:
        """Fill a box with colours from top to bottom (`across`: from x0 to x1); `fade` makes it end transparent."""
        box = self.box(x0, y0, x1, y1)
        strip = np.linspace(0, len(stops) - 1, 64)
        table = np.array(stops, np.float32)
        low = np.minimum(strip.astype(int), len(stops) - 2) if len(stops) > 1 else np.zeros(64, int)
        high = np.minimum(low + 1, len(stops) - 1)
        part = (strip - low).astype(np.float32)[:, None]
        colors = (table[low] * (1 - part) + table[high] * part).astype(np.uint8)
        cover = (np.linspace(1, 0, 64) if fade else np.ones(64)) * 255 * alpha
        if across:
            if self.matrix[0] < 0:
                colors, cover = colors[::-1], cover[::-1]
            colors, cover = colors[None, :, :], cover[None, :]
        else:
            colors, cover = colors[:, None, :], cover[:, None]
        self._paste(Image.fromarray(np.ascontiguousarray(colors)), box, np.ascontiguousarray(cover.astype(np.uint8)))

    def field(self, values: Floats, color: RGB, box: tuple[float, float, float, float] | None = None) -> None:
        """Lay a colour over a box as densely as a small field of values (0..1, rows first) says, enlarged smoothly."""
        x0, y0, x1, y1 = box if box is not None else (0.0, 0.0, self.w, self.h)
        mask = np.ascontiguousarray((np.clip(values, 0, 1) * 255).astype(np.uint8))
        if self.matrix[0] < 0:
            mask = np.ascontiguousarray(mask[:, ::-1])
        pixels = self.box(x0, y0, x1, y1)
        cut, source = _cut(pixels, self.image.size, mask.shape)
        if cut is not None:
            cover = Image.fromarray(mask).resize(
                (cut[2] - cut[0], cut[3] - cut[1]), Image.Resampling.BICUBIC, box=source
            )
            self.image.paste(color, cut, cover)

    def glow(
        self, x: float, y: float, radius: float, color: RGB, strength: float = 0.6, *, ry: float | None = None
    ) -> None:
        """Light around a point: adds `color`, falling off to nothing at `radius`."""
        ry = radius if ry is None else ry
        box = self.box(x - radius, y - ry, x + radius, y + ry)
        axis = np.linspace(-1, 1, 65, dtype=np.float32)
        far = np.sqrt(axis[None, :] ** 2 + axis[:, None] ** 2)
        fall = (np.clip(1 - far, 0, 1) ** 2 * 255 * strength).astype(np.uint8)
        cut, source = _cut(box, self.image.size, fall.shape)
        if cut is None:
            return
        cover = Image.fromarray(fall).resize((cut[2] - cut[0], cut[3] - cut[1]), Image.Resampling.BILINEAR, box=source)
        light = Image.merge("RGB", [cover.point([round(i * c / 255) for i in range(256)]) for c in color])
        under = self.image.crop(cut)
        self.image.paste(ImageChops.screen(under, light), cut)

    @contextmanager
    def clipped(self, points: Sequence[Point]) -> Iterator[Canvas]:
        """Whatever is drawn on this view inside the block stays within the polygon."""
        flat = [self.px(p) for p in points]
        xs, ys = [p[0] for p in flat], [p[1] for p in flat]
        box = (math.floor(min(xs)), math.floor(min(ys)), math.ceil(max(xs)) + 1, math.ceil(max(ys)) + 1)
        cut, _ = _cut(box, self.image.size, (1, 1))
        whole, draw, matrix = self.image, self._draw, self.matrix
        left, top = (cut[0], cut[1]) if cut is not None else (0, 0)
        a, b, c, d, e, f = matrix
        # The block draws on a copy of that part alone, which costs less than keeping a copy of the whole.
        self.image = whole.crop(cut) if cut is not None else Image.new("RGB", (1, 1))
        self._draw = ImageDraw.Draw(self.image, "RGBA")
        self.matrix = (a, b, c - left, d, e, f - top)
        try:
            yield self
        finally:
            inside = self.image
            self.image, self._draw, self.matrix = whole, draw, matrix
        if cut is not None:
            mask = Image.new("L", inside.size, 0)
            ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in flat], fill=255)
            whole.paste(inside, cut, mask)

    def reflect(
        self,
        horizon: float,
        *,
        depth: float = 1.0,
        tint: RGB = (30, 50, 70),
        amount: float = 0.5,
        ripple: float = 0.012,
        rng: np.random.Generator,
    ) -> None:
        """Fill what lies below `horizon` with a rippled mirror image of what lies above it."""
        y = round(self.px((0, horizon))[1])
        height = self.image.height - y
        if y <= 0 or height <= 0:
            return
        source = self.image.crop((0, max(0, y - round(height / depth)), self.image.width, y)).transpose(
            Image.Transpose.FLIP_TOP_BOTTOM
        )
        pixels = np.asarray(source.resize((self.image.width, height), Image.Resampling.BILINEAR))
        rows = np.arange(height, dtype=np.float32) / self.unit
        wave = np.zeros(height, np.float32)
        for _ in range(3):
            wave += np.sin(rows * rng.uniform(40, 160) / (0.4 + rows) + rng.uniform(0, 6)) * rng.uniform(0.4, 1)
        shift = (wave * ripple * self.unit * (0.3 + rows * 1.6)).astype(np.int32)
        columns = np.clip(np.arange(self.image.width)[None, :] + shift[:, None], 0, self.image.width - 1)
        rippled = Image.fromarray(pixels[np.arange(height)[:, None], columns])
        self.image.paste(Image.blend(rippled, Image.new("RGB", rippled.size, tint), 1 - amount), (0, y))

    def soften(self, radius: float, box: tuple[float, float, float, float] | None = None) -> None:
        """Blur a box (the whole picture by default) by a radius in units."""
        pixels = (0, 0, *self.image.size) if box is None else self.box(*box)
        cut, _ = _cut(pixels, self.image.size, (1, 1))
        if cut is not None:
            self.image.paste(self.image.crop(cut).filter(ImageFilter.BoxBlur(radius * self.unit)), cut)

    def finished(self) -> Image.Image:
        """The picture at its own size."""
        if self.image.size == (self.size[0] * 2, self.size[1] * 2):
            return self.image.reduce(2)
        return self.image.resize(self.size, Image.Resampling.BOX)

    def _paste(self, colors: Image.Image, box: tuple[int, int, int, int], cover: Bytes) -> None:
        cut, source = _cut(box, self.image.size, (colors.height, colors.width))
        if cut is None:
            return
        size = (cut[2] - cut[0], cut[3] - cut[1])
        fill = colors.resize(size, Image.Resampling.BILINEAR, box=source)
        self.image.paste(fill, cut, Image.fromarray(cover).resize(size, Image.Resampling.BILINEAR, box=source))


def _cut(
    box: tuple[int, int, int, int], size: tuple[int, int], shape: tuple[int, ...]
) -> tuple[tuple[int, int, int, int] | None, tuple[float, float, float, float]]:
    """Cut a box to the bitmap; also the part of a `shape` (rows, columns) sized source that lands in it."""
    cut = (max(0, box[0]), max(0, box[1]), min(size[0], box[2]), min(size[1], box[3]))
    if cut[0] >= cut[2] or cut[1] >= cut[3]:
        return None, (0, 0, 1, 1)
    sx, sy = shape[1] / (box[2] - box[0]), shape[0] / (box[3] - box[1])
    return cut, ((cut[0] - box[0]) * sx, (cut[1] - box[1]) * sy, (cut[2] - box[0]) * sx, (cut[3] - box[1]) * sy)
