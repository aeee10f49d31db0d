"""A task as values of a template: what the workflow cannot express is refused by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from atelier_worker.engine import Context, EngineError, Task
from atelier_worker.engines import features
from service_kit.comfy_template import PICTURES, Template

_WORDS = {
    "negative_prompt": "negative prompt",
    "guidance": "guidance",
    "scheduler": "scheduler",
    "loras": "LoRA",
    "init": "reference of kind init",
    "mask": "reference of kind mask",
    "style": "reference of kind style",
    "composition": "reference of kind composition",
    "first_frame": "reference of kind first_frame",
    "last_frame": "reference of kind last_frame",
    "first_and_last_frame": "two references of kind first_frame and last_frame",
}
# Names of other engines for what ComfyUI calls otherwise.
_SAMPLERS = {"euler_a": "euler_ancestral", "unipc": "uni_pc"}
_CURVES = ("karras", "exponential", "sgm_uniform", "simple", "beta", "normal")
_NO_LORAS: Mapping[str, str] = MappingProxyType({})

Values = dict[str, str | int | float]


@dataclass(frozen=True, slots=True)
class Model:
    """A template under the name that jobs know. `lora_names`: what jobs call a LoRA → its file's name in ComfyUI."""

    name: str
    template: Template
    lora_names: Mapping[str, str] = field(default_factory=lambda: _NO_LORAS)

    @property
    def may_be_plain(self) -> bool:
        """Whether a picture of one colour is what the workflow makes: it has no weights."""
        return "checkpoint" not in self.template.inputs


def check(model: Model, task: Task) -> None:
    """Refuse a task that asks for what the workflow lacks.

    Raises:
        EngineError: says what it lacks, or which LoRA is not known.
    """
    template = model.template
    if task.format != template.format:
        raise EngineError(f"The workflow {model.name} makes {template.format}s, no {task.format or 'text'}s.")
    if "prompt" not in template.inputs and "prompt" not in template.ignores:
        raise EngineError(f"The workflow {model.name} takes no prompt.")
    features.refuse(features.row(_able(template), "", _refusals(model)), task)
    given = {one.kind for one in task.references if one.strength > 0}
    for kind in PICTURES:
        if kind in template.inputs and kind not in given:
            raise EngineError(f"The workflow {model.name} needs a reference of kind {kind}.")
    if len(task.loras) > template.loras:
        raise EngineError(f"The workflow {model.name} takes {template.loras} LoRA at most, got {len(task.loras)}.")
    for lora in task.loras:
        if lora.name not in model.lora_names:
            known = ", ".join(sorted(model.lora_names)) or "none"
            raise EngineError(f"The LoRA {lora.name} is not known to the workflow {model.name}; known: {known}.")


def warn(model: Model, task: Task, context: Context) -> None:
    """Say what a job always has and this workflow does not follow."""
    lacking = [name for name in ("seed", "steps") if name not in _known(model.template)]
    if task.format == "video":
        lacking += [name for name in ("frames", "fps") if name not in _known(model.template)]
    for name in lacking:
        value = getattr(task, name)
        context.warn(f"The workflow {model.name} takes no {name} from outside; {value} was not used.")


def values_of(model: Model, task: Task, seed: int, quantity: int, pictures: Mapping[str, str]) -> Values:
    """Return the value of each input; `pictures` are the names under which ComfyUI has the references."""
    template = model.template
    values: Values = dict(template.defaults or {})
    values |= {"prompt": task.prompt, "seed": seed, "batch_size": quantity}
    values |= {"steps": task.steps, "width": task.width, "height": task.height}
    if task.format == "video":
        values |= {"frames": task.frames, "fps": task.fps, "batch_size": 1}
    if task.negative_prompt:
        values["negative_prompt"] = task.negative_prompt
    if task.guidance is not None:
        values["guidance"] = task.guidance
    values |= _sampler(task.scheduler, template)
    values |= _loras(model, task)
    for reference in task.references:
        # Of a picture that is to be kept as it is nothing is drawn anew.
        if reference.kind == "init" and reference.strength > 0:
            values["strength"] = round(1.0 - reference.strength, 4)
    return values | dict(pictures)


def _able(template: Template) -> Iterator[str]:
    yield from (kind for kind in PICTURES if kind in template.inputs)
    yield from ("text_to_image",) if template.format == "image" else ("text_to_video",)
    if {"first_frame", "last_frame"} <= template.inputs.keys():
        yield "first_and_last_frame"
    # What may be asked for without being there counts as there.
    names = template.inputs.keys() | template.ignores
    yield from (name for name in ("negative_prompt", "guidance") if name in names)
    if {"sampler", "scheduler"} & names:
        yield "scheduler"
    if template.loras:
        yield "loras"


def _refusals(model: Model) -> dict[str, str]:
    able = set(_able(model.template))
    return {
        name: f"The workflow {model.name} takes no {_WORDS.get(name, name.replace('_', ' '))}."
        for name in features.NAMES
        if name not in able
    }


def _known(template: Template) -> frozenset[str]:
    return template.ignores | template.inputs.keys()


def _sampler(name: str, template: Template) -> Values:
    """Split `dpmpp_2m_karras` into a sampler and the curve of its noise; ComfyUI says which of both it has."""
    if not name:
        return {}
    curve = next((one for one in _CURVES if name.endswith(f"_{one}")), "")
    sampler = name.removesuffix(f"_{curve}") if curve else name
    if curve and "scheduler" not in template.inputs:
        sampler, curve = name, ""
    found: Values = {"sampler": _SAMPLERS.get(sampler, sampler)}
    return found | ({"scheduler": curve} if curve else {})


def _loras(model: Model, task: Task) -> Values:
    """Fill the places for LoRAs in order; those that a job leaves free have no effect, unless it names none at all."""
    if not task.loras:
        return {}
    values: Values = {f"lora_{number}_weight": 0.0 for number in range(1, model.template.loras + 1)}
    for number, lora in enumerate(task.loras, 1):
        values[f"lora_{number}"] = model.lora_names[lora.name]
        values[f"lora_{number}_weight"] = lora.weight
    return values
