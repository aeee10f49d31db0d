"""How a video moves: the camera, and each plate by its kind of motion. Times are in seconds, places in pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .plates import Plate
from .reading import Reading
from .rng import generator

Matrix = NDArray[np.float64]

# Plates are drawn this much larger than the frame, so that the camera's nearest view is still sharp.
OVERSCAN = 1.125
_NEAREST = 1.07
_MARGIN = 0.02
_ZOOM_PER_SECOND = 0.025
# The hand that holds the camera is never quite still: this part of the width, around in this many seconds.
_HAND, _HAND_SECONDS = 0.004, 2.1
_FLOWS = ("drifting", "drift", "floating", "float", "sailing", "flowing", "swimming", "flying", "racing")


@dataclass(frozen=True, slots=True)
class Camera:
    """A slow move through the depth of a picture. `size` is the frame, `seconds` the whole length."""

    size: tuple[int, int]
    seconds: float
    move: str
    heading: float

    @classmethod
    def for_prompt(cls, reading: Reading, size: tuple[int, int], seconds: float, key: str, seed: int) -> Camera:
        """The move that the prompt names (zoom, pan, close, aerial), or one of its own for every seed."""
        rng = generator("camera", key, seed)
        moves = ("in", "out", "pan", "rise")
        move = moves[int(rng.integers(len(moves)))]
        if reading.has("zoom", "close", "closeup", "push", "dolly"):
            move = "in"
        elif reading.has("pan", "panning", "panorama", "tracking", "pans"):
            move = "pan"
        elif reading.has("aerial", "rising", "crane", "drone"):
            move = "rise"
        return cls(size, seconds, move, 1.0 if rng.random() < 0.5 else -1.0)

    def view(self, t: float, depth: float) -> Matrix:
        """From a plate at `depth` (0 far .. 1 near) to the frame, at a time."""
        part = t / self.seconds if self.seconds > 0 else 0.0
        near = 0.35 + 0.9 * depth
        zoom, across, down = _NEAREST, 0.0, 0.0
        match self.move:
            case "in":
                zoom += _ZOOM_PER_SECOND * self.seconds * part * near
                across = self.heading * _MARGIN * (part - 0.5) * near
            case "out":
                zoom += _ZOOM_PER_SECOND * self.seconds * (1 - part) * near
                across = self.heading * _MARGIN * (0.5 - part) * near
            case "pan":
                across = self.heading * 2 * _MARGIN * (part - 0.5) * near
                zoom += 0.006 * math.sin(math.pi * part)
            case _:
                down = 2 * _MARGIN * (part - 0.5) * near
                zoom += 0.25 * _ZOOM_PER_SECOND * self.seconds * part * near
        angle = math.tau * t / _HAND_SECONDS
        across += _HAND * math.cos(angle)
        down += _HAND * math.sin(0.83 * angle)
        width, height = self.size
        scale = zoom / OVERSCAN
        return (
            shifted(width * (0.5 + across), height * (0.5 + down))
            @ scaled(scale, scale)
            @ shifted(-width * OVERSCAN / 2, -height * OVERSCAN / 2)
        )


@dataclass(frozen=True, slots=True)
class Mover:
    """Moves the plates of one video. `unit` is the short side of a plate in pixels; `heading` is -1 or 1."""

    key: str
    seed: int
    seconds: float
    unit: float
    flow: float
    heading: float
    time_lapse: bool

    @classmethod
    def for_prompt(cls, reading: Reading, scene: str, key: str, seed: int, seconds: float, unit: float) -> Mover:
        """What the prompt's words set in motion: things drift along when it says so."""
        flows = reading.has(*_FLOWS) or scene == "paperboats"
        heading = 1.0 if generator("flow", key, seed).random() < 0.5 else -1.0
        lapse = reading.has("lapse", "timelapse", "hyperlapse") or (reading.has("day") and reading.has("through"))
        return cls(key, seed, seconds, unit, 0.07 if flows else 0.0, heading, lapse)

    def moved(self, plate: Plate, t: float, *, ground: bool) -> Matrix:
        """Where a plate has moved to at a time."""
        phase = generator("phase", self.key, self.seed, plate.name).random(2) * math.tau
        left, top, right, bottom = plate.box
        travel = self.heading * self.flow * self.unit * (t - self.seconds / 2) * (0.5 + plate.depth)
        match plate.motion:
            case "drift":
                reach = _MARGIN * self.unit if ground else 0.03 * self.unit * self.seconds / 2
                part = 2 * t / max(self.seconds, 1e-6) - 1
                return shifted(travel if self.flow and not ground else self.heading * reach * part, 0)
            case "bob":
                x, y = plate.pivot or ((left + right) / 2, bottom)
                lift = 0.009 * self.unit * math.sin(math.tau * t / 1.9 + phase[0])
                return shifted(travel, lift) @ around(x, y, turned(0.05 * math.sin(math.tau * t / 2.6 + phase[1])))
            case "sway":
                gust = math.sin(math.tau * t / 2.3 + phase[0]) + 0.4 * math.sin(math.tau * t / 1.1 + phase[1])
                if plate.pivot is not None:
                    return around(*plate.pivot, turned(0.05 * gust))
                # What hangs swings below its top edge, what grows bends above its foot.
                hangs = top < 0.15 * plate.image.height and bottom < 0.8 * plate.image.height
                return around(0, top if hangs else bottom, sheared(0.035 * gust))
            case "turn":
                return around(*(plate.pivot or ((left + right) / 2, (top + bottom) / 2)), self._turn(t))
        return np.eye(3)

    def _turn(self, t: float) -> Matrix:
        if not self.time_lapse:
            return turned(self.heading * 0.9 * t)
        # A head that follows the sun: seen from one side, from the front, from the other side.
        yaw = 0.95 * self.sun(t)
        lean = shifted(math.sin(yaw) * 0.09 * self.unit, abs(math.sin(yaw)) * 0.02 * self.unit)
        return lean @ turned(0.3 * self.sun(t)) @ scaled(max(0.45, math.cos(yaw)), 1.0)

    def sun(self, t: float) -> float:
        """Where the sun is on its way from side to side: -1 to 1."""
        return self.heading * (2 * t / max(self.seconds, 1e-6) - 1)

    def glimmer(self, plate: Plate, t: float) -> float:
        """How bright a light is at a time, 0..1: lamps tremble, a beam sweeps."""
        phase = generator("phase", self.key, self.seed, plate.name).random(2) * math.tau
        if plate.name == "beam":
            return 0.15 + 0.85 * abs(math.sin(math.pi * t / 2.4 + phase[0]))
        return 0.8 + 0.12 * math.sin(7.3 * t + phase[0]) + 0.08 * math.sin(17.9 * t + phase[1])


def rippled(image: Image.Image, t: float, top: int, travelled: float) -> Image.Image:
    """Water at a time: its rows slide past each other, more the nearer they are. The alpha stays where it is.

    `top` is the row where the water begins, `travelled` how far the nearest water has run to the right.
    """
    pixels = np.asarray(image.convert("RGBA")).view(np.uint32)[:, :, 0]
    height, width = pixels.shape
    depth = np.clip((np.arange(height, dtype=np.float32) - top) / max(1, height - top), 0, 1)
    far = 1 / (0.12 + depth)
    wave = np.sin(26 * far - 3.1 * t) + 0.6 * np.sin(61 * far + 4.3 * t) + 0.4 * np.sin(9 * far - 1.7 * t)
    shift = np.round(wave * width * (0.0015 + 0.006 * depth) - travelled * (0.3 + 0.7 * depth)).astype(np.int32)
    # What runs in at the edge is the mirror image of what ran out.
    columns = (np.arange(width, dtype=np.int32)[None, :] + shift[:, None]) % (2 * width)
    columns = np.minimum(columns, 2 * width - 1 - columns)
    moved = Image.fromarray(pixels[np.arange(height)[:, None], columns].view(np.uint8).reshape(height, width, 4))
    moved.putalpha(image.getchannel("A"))
    return moved


def shifted(x: float, y: float) -> Matrix:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], np.float64)


def scaled(x: float, y: float) -> Matrix:
    return np.array([[x, 0, 0], [0, y, 0], [0, 0, 1]], np.float64)


def turned(angle: float) -> Matrix:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], np.float64)


def sheared(amount: float) -> Matrix:
    return np.array([[1, amount, 0], [0, 1, 0], [0, 0, 1]], np.float64)


def around(x: float, y: float, matrix: Matrix) -> Matrix:
    """A matrix applied around a point."""
    moved: Matrix = shifted(x, y) @ matrix @ shifted(-x, -y)
    return moved
