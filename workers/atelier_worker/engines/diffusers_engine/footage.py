"""What a model films so that a task gets exactly its size and its number of frames. Needs no library of models.

A model of Wan makes 4k + 1 frames, in multiples of 16 or 32 pixels. What a task asks lies in between, so the next
larger footage is filmed and cut: rows and columns evenly from both sides; frames from the end, or, where a last frame
was given, evenly from in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from atelier_worker.engine import EngineError, Reference, Task
from atelier_worker.engines.features import need_steps
from atelier_worker.engines.files import read_picture


def check(task: Task) -> None:
    """Refuse what no video can be, before anything is loaded or made.

    Raises:
        EngineError: names the field and what it has to be.
    """
    need_steps(task)
    if task.frames < 1 or task.fps < 1:
        raise EngineError(f"A video needs frames and a frame rate; got {task.frames} frames at {task.fps} per second.")
    for what, pixels in (("width", task.width), ("height", task.height)):
        if pixels < 2 or pixels % 2:
            raise EngineError(f"{what} must be an even number of pixels for a video, got {pixels}.")
    for kind in ("first_frame", "last_frame"):
        count = sum(reference.kind == kind and reference.strength > 0 for reference in task.references)
        if count > 1:
            raise EngineError(f"A video takes one reference of kind {kind}, got {count}.")


@dataclass(frozen=True, slots=True)
class Footage:
    """What is filmed (`width` × `height` pixels, `frames`), and what is kept: the task's size, and `kept` frames."""

    width: int
    height: int
    frames: int
    kept: tuple[int, ...]
    task_width: int
    task_height: int

    @classmethod
    def of(cls, task: Task, *, multiple: int, stride: int) -> Footage:
        """The smallest footage that holds a task.

        `multiple` is what the model's width and height are multiples of, `stride` how many frames one frame of its
        latents stands for: it makes `stride × k + 1` frames.
        """
        ends = any(reference.kind == "last_frame" and reference.strength > 0 for reference in task.references)
        frames = max(-(-(task.frames - 1) // stride), 1 if ends else 0) * stride + 1
        if ends and task.frames > 1:
            kept = tuple(number * (frames - 1) // (task.frames - 1) for number in range(task.frames))
        else:
            kept = tuple(range(task.frames))
        return cls(_up(task.width, multiple), _up(task.height, multiple), frames, kept, task.width, task.height)

    @property
    def left(self) -> int:
        """How many columns are cut from the left."""
        return (self.width - self.task_width) // 2

    @property
    def top(self) -> int:
        """How many rows are cut from the top."""
        return (self.height - self.task_height) // 2

    def cut(self, picture: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Of one filmed picture, rows first, the part that the task asked for."""
        return picture[self.top : self.top + self.task_height, self.left : self.left + self.task_width]

    def framed(self, reference: Reference) -> Image.Image:
        """A reference as the model gets it: what is kept of it is the reference cut to the task's shape.

        Raises:
            EngineError: the file is no picture that can be read.
        """
        picture = np.asarray(read_picture(reference, self.task_width, self.task_height))
        more = (self.width - self.task_width, self.height - self.task_height)
        margins = ((self.top, more[1] - self.top), (self.left, more[0] - self.left), (0, 0))
        return Image.fromarray(np.pad(picture, margins, mode="edge"))

    def said(self) -> str | None:
        """What is filmed beyond the task, in a line for the job's log; None when it is nothing."""
        exact = (self.width, self.height, self.frames) == (self.task_width, self.task_height, len(self.kept))
        if exact:
            return None
        return (
            f"filmed {self.frames} frames of {self.width} x {self.height}, kept {len(self.kept)} of "
            f"{self.task_width} x {self.task_height}: the model's sizes lie there"
        )


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
