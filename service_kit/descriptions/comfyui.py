"""The graphs that ComfyUI writes: `prompt` (what ran, by node) and `workflow` (what the editor shows).

A file says which nodes made it, not which text was its prompt. So the links are followed: from the node that saves to
the sampler, from its `positive` and `negative` through whatever joins or changes conditioning to the texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from service_kit.descriptions.comfyui_editor import as_prompt
from service_kit.descriptions.described import MAX_TEXT, Described, clean, count, fraction, model_name, read_json, whole

Node = Mapping[str, Any]
Graph = Mapping[str, Node]
Link = tuple[str, int]

_MOST_NODES = 20_000
_MOST_STEPS = 20_000
# A text that is joined with itself again and again would fill the memory; what is longer than a prompt may be is cut
# later on, and said.
_LONGEST_TEXT = 4 * MAX_TEXT
_LONGEST_DELIMITER = 1000
_TEXTS = ("text", "text_g", "text_l", "t5xxl", "clip_g", "clip_l", "prompt")
_STRINGS = ("value", "text", "string", "string_a", "string_b", "text_a", "text_b", "text1", "text2", "prompt")
_NUMBERS = ("value", "seed", "noise_seed", "int", "number", "Number", "Value")
_MODELS = ("ckpt_name", "unet_name", "model_name", "gguf_name")
_SAVES = ("SaveImage", "PreviewImage", "SaveAnimatedWEBP", "SaveAnimatedPNG", "SaveVideo", "VHS_VideoCombine")
# What carries something else than conditioning, wherever a node's inputs are not known by name.
_NOT_CONDITIONING = frozenset(
    {"clip", "model", "vae", "control_net", "image", "images", "latent", "samples", "mask", "clip_vision_output"}
)


def parse(prompt: str, workflow: str = "") -> Described | None:
    """Return what the graphs say; None when no sampler is found. Raises ValueError for what is no JSON."""
    for text, convert in ((prompt, _nodes), (workflow, lambda said: _nodes(as_prompt(said)))):
        if text:
            graph = convert(read_json(text))
            sampler = _Walk(graph).sampler()
            if sampler is not None:
                return _described(graph, sampler)
    return None


def _nodes(said: Any) -> dict[str, Node]:
    if not isinstance(said, dict) or len(said) > _MOST_NODES:
        return {}
    return {
        key: node
        for key, node in said.items()
        if isinstance(node, dict) and isinstance(node.get("inputs"), dict) and isinstance(node.get("class_type"), str)
    }


def _described(graph: Graph, sampler: str) -> Described:
    walk = _Walk(graph)
    inputs = graph[sampler]["inputs"]
    # A sampler of parts has its noise, guidance and steps in nodes of their own.
    parts = [inputs, *(walk.inputs_of(inputs.get(name)) for name in ("guider", "noise", "sigmas", "sampler"))]

    def first(*names: str) -> Any:
        return next((part[name] for part in parts for name in names if name in part), None)

    latent = walk.latent_of(inputs)
    scheduler = walk.string(first("scheduler"))
    sampler_name = walk.string(first("sampler_name")) or (scheduler and "")
    return Described(
        tool="comfyui",
        prompt=walk.text(first("positive", "conditioning"), positive=True),
        negative_prompt=walk.text(first("negative"), positive=False),
        model=walk.model(first("model")),
        seed=walk.number(first("noise_seed", "seed")),
        width=count(walk.number(latent.get("width"))),
        height=count(walk.number(latent.get("height"))),
        steps=count(walk.number(first("steps"))),
        sampler=" ".join(part for part in (sampler_name, scheduler) if part),
        guidance=fraction(walk.value(first("cfg"))),
    )


def _link(value: Any) -> Link | None:
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], (str, int)) and isinstance(value[1], int):
        return str(value[0]), value[1]
    return None


class _Walk:
    """Follows links, each node once per question and so many steps in all: graphs may have circles and be huge."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._steps = _MOST_STEPS

    def node(self, value: Any) -> Node | None:
        """Return the node that a value links to."""
        link = _link(value)
        self._steps -= 1
        return self._graph.get(link[0]) if link is not None and self._steps > 0 else None

    def inputs_of(self, value: Any) -> Mapping[str, Any]:
        """Return the inputs of the node that a value links to; {} without one."""
        node = self.node(value)
        return node["inputs"] if node is not None else {}

    def _upstream(self, start: list[Any], skip: frozenset[str] = frozenset()) -> Iterator[tuple[str, Node]]:
        """Give every node that can be reached, nearest first."""
        waiting, seen = list(start), set()
        for value in waiting:
            link = _link(value)
            node = self.node(value)
            if link is None or node is None or link[0] in seen:
                continue
            seen.add(link[0])
            yield link[0], node
            waiting.extend(given for name, given in node["inputs"].items() if name not in skip)

    def sampler(self) -> str | None:
        """Return the sampler that began the picture: of those that follow each other, the first one."""
        saves = [[key, 0] for key, node in self._graph.items() if node["class_type"] in _SAVES]
        reached = [key for key, node in self._upstream(list(saves)) if _is_sampler(node)]
        known = reached or [key for key, node in self._graph.items() if _is_sampler(node)]
        if not known:
            return None
        current, seen = known[0], {known[0]}
        while True:
            inputs = self._graph[current]["inputs"]
            before = self._upstream([inputs.get("latent_image")])
            earlier = next((key for key, node in before if _is_sampler(node) and key not in seen), None)
            if earlier is None:
                return current
            current = earlier
            seen.add(earlier)

    def latent_of(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the inputs of the node that says how large the first latent is."""
        for _, node in self._upstream([inputs.get("latent_image")]):
            if "width" in node["inputs"] and "height" in node["inputs"]:
                found: Mapping[str, Any] = node["inputs"]
                return found
        return {}

    def model(self, value: Any) -> str:
        """Return the model that a link leads to, through whatever changes models."""
        waiting, seen = [value], set()
        for given in waiting:
            link, node = _link(given), self.node(given)
            if link is None or node is None or link[0] in seen:
                continue
            seen.add(link[0])
            for name in _MODELS:
                if text := self.string(node["inputs"].get(name)):
                    return model_name(text)
            waiting.extend(node["inputs"].get(name) for name in ("model", "model1", "unet"))
        return ""

    def text(self, value: Any, *, positive: bool) -> str:
        """Return the texts that a conditioning is made of, in order, each once."""
        found: dict[str, None] = {}
        waiting, seen = [value], set()
        while waiting:
            given = waiting.pop(0)
            link, node = _link(given), self.node(given)
            if link is None or node is None or link in seen:
                continue
            seen.add(link)
            inputs = node["inputs"]
            if "ZeroOut" in node["class_type"]:
                continue
            texts = [text for name in _TEXTS if (text := self.string(inputs.get(name)))]
            if texts:
                found.update(dict.fromkeys(texts))
                continue
            waiting[:0] = _conditioning_of(inputs, link[1], positive)
        return clean("\n".join(found))

    def string(self, value: Any) -> str:
        """Return a text that is given, or made by the node that is linked."""
        return clean(self._string(value, frozenset()))

    def _string(self, value: Any, above: frozenset[str]) -> str:
        if isinstance(value, str):
            return value[:_LONGEST_TEXT]
        link, node = _link(value), self.node(value)
        if link is None or node is None or link[0] in above or len(above) > 50:
            return ""
        inputs, within = node["inputs"], above | {link[0]}
        parts = [text for name in _STRINGS if name in inputs and (text := self._string(inputs[name], within))]
        if not parts and "" in inputs:  # A reroute has one input without a name.
            return self._string(inputs[""], within)
        delimiter = inputs.get("delimiter")
        return (delimiter[:_LONGEST_DELIMITER] if isinstance(delimiter, str) else " ").join(parts)[:_LONGEST_TEXT]

    def number(self, value: Any) -> str:
        """Return a whole number that is given, or that the linked node has."""
        return whole(self.value(value))

    def value(self, value: Any) -> Any:
        """Return a value that is given, or the number that the linked node has."""
        seen = set()
        while (link := _link(value)) is not None and link[0] not in seen:
            seen.add(link[0])
            inputs = self.inputs_of(value)
            value = next((inputs[name] for name in (*_NUMBERS, "") if name in inputs), None)
        return None if _link(value) else value


def _is_sampler(node: Node) -> bool:
    inputs = node["inputs"]
    if _link(inputs.get("guider")) and ("noise" in inputs or "sigmas" in inputs):
        return True
    guided = _link(inputs.get("positive")) is not None and "latent_image" in inputs
    return guided and any(name in inputs for name in ("seed", "noise_seed", "steps", "sigmas"))


def _conditioning_of(inputs: Mapping[str, Any], slot: int, positive: bool) -> list[Any]:
    """Return the links that a node's conditioning comes from."""
    if _link(inputs.get("positive")) and _link(inputs.get("negative")):
        # Such a node hands on both, the positive one first.
        return [inputs["negative" if slot == 1 else "positive"]]
    if _link(inputs.get("positive")) or _link(inputs.get("negative")):
        return [inputs.get("positive" if positive else "negative")]
    named = [value for name, value in inputs.items() if "conditioning" in name and _link(value)]
    return named or [value for name, value in inputs.items() if name not in _NOT_CONDITIONING and _link(value)]
