"""ComfyUI workflows as templates: the file format that the command line writes and the worker's engine reads.

A template is a workflow in ComfyUI's API format with names for what may be set in it: `inputs` maps a name of `INPUTS`
to the places (`NODE.FIELD`) where its value goes, `outputs` names the nodes whose files are delivered, `defaults` holds
what a job that does not say gets, and `ignores` the inputs that the workflow lacks and may be asked for all the same.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

VERSION = 1
LIMIT_BYTES = 4 * 1024 * 1024
MOST_NODES = 1000

TEXTS = ("prompt", "negative_prompt", "sampler", "scheduler", "checkpoint")
NUMBERS = ("seed", "steps", "guidance", "strength", "width", "height", "batch_size", "frames", "fps")
PICTURES = ("init", "mask", "style", "composition", "first_frame", "last_frame")
INPUTS = (*TEXTS, *NUMBERS, *PICTURES)
"""Every name that an input can have, besides `lora_1`, `lora_1_weight`, `lora_2` and so on."""

_LORA = re.compile(r"lora_[1-9][0-9]?(?:_weight)?")
_KEYS = {"version", "format", "workflow", "inputs", "outputs", "defaults", "ignores", "batches"}

Node = dict[str, Any]
Workflow = dict[str, Node]


class TemplateError(Exception):
    """A workflow or template cannot be used; the message is a sentence for the operator."""


class Target(NamedTuple):
    """One input of one node, written `NODE.FIELD`."""

    node: str
    field: str

    def __str__(self) -> str:
        return f"{self.node}.{self.field}"

    @classmethod
    def of(cls, text: str) -> Target:
        """Read `NODE.FIELD`.

        Raises:
            TemplateError: it is something else.
        """
        node, dot, field = text.partition(".")
        if not (node and dot and field):
            raise TemplateError(f"An input is named as NODE.FIELD, such as 6.text; got {text!r}.")
        return cls(node, field)


@dataclass(frozen=True, slots=True)
class Template:
    """A workflow with names for what may be set in it. `batches`: all outputs of a job come out of one run."""

    workflow: Workflow
    inputs: Mapping[str, tuple[Target, ...]]
    outputs: tuple[str, ...]
    format: Literal["image", "video"] = "image"
    defaults: Mapping[str, str | int | float] | None = None
    ignores: frozenset[str] = frozenset()
    batches: bool = False

    def filled(self, values: Mapping[str, str | int | float]) -> Workflow:
        """Return the workflow with each value at every place of its name; names without a place are left out."""
        workflow = copy.deepcopy(self.workflow)
        for name, value in values.items():
            for target in self.inputs.get(name, ()):
                workflow[target.node]["inputs"][target.field] = value
        return workflow

    @property
    def loras(self) -> int:
        """How many LoRAs a job may choose."""
        return sum(1 for name in self.inputs if name.startswith("lora_") and not name.endswith("_weight"))


def is_input(name: str) -> bool:
    """Tell whether an input may have this name."""
    return name in INPUTS or _LORA.fullmatch(name) is not None


def is_link(value: object) -> bool:
    """Tell whether a field is fed by another node: `[NODE, SLOT]`."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


def read_workflow(text: str | bytes) -> Workflow:
    """Read a workflow in ComfyUI's API format, bare or as the body of a request (`{"prompt": {…}}`).

    Raises:
        TemplateError: it is no such workflow; the sentence says how to export one.
    """
    found = _parse(text)
    if isinstance(found.get("nodes"), list) and "links" in found:
        raise TemplateError(
            "This workflow is in the format of ComfyUI's editor, which only the editor can run. "
            "Open it in ComfyUI, choose Workflow > Export (API), and import the file that it saves."
        )
    if "workflow" in found and "inputs" in found:
        raise TemplateError("This is a template already: name it as `template` in the worker's configuration.")
    inner = found.get("prompt")
    return _workflow(inner if isinstance(inner, dict) and "class_type" not in inner else found)


def read_template(text: str | bytes) -> Template:
    """Read a template.

    Raises:
        TemplateError: it is none, of another version, or names what its workflow does not have.
    """
    found = _parse(text)
    if "workflow" not in found or "inputs" not in found:
        raise TemplateError("This is no template: make one of a workflow with `atelier comfy import`.")
    if found.get("version") != VERSION:
        raise TemplateError(f"The template has version {found.get('version')!r}; this release reads {VERSION}.")
    if unknown := found.keys() - _KEYS:
        raise TemplateError(f"The template has {sorted(unknown)[0]!r}, which is not known.")
    if found.get("format", "image") not in ("image", "video"):
        raise TemplateError(f"The template's format is image or video; got {found['format']!r}.")
    workflow = _workflow(found["workflow"])
    return Template(
        workflow,
        _inputs(found["inputs"], workflow),
        _outputs(found.get("outputs"), workflow),
        format=cast(Literal["image", "video"], found.get("format", "image")),
        defaults=_defaults(found.get("defaults", {})),
        ignores=frozenset(_names(found.get("ignores", []), "ignores")),
        batches=found.get("batches") is True,
    )


def write_template(template: Template) -> str:
    """Return the file of a template: JSON, the names first."""
    document = {
        "version": VERSION,
        "format": template.format,
        "inputs": {name: [str(target) for target in targets] for name, targets in template.inputs.items()},
        "outputs": list(template.outputs),
        "defaults": dict(template.defaults or {}),
        "ignores": sorted(template.ignores),
        "batches": template.batches,
        "workflow": template.workflow,
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def check_target(target: Target, workflow: Workflow) -> None:
    """Make sure that a workflow has this field, and that no other node feeds it.

    Raises:
        TemplateError: it does not.
    """
    node = workflow.get(target.node)
    if node is None:
        raise TemplateError(f"{target} names node {target.node!r}, which the workflow does not have.")
    if target.field not in node["inputs"]:
        known = ", ".join(name for name, value in node["inputs"].items() if not is_link(value)) or "none"
        raise TemplateError(
            f"{target} names a field that node {target.node} ({node['class_type']}) does not have. It has: {known}."
        )
    if is_link(node["inputs"][target.field]):
        source = node["inputs"][target.field][0]
        raise TemplateError(f"{target} is fed by node {source}; name the field there.")


def _parse(text: str | bytes) -> dict[str, Any]:
    if len(text) > LIMIT_BYTES:
        raise TemplateError(f"The file has {len(text)} bytes; a workflow has at most {LIMIT_BYTES}.")
    try:
        found = json.loads(text, parse_constant=_no_number, parse_float=_finite)
        # Half a surrogate pair can be written in JSON and not be sent.
        json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise TemplateError("The file is not JSON: export the workflow from ComfyUI in the API format.") from error
    if not isinstance(found, dict):
        raise TemplateError("The file is not a workflow: a workflow is an object of nodes.")
    return found


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)


def _no_number(text: str) -> float:
    raise TemplateError(f"The file has {text[:20]} where a number belongs: give that field of the workflow a number.")


def _workflow(found: object) -> Workflow:
    if not isinstance(found, dict) or not found:
        raise TemplateError("The file is not a workflow: it has no nodes.")
    if len(found) > MOST_NODES:
        raise TemplateError(f"The workflow has {len(found)} nodes; at most {MOST_NODES} are read.")
    for name, node in found.items():
        if not (
            isinstance(node, dict) and isinstance(node.get("class_type"), str) and isinstance(node.get("inputs"), dict)
        ):
            raise TemplateError(f"The file is not a workflow in the API format: {name!r} has no class_type and inputs.")
        for field, value in node["inputs"].items():
            if is_link(value) and value[0] not in found:
                raise TemplateError(f"{name}.{field} is fed by node {value[0]!r}, which the workflow does not have.")
    return found


def _inputs(found: object, workflow: Workflow) -> dict[str, tuple[Target, ...]]:
    if not isinstance(found, dict):
        raise TemplateError("The template's inputs are an object of names and places.")
    inputs = {}
    for name in _names(found, "inputs"):
        places = found[name]
        if not isinstance(places, list) or not places or not all(isinstance(place, str) for place in places):
            raise TemplateError(f"The template's input {name} is a list of places such as 6.text.")
        inputs[name] = tuple(Target.of(place) for place in places)
        for target in inputs[name]:
            check_target(target, workflow)
    return inputs


def _outputs(found: object, workflow: Workflow) -> tuple[str, ...]:
    if not isinstance(found, list) or not found:
        raise TemplateError("The template names no outputs: nodes whose files are delivered.")
    for node in found:
        if not isinstance(node, str) or node not in workflow:
            raise TemplateError(f"The template's output {node!r} is no node of the workflow.")
    return tuple(found)


def _defaults(found: object) -> dict[str, str | int | float]:
    if not isinstance(found, dict):
        raise TemplateError("The template's defaults are an object of names and values.")
    for name in _names(found, "defaults"):
        if not isinstance(found[name], str | int | float):
            raise TemplateError(f"The template's default of {name} is a text or a number.")
    return dict(found)


def _names(found: object, where: str) -> list[str]:
    if not isinstance(found, list | dict):
        raise TemplateError(f"The template's {where} are a list of names.")
    for name in found:
        if not isinstance(name, str) or not is_input(name):
            raise TemplateError(f"The template's {where} name {name!r}; known are {', '.join(INPUTS)} and lora_1.")
    return cast(list[str], list(found))
