"""What every scene is: a composition decided from the seed, drawn in layers from far to near."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..canvas import RGB, Canvas
from ..palette import Look, look_for
from ..reading import Reading
from ..rng import generator


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer. `depth` is 0 (far) to 1 (near); `motion` is how a video moves it.

    Motions: `still` (only the camera moves), `drift` (sideways), `bob` (on water), `water` (ripples), `turn` (around
    `pivot`, in units), `sway` (in wind), `flicker`.
    """

    name: str
    draw: Callable[[Canvas], None]
    depth: float = 0.5
    motion: str = "still"
    pivot: tuple[float, float] = (0.5, 0.5)


@dataclass(frozen=True, slots=True)
class Brief:
    """What a scene is made from. `key` is the prompt text that, with the seed, decides every random number."""

    reading: Reading
    key: str
    seed: int


class Scene:
    """A picture of a size. Subclasses decide their composition in `compose` and list their layers."""

    name: ClassVar[str]
    closest: float = 0.2  # how much nearer than its widest view the camera may come, as a share

    def __init__(self, brief: Brief, w: float, h: float) -> None:
        self.brief, self.reading, self.w, self.h = brief, brief.reading, w, h
        rng = self.rand("compose")
        self.mirrored = bool(rng.random() < 0.5)
        self.look: Look = look_for(self.hour(), brief.reading.weathers, brief.reading.hues, self.rand("look"))
        self.compose(rng)
        camera = self.rand("camera")
        self.zoom = 1 + self.closest * float(camera.random()) ** 0.7
        self.focus = float(camera.random()), float(camera.random())

    def hour(self) -> str:
        return self.brief.reading.hour

    def rand(self, *names: str | int) -> np.random.Generator:
        """The generator of one part of the picture; asking again starts it again."""
        return generator(self.brief.key, self.brief.seed, type(self).__name__, *names)

    def weather(self, name: str) -> bool:
        return name in self.reading.weathers

    def accent(self, default: RGB) -> RGB:
        """The subject's own colour: the one that the prompt gives it, or the default."""
        hue = self.reading.subject_hue
        return hue.rgb(0.78) if hue is not None else default

    def compose(self, rng: np.random.Generator) -> None:
        """Decide where things stand."""
        raise NotImplementedError

    def layers(self) -> list[Layer]:
        """The layers from far to near."""
        raise NotImplementedError
