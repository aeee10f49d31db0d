"""Makes pictures with a model of SDXL: from text, from a picture, or within the mask of a picture.

Pictures are made in batches, each from its own seed; where memory does not allow it, in smaller ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from atelier_worker.engine import Context, EngineError, Task
from atelier_worker.engines import files
from atelier_worker.engines.diffusers_engine.guides import apply_style
from atelier_worker.engines.diffusers_engine.interrupts import before_each
from atelier_worker.engines.diffusers_engine.loras import apply_loras
from atelier_worker.engines.diffusers_engine.models import Model, Use, effective_dtype, offloaded
from atelier_worker.engines.diffusers_engine.plans import Plan
from atelier_worker.engines.diffusers_engine.prompts import encode
from atelier_worker.engines.diffusers_engine.schedulers import new_scheduler
from atelier_worker.engines.diffusers_engine.settings import ModelSettings
from atelier_worker.engines.residency import (
    Attempt,
    PreviewClock,
    check_picture,
    image_working_bytes,
    show_previews,
    survive_out_of_memory,
)

ENGINE = "diffusers"


@dataclass(frozen=True, slots=True)
class Way:
    """How much memory a task may take: pictures in one pass, whether the decoder works in tiles, weights elsewhere."""

    name: str
    batch: int
    tiling: bool
    offload: bool


def run(task: Task, context: Context, settings: ModelSettings, device: str, use: Use) -> None:
    """Make the pictures of a task.

    Raises:
        Cancelled: the model is then as it was before.
        EngineError: the model cannot do what the task asks, or memory ran out whatever was tried.
    """
    plan = Plan.of(task, settings)
    if task.negative_prompt and plan.guidance <= 1:
        context.warn(f"With a guidance of {plan.guidance:g} the negative prompt has no effect.")
    left = list(task.indexes)
    clock = PreviewClock()
    dtype = effective_dtype(settings.dtype, device)

    def made(way: Way) -> None:
        most = min(len(left), way.batch)
        needed = image_working_bytes(task.width, task.height, batch=most, dtype=dtype, tiled=way.tiling)
        with use(needed) as model, offloaded(model, way.offload):
            while left:
                batch = _next(left, way.batch)
                _deliver(_pictures(model, plan, context, batch, way, clock), plan, context, batch)
                del left[: len(batch)]

    attempts = [Attempt(way.name, partial(made, way)) for way in ways(settings, len(left), device)]
    survive_out_of_memory(context, attempts)


def _next(left: Sequence[int], most: int) -> list[int]:
    """The outputs of the next pass. Which ones share it depends on their indexes alone.

    So what is made again after a failure is made in the same company as at first: a picture's last bits depend on it.
    """
    return [index for index in left if index // most == left[0] // most]


def ways(settings: ModelSettings, count: int, device: str) -> list[Way]:
    """How `count` pictures are made, and what is tried after that where memory runs out, each with less than before."""
    batch, tiling = settings.max_batch, settings.tiling
    found = [Way("the whole batch at once", batch, tiling, False)]
    for fallback in settings.fallbacks:
        if fallback == "smaller_batch" and min(count, batch) > 1:
            if min(count, batch) > 3:
                found.append(Way("two pictures at once", 2, tiling, False))
            batch = 1
            found.append(Way("one picture at a time", batch, tiling, False))
        elif fallback == "tiling" and not tiling:
            tiling = True
            found.append(Way("a decoder that works in tiles", batch, tiling, False))
        elif fallback == "offload" and not settings.offload and device != "cpu":
            found.append(Way("weights that wait in the main memory", 1, tiling, True))
    return found


def _pictures(
    model: Model, plan: Plan, context: Context, batch: Sequence[int], way: Way, clock: PreviewClock
) -> np.ndarray[Any, Any]:
    """The pictures of a batch: count × height × width × RGB, floats from 0 to 1."""
    task = plan.task
    for index in batch:
        context.progress(0, plan.steps, asset_index=index, phase="reading the prompt")
    apply_loras(model, task.loras, context.warn)
    apply_style(model, None if plan.style is None else plan.style.strength)
    pipeline = plan.pipeline(model, new_scheduler(plan.scheduler, model.pipeline.scheduler))
    vae, kept = pipeline.vae, pipeline.vae.dtype
    # One by one: a decoder takes more memory than all the steps, and its bits then do not depend on the batch.
    vae.enable_slicing()
    if way.tiling:
        vae.enable_tiling()
    else:
        vae.disable_tiling()

    def on_step(running: Any, step: int, _: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        for index in batch:
            context.progress(step + 1, running.num_timesteps, asset_index=index, phase="denoising")
        show_previews(context, clock, tensors["latents"], batch, "sdxl")
        return {}

    interruptible = [*pipeline.unet.down_blocks, pipeline.unet.mid_block, *pipeline.unet.up_blocks, vae.decoder]
    try:
        with before_each(interruptible, context.check_cancelled):
            prompts = encode(pipeline, task.prompt, task.negative_prompt, pipeline._execution_device)
            made = pipeline(
                **prompts.as_arguments(),
                **plan.arguments(len(batch)),
                # On the CPU and one for each: the noise is the same on every device and in every batch.
                generator=[torch.Generator("cpu").manual_seed((task.seed + index) % 2**64) for index in batch],
                num_images_per_prompt=len(batch),
                output_type="np",
                callback_on_step_end=on_step,
                callback_on_step_end_tensor_inputs=["latents"],
            )
    finally:
        model.pipeline.maybe_free_model_hooks()
        # The pipelines decode in float32 where half precision overflows; one that was interrupted leaves it so.
        vae.to(kept)
    return np.asarray(made.images)


def _deliver(made: np.ndarray[Any, Any], plan: Plan, context: Context, batch: Sequence[int]) -> None:
    for index, values in zip(batch, made, strict=True):
        try:
            check_picture(values, may_be_plain=plan.init is not None)
        except EngineError as error:
            context.fail(index, str(error), retryable=error.retryable)
            continue
        picture = plan.finished(Image.fromarray((values * 255).round().astype(np.uint8)))
        folder = context.workdir / f"asset-{index}"
        folder.mkdir()
        made_with = files.made_with(plan.task, plan.task.seed + index, ENGINE, plan.said(batch))
        path, renditions = files.save_picture(picture, folder, made_with)
        context.check_cancelled()
        context.deliver(index, path, renditions=renditions)
