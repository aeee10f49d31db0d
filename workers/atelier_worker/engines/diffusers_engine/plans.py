"""What a task means for SDXL: which pipeline, how many steps, how much of a given picture stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from atelier_worker.engine import EngineError, Reference, Task
from atelier_worker.engines.diffusers_engine.guides import controlnet_of, edges
from atelier_worker.engines.diffusers_engine.loras import check_loras
from atelier_worker.engines.diffusers_engine.models import Model
from atelier_worker.engines.diffusers_engine.schedulers import check_scheduler
from atelier_worker.engines.diffusers_engine.sdxl_features import row_of
from atelier_worker.engines.diffusers_engine.settings import ModelSettings
from atelier_worker.engines.features import need_steps, refuse
from atelier_worker.engines.files import painted_by, read_picture

GUIDANCE = 5.0
MULTIPLE = 8


@dataclass(frozen=True, slots=True)
class Guide:
    """A picture that a model looks at, with a strength of 0 to 1."""

    picture: Image.Image
    strength: float


@dataclass(frozen=True, slots=True)
class Plan:
    """A task, checked and read: `steps` are those that will be done, `mask` is white where the picture is painted."""

    task: Task
    steps: int
    guidance: float
    scheduler: str
    init: Image.Image | None
    mask: Image.Image | None
    style: Guide | None
    composition: Guide | None

    @classmethod
    def of(cls, task: Task, settings: ModelSettings) -> Plan:
        """Check and read a task.

        Raises:
            EngineError: the model cannot do what it asks, or a reference is no picture.
        """
        refuse(row_of(settings), task)
        need_steps(task)
        check_scheduler(task.scheduler)
        check_loras(task.loras, settings)
        for name, pixels in (("width", task.width), ("height", task.height)):
            if pixels < MULTIPLE or pixels % MULTIPLE:
                raise EngineError(f"{name} must be a multiple of {MULTIPLE} pixels for this model, got {pixels}.")
        init, mask = _reference(task, "init"), _reference(task, "mask")
        if mask is not None and init is None:
            raise EngineError("A mask needs the picture that it belongs to: send a reference of kind init as well.")
        guidance = next((g for g in (task.guidance, settings.guidance) if g is not None), GUIDANCE)
        return cls(
            task=task,
            steps=task.steps if init is None else max(1, round(task.steps * (1 - init.strength))),
            guidance=guidance,
            scheduler=task.scheduler or settings.scheduler,
            init=None if init is None else read_picture(init, task.width, task.height),
            mask=None if mask is None else painted_by(read_picture(mask, task.width, task.height), mask.strength),
            style=_guide(task, "style"),
            composition=_outlined(_guide(task, "composition"), settings),
        )

    def pipeline(self, model: Model, scheduler: Any) -> Any:
        """A pipeline of its own for this task: the model's components with its own scheduler and state."""
        import diffusers

        kind = "" if self.init is None else "Img2Img" if self.mask is None else "Inpaint"
        own = model.pipeline
        parts = own.components | {"scheduler": scheduler}
        if self.composition is not None:
            kind = f"ControlNet{kind}"
            parts["controlnet"] = controlnet_of(model)
        made = getattr(diffusers, f"StableDiffusionXL{kind}Pipeline")(
            **parts,
            force_zeros_for_empty_prompt=own.config.force_zeros_for_empty_prompt,
        )
        made.set_progress_bar_config(disable=True)
        return made

    def arguments(self, count: int) -> dict[str, Any]:
        """What the pipeline is called with for `count` pictures, beside prompts and generators."""
        given: dict[str, Any] = {"num_inference_steps": self.task.steps, "guidance_scale": self.guidance}
        if self.style is not None:
            given["ip_adapter_image"] = self.style.picture
        if self.composition is not None:
            given["image" if self.init is None else "control_image"] = self.composition.picture
            given["controlnet_conditioning_scale"] = self.composition.strength
        if self.init is None:
            return given | {"width": self.task.width, "height": self.task.height}
        # The picture once for each: all its copies are encoded with their own seeds, in a batch or alone.
        given["image"] = [self.init] * count
        # The pipelines round steps × strength down, and 49 × (1 / 49) is less than 1: aim at the middle.
        given["strength"] = min(1.0, (self.steps + 0.5) / self.task.steps)
        if self.mask is not None:
            given |= {"mask_image": self.mask, "width": self.task.width, "height": self.task.height}
        return given

    def finished(self, picture: Image.Image) -> Image.Image:
        """The picture as it is kept: what the mask spares is the given picture, bit for bit."""
        if self.init is None or self.mask is None:
            return picture
        return Image.composite(picture, self.init, self.mask)

    def said(self, batch: Sequence[int]) -> dict[str, object]:
        """What a file says of how it was made; `batch` are the outputs of its pass."""
        said: dict[str, object] = {"guidance": self.guidance}
        if self.scheduler:
            said["scheduler"] = self.scheduler
        if len(batch) > 1:
            said["batch"] = len(batch)
        return said


def _reference(task: Task, kind: str) -> Reference | None:
    found = [reference for reference in task.references if reference.kind == kind and reference.strength > 0]
    if len(found) > 1:
        raise EngineError(f"This model takes one reference of kind {kind}, got {len(found)}.")
    return found[0] if found else None


def _guide(task: Task, kind: str) -> Guide | None:
    reference = _reference(task, kind)
    if reference is None:
        return None
    return Guide(read_picture(reference, task.width, task.height), float(reference.strength))


def _outlined(guide: Guide | None, settings: ModelSettings) -> Guide | None:
    """What the ControlNet reads of a picture."""
    if guide is None or settings.controlnet is None or settings.controlnet.reads == "picture":
        return guide
    return Guide(edges(guide.picture), guide.strength)
