"""Which inputs and outputs a ComfyUI workflow has, found by following its links up from the nodes that sample.

Titles and numbers of nodes say nothing here: a text is the prompt because it leads into `positive` of a sampler. Where
more than one node could be meant, and they do not agree, the name is a choice that whoever imports has to make.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from service_kit.comfy_template import Node, Target, TemplateError, Workflow, is_link

_TEXT_FIELDS = ("text", "text_g", "text_l", "prompt", "clip_l", "clip_g", "t5xxl", "string", "value")
_ROLE_TEXT_FIELDS = {"positive": "positive_prompt", "negative": "negative_prompt"}
_VALUE_FIELDS = ("value", "seed", "noise_seed", "int", "float", "number", "string", "text")
_FRAME_FIELDS = ("length", "num_frames", "frames", "video_frames")
_RATE_FIELDS = ("frame_rate", "fps")
_MODEL_FIELDS = ("ckpt_name", "unet_name", "model_name")
# What feeds a conditioning without being one.
_NO_CONDITIONING = {
    *("model", "clip", "vae", "image", "pixels", "mask", "control_net", "clip_vision", "clip_vision_output"),
    *("style_model", "start_image", "end_image", "latent", "samples", "latent_image", "audio_encoder_output"),
}
# What leads from a latent to texts and weights.
_NO_LATENT = {"model", "clip", "vae", "positive", "negative", "conditioning", "clip_vision", "control_net", "guider"}
_PICTURE_ROLES = {
    "start_image": "first_frame",
    "first_frame": "first_frame",
    "end_image": "last_frame",
    "last_frame": "last_frame",
    "mask": "mask",
    "noise_mask": "mask",
}
_PICTURE_SAVERS = ("SaveImage", "SaveImageWebsocket", "Image Save")
_VIDEO_SAVERS = ("SaveVideo", "VHS_VideoCombine", "SaveWEBM", "SaveAnimatedWEBP", "SaveAnimatedPNG")
_PREVIEWS = ("PreviewImage",)
_LAST_STEP = 10_000


@dataclass(slots=True)
class Found:
    """What a workflow has. `choices` are names with several places that do not agree; `notes` are sentences."""

    outputs: list[str] = field(default_factory=list)
    is_video: bool = False
    inputs: dict[str, list[Target]] = field(default_factory=dict)
    choices: dict[str, list[Target]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def find(workflow: Workflow) -> Found:
    """Return the inputs and outputs of a workflow.

    Raises:
        TemplateError: its nodes stand in a longer row than can be followed.
    """
    try:
        return _Search(workflow).run()
    except RecursionError as error:
        raise TemplateError("The workflow cannot be followed: too many nodes stand in one row.") from error


class _Search:
    def __init__(self, workflow: Workflow) -> None:
        self._nodes = workflow
        self._found = Found()
        self._places: dict[str, list[Target]] = {}

    def run(self) -> Found:
        self._find_outputs()
        reached = self._upstream(self._found.outputs)
        samplers = [name for name in reached if self._is_sampler(name)]
        for sampler in samplers:
            self._read_sampler(sampler)
        if samplers:
            # The sampler that no other one leads into is where sizes and pictures come in.
            first = next((name for name in samplers if not self._after_another(name)), samplers[0])
            self._read_latent(first)
        else:
            self._read_anything(reached)
        self._find_rate(reached)
        self._settle()
        return self._found

    # Outputs.

    def _find_outputs(self) -> None:
        for savers in (_VIDEO_SAVERS, _PICTURE_SAVERS, _PREVIEWS):
            self._found.outputs = [name for name, node in self._nodes.items() if node["class_type"] in savers]
            if self._found.outputs:
                self._found.is_video = savers is _VIDEO_SAVERS
                return
        fed = {value[0] for node in self._nodes.values() for value in node["inputs"].values() if is_link(value)}
        for name, node in self._nodes.items():
            if name not in fed and ("Save" in node["class_type"] or "Combine" in node["class_type"]):
                self._found.outputs.append(name)

    # Samplers.

    def _is_sampler(self, name: str) -> bool:
        inputs = self._nodes[name]["inputs"]
        if is_link(inputs.get("latent_image")) and ({"positive", "guider"} & inputs.keys()):
            return True
        return "steps" in inputs and "cfg" in inputs and bool({"seed", "noise_seed"} & inputs.keys())

    def _after_another(self, name: str) -> bool:
        above = [one for one in self._upstream([name]) if one != name]
        return any(self._is_sampler(one) for one in above)

    def _read_sampler(self, name: str) -> None:
        node = self._nodes[name]
        guider = self._source(node, "guider") or name
        self._add("seed", self._literal(self._source(node, "noise") or name, "seed", "noise_seed"))
        self._add("sampler", self._literal(self._source(node, "sampler") or name, "sampler_name"))
        sigmas = self._source(node, "sigmas") or name
        self._add("scheduler", self._literal(sigmas, "scheduler"))
        if self._is_split(node):
            self._found.notes.append(
                f"Node {name} ({node['class_type']}) takes a part of the steps: they stay as the workflow has them."
            )
        else:
            self._add("steps", self._literal(sigmas, "steps"))
        self._read_texts(name, guider)
        self._read_model(guider)

    def _read_texts(self, sampler: str, guider: str) -> None:
        node = self._nodes[guider]
        positive = "positive" if "positive" in node["inputs"] else "conditioning"
        text_holder = self._source(node, "text_embeds")
        if text_holder is not None:
            guider, positive = text_holder, "positive"
        for target in self._texts(guider, positive, set(), start=True):
            self._add("prompt", target)
        for target in self._texts(guider, "negative", set(), start=True):
            if target not in self._places.get("prompt", []):
                self._add("negative_prompt", target)
        above = [name for name in self._upstream([guider]) if "guidance" in self._nodes[name]["inputs"]]
        if above:
            for name in above:
                self._add("guidance", self._literal(name, "guidance"))
        else:
            self._add("guidance", self._literal(guider, "cfg") or self._literal(sampler, "cfg"))
        for name in self._conditioning(guider, positive):
            if is_link(self._nodes[name]["inputs"].get("control_net")):
                self._add_pictures(name, ("image",), "composition")

    def _conditioning(self, guider: str, role: str) -> Iterator[str]:
        source = self._source(self._nodes[guider], role)
        return iter(()) if source is None else iter(self._upstream([source], without=_NO_CONDITIONING))

    def _texts(self, name: str, role: str, seen: set[str], *, start: bool = False) -> list[Target]:
        node = self._nodes[name]
        if name in seen or node["class_type"] == "ConditioningZeroOut":
            return []
        seen.add(name)
        role_field = _ROLE_TEXT_FIELDS.get(role)
        if role_field in node["inputs"]:
            own = [self._literal(name, role_field)]
        else:
            own = [] if start else [self._text(name, one) for one in _TEXT_FIELDS if one in node["inputs"]]
        if texts := [target for target in own if target is not None]:
            return texts
        links = [one for one in node["inputs"] if is_link(node["inputs"][one])]
        if role in links:
            links = [role]
        elif start:
            return []
        follow = [node["inputs"][one][0] for one in links if one not in _NO_CONDITIONING]
        return [target for source in follow for target in self._texts(source, role, seen)]

    def _text(self, name: str, one: str) -> Target | None:
        target = self._literal(name, one)
        if target is None or not isinstance(self._nodes[target.node]["inputs"][target.field], str):
            return None
        return target

    # Weights.

    def _read_model(self, guider: str) -> None:
        source, number = self._source(self._nodes[guider], "model"), self._loras()
        seen: set[str] = set()
        while source is not None and source not in seen:
            seen.add(source)
            node = self._nodes[source]
            known = [one for places in self._places.values() for one in places]
            if "lora_name" in node["inputs"] and Target(source, "lora_name") not in known:
                number += 1
                self._add(f"lora_{number}", self._literal(source, "lora_name"))
                for weight in ("strength_model", "strength_clip", "strength"):
                    self._add(f"lora_{number}_weight", self._literal(source, weight))
            self._add("checkpoint", self._literal(source, *_MODEL_FIELDS))
            if "ipadapter" in node["inputs"]:
                self._add_pictures(source, ("image",), "style")
            source = self._source(node, "model")

    def _loras(self) -> int:
        return sum(1 for name in self._places if name.startswith("lora_") and not name.endswith("_weight"))

    # Sizes and pictures.

    def _read_latent(self, sampler: str) -> None:
        node = self._nodes[sampler]
        entry = next(
            (one for one in ("latent_image", "image_embeds", "samples") if is_link(node["inputs"].get(one))), ""
        )
        source = self._source(node, entry)
        if source is None:
            return
        above = self._upstream([source], without=_NO_LATENT)
        self._read_size(above)
        self._add_pictures_above(source, "init", set())
        for kind in ("positive", "conditioning"):
            for name in self._conditioning(sampler, kind):
                self._add_pictures(name, tuple(_PICTURE_ROLES), "init")
        if self._found.is_video and "init" in self._places and "first_frame" not in self._places:
            self._places["first_frame"] = self._places.pop("init")
        if "init" in self._places:
            self._add("strength", self._literal(sampler, "denoise"))
            sigmas = self._source(node, "sigmas")
            if sigmas is not None:
                self._add("strength", self._literal(sigmas, "denoise"))

    def _read_size(self, above: Iterable[str]) -> None:
        """Take the first node that makes something of a size; what comes above it is cut to that size anyway."""
        for name in above:
            inputs = self._nodes[name]["inputs"]
            if "width" not in inputs or "height" not in inputs:
                continue
            self._add("width", self._literal(name, "width"))
            self._add("height", self._literal(name, "height"))
            frames = self._literal(name, *_FRAME_FIELDS)
            batch = self._literal(name, "batch_size")
            if frames is None and self._found.is_video:
                frames, batch = batch, None
            self._add("frames", frames)
            self._add("batch_size", batch)
            return

    def _add_pictures(self, name: str, fields: Iterable[str], role: str) -> None:
        for one in fields:
            source = self._source(self._nodes[name], one)
            if source is not None:
                self._add_pictures_above(source, _PICTURE_ROLES.get(one, role), set())

    def _add_pictures_above(self, name: str, role: str, seen: set[str]) -> None:
        node = self._nodes[name]
        if (name in seen and role != "mask") or self._is_sampler(name):
            return
        seen.add(name)
        if node["class_type"].startswith("LoadImage"):
            taken = [one for kind, places in self._places.items() for one in places if kind != role]
            target = self._literal(name, "image")
            # A picture that carries its own mask is both.
            if target is not None and (target not in taken or {role} | {"mask"} == {"init", "mask"} or role == "mask"):
                self._add(role, target)
            return
        for one, value in node["inputs"].items():
            if is_link(value) and one not in _NO_LATENT:
                self._add_pictures_above(value[0], _PICTURE_ROLES.get(one, role), seen)

    # Workflows that sample nothing.

    def _read_anything(self, reached: Iterable[str]) -> None:
        reached = list(reached)
        self._read_size(reached)
        for name in reached:
            inputs = self._nodes[name]["inputs"]
            self._add("seed", self._literal(name, "seed", "noise_seed"))
            self._add("steps", self._literal(name, "steps"))
            self._add("prompt", self._text(name, "text" if "text" in inputs else "prompt"))
            if self._nodes[name]["class_type"].startswith("LoadImage"):
                self._add("init", self._literal(name, "image"))
        self._found.notes.append("The workflow has no sampler: inputs are guessed by the names of fields.")

    def _find_rate(self, reached: Iterable[str]) -> None:
        if self._found.is_video:
            for name in reached:
                target = self._literal(name, *_RATE_FIELDS)
                if target is not None:
                    self._add("fps", target)
                    return

    # What all share.

    def _settle(self) -> None:
        for name, places in self._places.items():
            values = {repr(self._value(place)) for place in places}
            nodes = {place.node for place in places}
            # Seeds are all replaced; so are fields of one node, such as the two texts of SDXL.
            agree = len(values) == 1 or len(nodes) == 1 or name in ("seed", "mask") or name.endswith("_weight")
            (self._found.inputs if agree else self._found.choices)[name] = places

    def _value(self, target: Target) -> object:
        return self._nodes[target.node]["inputs"][target.field]

    def _add(self, name: str, target: Target | None) -> None:
        if target is not None and target not in self._places.setdefault(name, []):
            self._places[name].append(target)
        if not self._places.get(name):
            self._places.pop(name, None)

    def _literal(self, name: str, *fields: str | None) -> Target | None:
        """Return where the value of the first of these fields stands: here, or in a node that only holds a value."""
        inputs = self._nodes[name]["inputs"]
        for one in fields:
            if one is None or one not in inputs:
                continue
            if not is_link(inputs[one]):
                return Target(name, one)
            above = self._nodes[inputs[one][0]]["inputs"]
            for holder in (one, *_VALUE_FIELDS):
                if holder in above and not is_link(above[holder]):
                    return Target(inputs[one][0], holder)
        return None

    def _source(self, node: Node, one: str) -> str | None:
        value = node["inputs"].get(one)
        return value[0] if is_link(value) else None

    def _is_split(self, node: Node) -> bool:
        end, start = node["inputs"].get("end_at_step", _LAST_STEP), node["inputs"].get("start_at_step", 0)
        return (isinstance(end, int) and end < _LAST_STEP) or (isinstance(start, int) and start > 0)

    def _upstream(self, start: Iterable[str], without: Iterable[str] = ()) -> list[str]:
        """Return every node that these need, these included, nearest first."""
        reached = dict.fromkeys(start)
        queue = deque(reached)
        while queue:
            for one, value in self._nodes[queue.popleft()]["inputs"].items():
                if is_link(value) and one not in without and value[0] not in reached:
                    reached[value[0]] = None
                    queue.append(value[0])
        return list(reached)
