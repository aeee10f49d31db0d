"""From a prompt and a seed to a video: the scene taken apart into plates that move, frame by frame into an MP4."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from atelier_worker.engine import Context, EngineError, Task
from atelier_worker.engines import files

from . import image
from .falling import Falling, day_sky, daylight, flash, lit
from .finish import Finish
from .motion import OVERSCAN, Camera, Matrix, Mover, rippled, scaled
from .pace import pause
from .plates import Plate, falls, take_apart
from .references import Guides
from .scenes.base import Layer, Scene

# The clip shows every third frame of the first three seconds.
_CLIP_EVERY = 3
_CLIP_FRAMES = 24
# A first frame turns into the drawn scene over this part of the video, at most this many seconds.
_DISSOLVE_PART, _DISSOLVE_SECONDS = 0.5, 1.6


def run(task: Task, context: Context, step_delay: float) -> None:
    """Make the videos of a task: frames one by one, a share of them in each of the task's steps."""
    if task.frames < 1 or task.fps < 1:
        raise EngineError(f"A video needs frames and a frame rate; got {task.frames} frames at {task.fps} per second.")
    for index in task.indexes:
        folder = context.workdir / f"asset-{index}"
        folder.mkdir()
        _make(task, context, step_delay, index, folder)


def _make(task: Task, context: Context, step_delay: float, index: int, folder: Path) -> None:
    seed, path = task.seed + index, folder / "video.mp4"
    # Before the first plate, so that whoever watches sees at once that it has begun.
    context.progress(0, task.steps, asset_index=index, phase="sketching")
    clip: list[Image.Image] = []
    poster: Image.Image | None = None
    step = 0
    made = files.made_with(task, seed, "sketch")
    with files.Mp4Writer(path, (task.width, task.height), task.fps, made, encoder="sketch") as mp4:
        for number, frame in enumerate(Film(task, seed, context.check_cancelled).frames()):
            context.check_cancelled()
            mp4.add(frame)
            if number % _CLIP_EVERY == 0 and len(clip) < _CLIP_FRAMES:
                clip.append(files.clip_frame(frame))
            if number == task.frames // 3:
                poster = frame
            now = (number + 1) * task.steps // task.frames
            if now > step:
                step = now
                context.progress(step, task.steps, asset_index=index, phase="filming")
                context.preview(index, image.preview_bytes(_small(frame)), "image/webp")
                pause(step_delay, context)
    if poster is None:
        raise EngineError("The video ended before its poster was filmed.", retryable=True)
    renditions = files.video_renditions(poster, clip, round(1000 * _CLIP_EVERY / task.fps), folder)
    context.check_cancelled()
    context.deliver(index, path, renditions=renditions)


def _small(frame: Image.Image) -> Image.Image:
    small = frame.copy()
    small.thumbnail((image.PREVIEW_SIDE, image.PREVIEW_SIDE), Image.Resampling.BILINEAR, reducing_gap=1.5)
    return small


class Film:
    """One video. Frames are RGB, `width` × `height`; the same task and seed give the same frames anywhere."""

    def __init__(self, task: Task, seed: int, between: Callable[[], None] = lambda: None) -> None:
        """Prepare the scene; `between` is called before each plate, and may raise to end the work."""
        self._task = task
        self._size = (task.width, task.height)
        self._seconds = task.frames / task.fps
        scene = image.scene_of(task, seed)
        self._scene = scene
        key, reading = scene.brief.key, scene.reading
        self._plate_size = (round(task.width * OVERSCAN), round(task.height * OVERSCAN))
        unit = min(self._plate_size)
        self._camera = Camera.for_prompt(reading, self._size, self._seconds, key, seed)
        self._mover = Mover.for_prompt(reading, scene.name, key, seed, self._seconds, unit)
        self._plates = take_apart(scene, self._plate_size, between)
        wet = any(plate.motion == "water" for plate in self._plates)
        self._falling = Falling.over(scene, self._size, wet=wet) if falls(scene) else None
        self._finish = Finish(scene)
        self._guides = Guides.load([r for r in task.references if r.kind != "first_frame"], task.width, task.height)
        self._first = next(
            (files.read_picture(r, *self._size) for r in task.references if r.kind == "first_frame" and r.strength > 0),
            None,
        )

    def frames(self) -> Iterator[Image.Image]:
        """The frames in order, each drawn when it is asked for."""
        for number in range(self._task.frames):
            yield self._frame(number / self._task.fps)

    def _frame(self, t: float) -> Image.Image:
        frame = Image.new("RGB", self._size, self._scene.look.haze)
        part = t / self._seconds
        ground = self._plates[0]
        if self._mover.time_lapse:
            ground = _sky_of_day(ground, self._scene, part, self._mover.sun(t)) or ground
        for plate in (ground, *self._plates[1:]):
            self._lay(frame, plate, t, ground=plate is ground)
            if plate.motion == "water" and self._falling is not None:
                top = float((self._camera.view(t, plate.depth) @ (0, plate.box[1], 1))[1])
                self._falling.draw_rings(frame, t, max(0.0, top))
        if self._falling is not None:
            self._falling.draw(frame, t)
        if self._mover.time_lapse:
            frame = lit(frame, daylight(part))
        if (bright := flash(self._scene, t)) > 0.02:
            frame = lit(frame, (1 + 0.8 * bright,) * 3)
        return self._started(self._guides.apply(self._finish.apply(frame)), t)

    def _lay(self, frame: Image.Image, plate: Plate, t: float, *, ground: bool) -> None:
        """Put a plate, moved to where it is at a time, over a frame."""
        picture = plate.image
        if plate.motion == "water":
            travelled = self._mover.heading * self._mover.flow * self._mover.unit * (t - self._seconds / 2)
            picture = rippled(picture, t, plate.box[1], travelled)
        elif plate.motion == "flicker" and not ground:
            light = self._mover.glimmer(plate, t)
            picture = picture.copy()
            picture.putalpha(plate.image.getchannel("A").point([round(i * light) for i in range(256)]))
        matrix = self._camera.view(t, plate.depth) @ self._mover.moved(plate, t, ground=ground)
        box = _seen(matrix, plate.box, self._size)
        if box is not None:
            part = _taken(picture, matrix, box)
            frame.paste(part, box[:2], None if part.mode == "RGB" else part)

    def _started(self, frame: Image.Image, t: float) -> Image.Image:
        """A frame of a video that begins as the client's first frame, which moves with the camera."""
        length = min(_DISSOLVE_SECONDS, _DISSOLVE_PART * self._seconds)
        if self._first is None or t >= length:
            return frame
        if t == 0:
            return self._first
        matrix = self._camera.view(t, 0.5) @ np.linalg.inv(self._camera.view(0.0, 0.5))
        # The camera may leave a margin open that the given picture does not fill: it only comes nearer.
        matrix = matrix if matrix[0, 0] > 1 else scaled(1, 1)
        shown = self._first.transform(
            self._size, Image.Transform.AFFINE, _coefficients(matrix), Image.Resampling.BILINEAR
        )
        eased = (t / length) ** 2 * (3 - 2 * t / length)
        return Image.blend(shown, frame, eased)


def _sky_of_day(plate: Plate, scene: Scene, part: float, sun: float) -> Plate | None:
    """The sky at a part of the day, the sun on its arc; None when the scene has no sun of its own."""
    sky = scene.layers()[0]
    if not isinstance(getattr(scene, "sun", None), tuple) or sky.motion != "drift":
        return None
    side = -sun if scene.mirrored else sun
    arc = (scene.w * (0.5 + 0.46 * side), scene.h * (0.16 + 0.38 * sun * sun))
    return replace(plate, image=_drawn_with(scene, sky, plate.image.size, arc, part))


def _drawn_with(
    scene: Scene, layer: Layer, size: tuple[int, int], sun: tuple[float, float], part: float
) -> Image.Image:
    """A layer drawn with the sun elsewhere; the scene is afterwards as it was."""
    before = vars(scene)["sun"], scene.look
    # The sky is soft: half the size is enough for every frame's own.
    canvas = image.canvas_for(scene, size[0] // 2, size[1] // 2)
    try:
        vars(scene)["sun"] = sun
        scene.look = replace(scene.look, sky=day_sky(scene.look.sky, part))
        layer.draw(canvas)
    finally:
        vars(scene)["sun"], scene.look = before
    return canvas.image.resize(size, Image.Resampling.BILINEAR)


def _seen(matrix: Matrix, box: tuple[int, int, int, int], size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """The part of a frame that a box of a plate covers; None when it is outside."""
    corners = np.array([[box[0], box[2], box[0], box[2]], [box[1], box[1], box[3], box[3]], [1, 1, 1, 1]], np.float64)
    x, y, _ = matrix @ corners
    left, top = max(0, int(np.floor(x.min())) - 1), max(0, int(np.floor(y.min())) - 1)
    right, bottom = min(size[0], int(np.ceil(x.max())) + 1), min(size[1], int(np.ceil(y.max())) + 1)
    return (left, top, right, bottom) if left < right and top < bottom else None


def _taken(picture: Image.Image, matrix: Matrix, box: tuple[int, int, int, int]) -> Image.Image:
    """What lands in a box of the frame."""
    back = np.linalg.inv(matrix)
    size = (box[2] - box[0], box[3] - box[1])
    left, top, _ = back @ (box[0], box[1], 1)
    right, bottom, _ = back @ (box[2], box[3], 1)
    straight = abs(back[0, 1]) + abs(back[1, 0]) < 1e-9
    if straight and left >= 0 and top >= 0 and right <= picture.width and bottom <= picture.height:
        return picture.resize(size, Image.Resampling.BILINEAR, box=(left, top, right, bottom))
    offset = matrix.copy()
    offset[0, 2] -= box[0]
    offset[1, 2] -= box[1]
    return picture.transform(size, Image.Transform.AFFINE, _coefficients(offset), Image.Resampling.BILINEAR)


def _coefficients(matrix: Matrix) -> tuple[float, ...]:
    back = np.linalg.inv(matrix)
    return tuple(float(v) for v in back[:2].reshape(6))
