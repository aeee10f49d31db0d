"""Makes videos with a loaded pipeline of Wan: from text, from a first frame, or between a first and a last frame.

Videos are made one by one, each from its own seed. Denoising, decoding and encoding are told apart, so that each is
seen, ends when the job is cancelled, and falls back by itself when memory runs out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from atelier_worker.engine import Context, EngineError, Task
from atelier_worker.engines import files
from atelier_worker.engines.features import refuse
from atelier_worker.engines.residency import (
    Attempt,
    PreviewClock,
    check_finite,
    check_picture,
    show_previews,
    survive_out_of_memory,
    video_working_bytes,
)

from .footage import Footage, check
from .interrupts import before_each
from .loras import apply_loras, check_loras
from .models import Use, effective_dtype, offloaded
from .settings import ModelSettings
from .wan_features import FEATURES, TEXT_OR_FIRST, name_of
from .wan_schedulers import scheduler_for

ENGINE = "diffusers"
PROMPT_TOKENS = 512
_GUIDANCE = 5.0


@dataclass(frozen=True, slots=True)
class VideoSettings:
    """What a model's configuration says of its videos; None: what the weights say. `tiling` is of the decoder."""

    guidance: float | None = None
    scheduler: str = ""
    flow_shift: float | None = None
    tiling: bool = False


_NOTHING_SET = VideoSettings()


@dataclass(frozen=True, slots=True)
class Reel:
    """What outlives an attempt that ran out of memory: the outputs that are left, and latents that are denoised."""

    left: list[int]
    latents: dict[int, Any] = field(default_factory=dict)


def run(pipeline: Any, task: Task, context: Context, settings: VideoSettings = _NOTHING_SET) -> None:
    """Make the videos of a task with a pipeline that no other task uses meanwhile. Without memory it decodes in tiles.

    Raises:
        Cancelled: the pipeline is then as it was before.
        EngineError: the weights cannot do what the task asks, or what they made is no video.
    """
    reel = Reel(list(task.indexes))
    tiled = replace(settings, tiling=True)
    attempts = [
        Attempt("whole frames decoded", lambda: film(pipeline, task, context, settings, reel)),
        Attempt("frames decoded in tiles", lambda: film(pipeline, task, context, tiled, reel)),
    ]
    survive_out_of_memory(context, attempts)


def run_model(task: Task, context: Context, settings: ModelSettings, device: str, use: Use) -> None:
    """Make the videos of a task with a model of the engine, each way of doing it as far as its memory is admitted.

    Raises:
        Cancelled: the model is then as it was before.
        EngineError: the model cannot do what the task asks, or memory ran out whatever was tried.
    """
    check_loras(task.loras, settings)
    reel = Reel(list(task.indexes))
    dtype = effective_dtype(settings.dtype, device)

    def made(*, tiling: bool, offload: bool) -> None:
        said = VideoSettings(settings.guidance, settings.scheduler, settings.flow_shift, tiling)
        needed = video_working_bytes(task.width, task.height, task.frames, dtype=dtype, tiled=tiling)
        with use(needed) as model, offloaded(model, offload):
            apply_loras(model, task.loras, context.warn)
            film(model.pipeline, task, context, said, reel)

    tiling = settings.tiling
    attempts = [Attempt("whole frames decoded", partial(made, tiling=tiling, offload=False))]
    for fallback in settings.fallbacks:
        if fallback == "tiling" and not tiling:
            tiling = True
            attempts.append(Attempt("frames decoded in tiles", partial(made, tiling=True, offload=False)))
        elif fallback == "offload" and not settings.offload and device != "cpu":
            name = "weights that wait in the main memory"
            attempts.append(Attempt(name, partial(made, tiling=tiling, offload=True)))
    survive_out_of_memory(context, attempts)


def film(pipeline: Any, task: Task, context: Context, settings: VideoSettings, reel: Reel) -> None:
    """Make what is left of a task in one way.

    Raises:
        Cancelled: the pipeline is then as it was before.
        EngineError: the weights cannot do what the task asks, or what they made is no video.
    """
    name = name_of(pipeline)
    if name is None:
        raise EngineError(f"This worker makes no videos with a pipeline of the kind {type(pipeline).__name__}.")
    refuse(FEATURES[name], task)
    check(task)
    used = _with_frames(pipeline, task) if name == TEXT_OR_FIRST else pipeline
    try:
        with torch.no_grad():
            filming = Filming(used, task, context, settings)
            while reel.left:
                filming.make(reel.left[0], reel.latents)
                del reel.left[0]
    finally:
        # After an interruption the autoencoder still holds decoded rows, and offloaded models are on the device.
        pipeline.vae.clear_cache()
        pipeline.maybe_free_model_hooks()


class Filming:
    """One task on one pipeline: what all its videos share is read once."""

    def __init__(self, pipeline: Any, task: Task, context: Context, settings: VideoSettings) -> None:
        """Read the prompt and the frames that the task gives."""
        self._pipeline, self._task, self._context, self._settings = pipeline, task, context, settings
        self._guidance = next((g for g in (task.guidance, settings.guidance) if g is not None), _GUIDANCE)
        # Before the first step, so that whoever watches sees at once that it has begun.
        context.progress(0, task.steps, asset_index=task.indexes[0], phase="reading the prompt")
        self._footage = Footage.of(task, multiple=_multiple(pipeline), stride=pipeline.vae_scale_factor_temporal)
        frames = {r.kind: self._footage.framed(r) for r in task.references if r.strength > 0}
        names = {"first_frame": "image", "last_frame": "last_image"}
        self._given = {names[kind]: picture for kind, picture in frames.items()}
        self._embeds = self._read()
        self._clock = PreviewClock()

    def make(self, index: int, latents: dict[int, Any]) -> None:
        """Make the output at an index and hand it over; `latents` are those that are denoised already.

        An output that is no video fails by itself.
        """
        context, seed = self._context, self._task.seed + index
        if index not in latents:
            if line := self._footage.said():
                context.log(line)
            latents[index] = self._denoised(index, seed).cpu()
        if self._fails(index, partial(check_finite, what="video"), latents[index]):
            return
        frames = self._decoded(index, latents[index])
        del latents[index]
        kept = self._footage.kept
        if self._fails(index, partial(check_finite, what="video"), frames):
            return
        some = np.stack([self._picture(frames[number]) for number in {kept[0], kept[len(kept) // 2], kept[-1]}])
        if self._fails(index, partial(check_picture, may_be_plain=bool(self._given)), some):
            return
        folder = context.workdir / f"asset-{index}"
        folder.mkdir()
        context.deliver(index, self._encoded(index, seed, frames, folder / "video.mp4"))

    def _fails(self, index: int, check: Callable[[Any], None], values: Any) -> bool:
        try:
            check(values)
        except EngineError as error:
            self._context.fail(index, str(error), retryable=error.retryable)
            return True
        return False

    def _read(self) -> dict[str, Any]:
        task, pipeline = self._task, self._pipeline
        with_negative = self._guidance > 1
        if task.negative_prompt and not with_negative:
            self._context.warn(f"With a guidance of {self._guidance:g} the negative prompt has no effect.")
        for what, text in (("prompt", task.prompt), ("negative prompt", task.negative_prompt)):
            count = len(pipeline.tokenizer(text).input_ids)
            if count > PROMPT_TOKENS:
                self._context.warn(f"The {what} has {count} tokens; the model reads the first {PROMPT_TOKENS}.")
        with before_each(_blocks(pipeline.text_encoder), self._context.check_cancelled):
            embeds, negative = pipeline.encode_prompt(
                prompt=task.prompt,
                negative_prompt=task.negative_prompt,
                do_classifier_free_guidance=with_negative,
                max_sequence_length=PROMPT_TOKENS,
                device=pipeline._execution_device,
            )
        return {"prompt_embeds": embeds, "negative_prompt_embeds": negative}

    def _denoised(self, index: int, seed: int) -> Any:
        """The latents of a video: batch 1, channels, frames, rows, columns."""
        pipeline, task, context = self._pipeline, self._task, self._context

        def on_step(_: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            context.progress(step + 1, task.steps, asset_index=index, phase="filming")
            show_previews(context, self._clock, tensors["latents"], [index], "wan")
            return {}

        footage = self._footage
        transformers = [model for model in (pipeline.transformer, pipeline.transformer_2) if model is not None]
        modules = [block for model in transformers for block in _blocks(model)] + _blocks(pipeline.vae.encoder)
        with self._own_scheduler(), before_each(modules, context.check_cancelled):
            latents = pipeline(
                **self._embeds,
                **self._given,
                height=footage.height,
                width=footage.width,
                num_frames=footage.frames,
                num_inference_steps=task.steps,
                guidance_scale=self._guidance,
                # On the CPU, so that the same seed gives the same noise on every device.
                generator=torch.Generator("cpu").manual_seed(seed % 2**64),
                output_type="latent",
                callback_on_step_end=on_step,
                callback_on_step_end_tensor_inputs=["latents"],
            ).frames
        return latents

    def _decoded(self, index: int, latents: Any) -> Any:
        """The frames that are filmed, from -1 to 1: frames, channels, rows, columns."""
        vae, context, task = self._pipeline.vae, self._context, self._task
        done, count = 0, latents.shape[2]

        def before_frame() -> None:
            nonlocal done
            done += 1
            part = f"decoding {done} of {count}" if done <= count else "decoding"
            context.progress(task.steps, task.steps, asset_index=index, phase=part)

        latents = _scaled(vae, latents.to(self._pipeline._execution_device, vae.dtype))
        blocks = _blocks(vae.decoder)
        with self._tiled(), before_each([vae.decoder], before_frame), before_each(blocks, context.check_cancelled):
            decoded = vae.decode(latents, return_dict=False)[0]
        return decoded[0].permute(1, 0, 2, 3)

    @contextmanager
    def _tiled(self) -> Iterator[None]:
        vae = self._pipeline.vae
        before, vae.use_tiling = vae.use_tiling, self._settings.tiling
        try:
            yield
        finally:
            vae.use_tiling = before

    def _encoded(self, index: int, seed: int, frames: Any, path: Path) -> Path:
        task, context, kept = self._task, self._context, self._footage.kept
        context.progress(task.steps, task.steps, asset_index=index, phase="encoding")
        more = {"guidance": self._guidance, "scheduler": task.scheduler or self._settings.scheduler or "default"}
        made = files.made_with(task, seed, ENGINE, more)
        with files.Mp4Writer(path, (task.width, task.height), task.fps, made, encoder=ENGINE) as mp4:
            for number in kept:
                context.check_cancelled()
                mp4.add(Image.fromarray(self._picture(frames[number])))
        return path

    def _picture(self, frame: Any) -> np.ndarray[Any, Any]:
        rounded = ((frame.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return np.ascontiguousarray(self._footage.cut(rounded.permute(1, 2, 0).cpu().numpy()))

    @contextmanager
    def _own_scheduler(self) -> Iterator[None]:
        before = self._pipeline.scheduler
        name = self._task.scheduler or self._settings.scheduler
        self._pipeline.scheduler = scheduler_for(self._pipeline, name, self._settings.flow_shift)
        try:
            yield
        finally:
            self._pipeline.scheduler = before


def _with_frames(pipeline: Any, task: Task) -> Any:
    """Weights that do both, as the class that a task needs; nothing is loaded or copied."""
    from diffusers import WanImageToVideoPipeline, WanPipeline

    from_frames = any(reference.kind == "first_frame" and reference.strength > 0 for reference in task.references)
    wanted: Callable[..., Any] = WanImageToVideoPipeline if from_frames else WanPipeline
    if type(pipeline) is wanted:
        return pipeline
    names = ("tokenizer", "text_encoder", "vae", "scheduler", "transformer", "transformer_2")
    parts = {name: getattr(pipeline, name) for name in names}
    made = wanted(**parts, boundary_ratio=pipeline.config.boundary_ratio, expand_timesteps=True)
    made.set_progress_bar_config(disable=True)
    return made


def _multiple(pipeline: Any) -> int:
    """What widths and heights are multiples of."""
    model = pipeline.transformer if pipeline.transformer is not None else pipeline.transformer_2
    return max(16, int(pipeline.vae_scale_factor_spatial) * int(model.config.patch_size[-1]))


def _scaled(vae: Any, latents: Any) -> Any:
    """Latents as the decoder wants them: each channel with the mean and the deviation that it had in training."""
    mean, deviation = (
        torch.tensor(values, device=latents.device, dtype=latents.dtype).view(1, -1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return latents * deviation + mean


def _blocks(model: Any) -> list[Any]:
    """The blocks that a model runs one after the other: the longest list of modules in it."""
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    return list(max(lists, key=len, default=[]))
