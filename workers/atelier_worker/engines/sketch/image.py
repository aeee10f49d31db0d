"""From a prompt and a seed to a picture: read, compose, paint layer by layer, then finish in the medium."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from PIL import Image

from atelier_worker.engine import PREVIEW_LIMIT_BYTES, Reference

from .canvas import Canvas
from .finish import Finish
from .noise import clouds
from .reading import read
from .references import Guides
from .scenes import scene_for
from .scenes.base import Brief, Layer, Scene

PREVIEW_SIDE = 256


class Order(Protocol):
    """The part of a `Task` that decides a picture. `width` and `height` are pixels."""

    @property
    def prompt(self) -> str: ...
    @property
    def negative_prompt(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def references(self) -> Sequence[Reference]: ...


OnStep = Callable[[int, Callable[[], Image.Image]], None]


def scene_of(order: Order, seed: int) -> Scene:
    """The composed scene of an order; nothing is drawn yet."""
    reading = read(order.prompt, order.negative_prompt)
    short = min(order.width, order.height)
    key = f"{order.prompt}\x1e{order.negative_prompt}"
    return scene_for(Brief(reading, key, seed), order.width / short, order.height / short)


def render(order: Order, seed: int, on_step: OnStep | None = None) -> Image.Image:
    """Paint the picture of an order (RGB, `width` × `height` pixels).

    `on_step(step, look)` is called after each of `steps` steps, 1 first; `look()` gives the picture as it stands, at
    most 256 pixels wide and high. What `on_step` raises ends the work.

    Raises:
        EngineError: a reference cannot be read.
    """
    guides = Guides.load(order.references, order.width, order.height)
    scene = scene_of(order, seed)
    finish = Finish(scene)
    painting = _Painting(scene, order.width, order.height, watched=on_step is not None)
    # The last step is the finish; the layers share the steps before it evenly.
    for step in range(1, order.steps):
        painting.go_to(step / (order.steps - 1))
        if on_step is not None:
            on_step(step, lambda: guides.apply(finish.apply(painting.small())))
    painting.go_to(1.0)
    picture = guides.apply(finish.apply(painting.canvas.finished()))
    if on_step is not None:
        on_step(order.steps, lambda: _shrunk(picture))
    return picture


class _Painting:
    """A canvas on which a scene is painted layer by layer, so that one can look at it in between.

    A layer that is only partly due is painted whole, and shown partly: washed in, patch by patch.
    """

    def __init__(self, scene: Scene, width: int, height: int, *, watched: bool) -> None:
        self.canvas = canvas_for(scene, width, height)
        self._layers = scene.layers()
        self._painted, self._part, self._watched = 0, 1.0, watched
        self._before: Image.Image | None = None
        self._order = clouds(scene.rand("brush"), 48, 48, cells=4)

    def go_to(self, share: float) -> None:
        """Paint until a share (0..1) of the layers is done."""
        due = round(share * len(self._layers), 6)
        while self._painted < due:
            if self._watched:
                self._before = _shrunk(self.canvas.image)
            paint(self.canvas, self._layers[self._painted : self._painted + 1])
            self._painted += 1
        self._part = 1 - (self._painted - due)

    def small(self) -> Image.Image:
        """The picture so far, as small as a preview."""
        now = _shrunk(self.canvas.image)
        if self._part >= 1 or self._before is None:
            return now
        washed = np.clip((self._part * 1.25 - self._order) / 0.25, 0, 1) * 255
        mask = Image.fromarray(washed.astype(np.uint8)).resize(now.size, Image.Resampling.BILINEAR)
        return Image.composite(now, self._before, mask)


def canvas_for(scene: Scene, width: int, height: int) -> Canvas:
    """An empty canvas of `width` × `height` pixels as the scene's camera sees it."""
    return Canvas(
        width, height, background=scene.look.haze, mirrored=scene.mirrored, zoom=scene.zoom, focus=scene.focus
    )


def paint(canvas: Canvas, layers: Sequence[Layer]) -> None:
    """Draw layers one over the other."""
    for layer in layers:
        layer.draw(canvas)


def preview_bytes(picture: Image.Image) -> bytes:
    """A WebP of a small picture, within what a preview may weigh."""
    for quality in (75, 50, 25):
        out = io.BytesIO()
        picture.save(out, "WEBP", quality=quality, method=2)
        if out.tell() <= PREVIEW_LIMIT_BYTES:
            break
    return out.getvalue()


def _shrunk(picture: Image.Image) -> Image.Image:
    scale = PREVIEW_SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=1.5)
