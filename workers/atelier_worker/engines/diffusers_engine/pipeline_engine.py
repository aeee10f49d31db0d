"""A base for engines that run one pipeline of diffusers which their author loads: any class of them, images or video.

What may be asked is read from the arguments that the pipeline takes; the rest is refused by name. The pipeline stays in
memory from the first task on. Admission by memory, LoRAs and schedulers are of `DiffusersEngine`, not of this.
"""

from __future__ import annotations

import inspect
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from atelier_worker.engine import Context, EngineError, Task
from atelier_worker.engines import files
from atelier_worker.engines.features import OF_TEXTS, Row, need_steps, refuse, row
from atelier_worker.engines.residency import (
    Attempt,
    PreviewClock,
    check_picture,
    show_previews,
    survive_out_of_memory,
)

from . import video
from .wan_features import name_of

_ARGUMENTS = {
    "init": "image",
    "mask": "mask_image",
    "first_frame": "image",
    "last_frame": "last_image",
    "first_and_last_frame": "last_image",
    "negative_prompt": "negative_prompt",
    "guidance": "guidance_scale",
}
"""A feature → the argument that a pipeline takes it by."""


class PipelineEngine(ABC):
    """One pipeline as an engine. A subclass names itself and its `worker_types`, and says how the pipeline is loaded.

    Videos by a pipeline of Wan are made as `DiffusersEngine` makes them; of others, each output is one call. `previews`
    names a family of latents that previews are known for (`sdxl`); without it there are none.
    """

    name: ClassVar[str]
    concurrency: ClassVar[int] = 1
    previews: ClassVar[str] = ""

    def __init__(self, options: Mapping[str, object]) -> None:
        """Keep the options for `load`."""
        self.options = options
        self._lock = threading.Lock()
        self._pipeline: Any = None

    @abstractmethod
    def load(self) -> Any:
        """Load the pipeline and put it on its device. Called once, by the first task."""

    def arguments(self, task: Task) -> Mapping[str, Any]:
        """What else the pipeline is called with for a task; it goes before what the task says."""
        return {}

    def run(self, task: Task, context: Context) -> None:
        """Run one stage to its end, one output after the other; see `Engine.run`."""
        with self._lock:
            if self._pipeline is None:
                context.progress(0, max(1, task.steps), phase="loading the model")
                self._pipeline = self.load()
                self._pipeline.set_progress_bar_config(disable=True)
            if name_of(self._pipeline) is not None:
                video.run(self._pipeline, task, context)
                return
            parameters = inspect.signature(self._pipeline.__call__).parameters
            refuse(features_of(type(self._pipeline).__name__, parameters), task)
            need_steps(task)
            clock = PreviewClock()
            for index in task.indexes:
                path = self._made(task, context, index, parameters, clock)
                context.check_cancelled()
                context.deliver(index, path)

    def _made(
        self, task: Task, context: Context, index: int, parameters: Mapping[str, object], clock: PreviewClock
    ) -> Path:
        context.progress(0, task.steps, asset_index=index, phase="making")
        given = _given(task, index) | dict(self.arguments(task))

        def on_step(_: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            context.progress(step + 1, task.steps, asset_index=index, phase="making")
            if self.previews:
                show_previews(context, clock, tensors["latents"], [index], self.previews)
            return {}

        if "callback_on_step_end" in parameters:
            given |= {"callback_on_step_end": on_step, "callback_on_step_end_tensor_inputs": ["latents"]}
        taken = {name: value for name, value in given.items() if name in parameters}
        try:
            made = survive_out_of_memory(context, [Attempt("the whole of it at once", lambda: self._pipeline(**taken))])
        except BaseException:
            self._pipeline.maybe_free_model_hooks()
            raise
        return _saved(made, task, context, index, self.name)


def features_of(pipeline: str, parameters: Mapping[str, object]) -> Row:
    """What a pipeline can do, by the arguments of its call; `pipeline` is what its refusals call it."""
    can = {feature for feature, argument in _ARGUMENTS.items() if argument in parameters}
    films = "num_frames" in parameters
    # Pipelines that change a picture declare it optional, and fail without; they have a strength.
    needs_picture = getattr(parameters.get("image"), "default", None) is inspect.Parameter.empty or (
        "image" in parameters and "strength" in parameters
    )
    if films:
        can -= {"init", "mask", "last_frame"}
        can |= set() if needs_picture else {"text_to_video"}
    else:
        can -= {"first_frame", "last_frame", "first_and_last_frame"}
        can |= set() if needs_picture else {"text_to_image"}
    words = dict.fromkeys(OF_TEXTS, f"The pipeline {pipeline} writes no text: choose another model.")
    return row(can, f"The pipeline {pipeline} cannot do this; see what it takes, or choose another model.", words)


def _given(task: Task, index: int) -> dict[str, Any]:
    import torch

    given: dict[str, Any] = {
        "prompt": task.prompt,
        "width": task.width,
        "height": task.height,
        "num_inference_steps": task.steps,
        # On the CPU, so that the same seed gives the same noise on every device.
        "generator": torch.Generator("cpu").manual_seed(task.seed + index),
        "output_type": "np",
    }
    if task.negative_prompt:
        given["negative_prompt"] = task.negative_prompt
    if task.guidance is not None:
        given["guidance_scale"] = task.guidance
    if task.format == "video":
        given["num_frames"] = task.frames
    for reference in task.references:
        if reference.strength > 0:
            given[_ARGUMENTS[reference.kind]] = files.read_picture(reference, task.width, task.height)
            if reference.kind == "init":
                given["strength"] = 1 - reference.strength
    return given


def _saved(made: Any, task: Task, context: Context, index: int, engine: str) -> Path:
    """Write what a pipeline returned: floats from 0 to 1, one picture or the frames of one video."""
    pictures = np.asarray(made.frames[0] if task.format == "video" else made.images[:1])
    check_picture(pictures, may_be_plain=bool(task.references))
    wanted = (task.frames if task.format == "video" else 1, task.height, task.width)
    if pictures.shape[:3] != wanted:
        raise EngineError(f"The pipeline made {_words(pictures.shape)} where {_words(wanted)} was asked for.")
    said = files.made_with(task, task.seed + index, engine)
    folder = context.workdir / f"asset-{index}"
    folder.mkdir()
    images = (Image.fromarray((picture * 255).round().clip(0, 255).astype(np.uint8)) for picture in pictures)
    if task.format != "video":
        path = folder / "image.png"
        files.save_png(next(images), path, said)
        return path
    path = folder / "video.mp4"
    with files.Mp4Writer(path, (task.width, task.height), task.fps, said, encoder=engine) as mp4:
        for image in images:
            context.check_cancelled()
            mp4.add(image)
    return path


def _words(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} x {shape[2]} x {shape[1]} (pictures, width, height)"
