"""A scene taken apart for motion: one transparent plate for each group of layers that move together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .canvas import RGB, Canvas, Point
from .image import canvas_for
from .scenes.base import Layer, Scene

# What falls is drawn for every frame anew; these layers would stand still.
FALLING = ("weather", "rain", "drops")
_SAME_DEPTH = 0.15
_DEFAULT_PIVOT = (0.5, 0.5)


@dataclass(frozen=True, slots=True)
class Plate:
    """Layers that move as one. `image` is RGBA (RGB when it is the ground that all stand on).

    For water, `image` is the picture as seen from above it, reflections included, and its alpha says where water is.
    `box` is where something is drawn, `pivot` what it turns around (None: nothing in particular); both in pixels of the
    plate.
    """

    name: str
    motion: str
    depth: float
    image: Image.Image
    box: tuple[int, int, int, int]
    pivot: Point | None


def take_apart(scene: Scene, size: tuple[int, int], between: Callable[[], None] = lambda: None) -> list[Plate]:
    """The plates of a scene from far to near, each `size` (width, height) in pixels.

    `between` is called before each plate: together they take longer than a step, and it may raise to end the work.
    """
    picture = canvas_for(scene, *size)
    plates: list[Plate] = []
    for group in _groups([layer for layer in scene.layers() if layer.name not in FALLING]):
        between()
        for layer in group:
            layer.draw(picture)
        plate = _plate(group, picture, scene, ground=not plates)
        if plate is not None:
            plates.append(plate)
    return plates


def falls(scene: Scene) -> bool:
    """Whether the scene draws anything that falls: a street after rain has rain in its words only."""
    dark = Canvas(64, 64)
    for layer in scene.layers():
        if layer.name in FALLING:
            layer.draw(dark)
    return dark.image.getbbox() is not None


def _groups(layers: Sequence[Layer]) -> list[list[Layer]]:
    """Neighbours that stand still at about the same depth are drawn together: every plate costs time in every frame."""
    groups: list[list[Layer]] = []
    for layer in layers:
        last = groups[-1] if groups else None
        together = (
            last is not None
            and layer.motion == last[-1].motion == "still"
            and abs(layer.depth - last[0].depth) <= _SAME_DEPTH
        )
        if together and last is not None:
            last.append(layer)
        else:
            groups.append([layer])
    return groups


def _plate(group: Sequence[Layer], picture: Canvas, scene: Scene, *, ground: bool) -> Plate | None:
    first = group[0]
    size = picture.size
    x, y = (place * size[0] / picture.image.width for place in picture.px(first.pivot))
    pivot = (x, y) if first.pivot != _DEFAULT_PIVOT else None
    if ground:
        return Plate(first.name, first.motion, first.depth, picture.finished(), (0, 0, *size), pivot)
    image = _matte(group, scene, size)
    box = image.getchannel("A").point([255 if i > 4 else 0 for i in range(256)]).getbbox()
    if box is None:
        return None
    if first.motion == "water":
        cover = image.getchannel("A").point([min(255, i * 4) for i in range(256)])
        image = picture.finished()
        image.putalpha(cover)
    return Plate(first.name, first.motion, first.depth, image, box, pivot)


def _matte(group: Sequence[Layer], scene: Scene, size: tuple[int, int]) -> Image.Image:
    """The layers alone, with their transparency: what shows of black and of white behind them tells it."""
    on_black, on_white = (_drawn(group, scene, size, ground) for ground in ((0, 0, 0), (255, 255, 255)))
    through = np.asarray(on_white, np.int16).sum(axis=2) - np.asarray(on_black, np.int16).sum(axis=2)
    alpha = np.clip(255 - through // 3, 0, 255).astype(np.uint8)
    share = (np.maximum(alpha, 1).astype(np.float32) / 255)[:, :, None]
    color = np.clip(np.asarray(on_black, np.float32) / share, 0, 255).astype(np.uint8)
    return Image.fromarray(np.dstack([color, alpha]))


def _drawn(group: Sequence[Layer], scene: Scene, size: tuple[int, int], ground: RGB) -> Image.Image:
    canvas = canvas_for(scene, *size)
    canvas.image.paste(ground, (0, 0, *canvas.image.size))
    for layer in group:
        layer.draw(canvas)
    return canvas.finished()
