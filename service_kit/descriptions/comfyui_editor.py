"""ComfyUI's `workflow`, the graph as the editor keeps it, turned into the form of `prompt`.

Its nodes list their inputs' links by number, and the values of their widgets by place alone. What the places mean is
known here for the nodes that say how a picture was made; newer files name the widgets themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MOST_NODES = 20_000
_WIDGETS: Mapping[str, tuple[str, ...]] = {
    "KSampler": ("seed", "control_after_generate", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
    "KSamplerAdvanced": (
        *("add_noise", "noise_seed", "control_after_generate", "steps", "cfg", "sampler_name", "scheduler"),
        *("start_at_step", "end_at_step", "return_with_leftover_noise"),
    ),
    "SamplerCustom": ("add_noise", "noise_seed", "control_after_generate", "cfg"),
    "RandomNoise": ("noise_seed", "control_after_generate"),
    "KSamplerSelect": ("sampler_name",),
    "BasicScheduler": ("scheduler", "steps", "denoise"),
    "CFGGuider": ("cfg",),
    "CLIPTextEncode": ("text",),
    "CLIPTextEncodeSDXL": (
        *("width", "height", "crop_w", "crop_h", "target_width", "target_height", "text_g", "text_l"),
    ),
    "CLIPTextEncodeSDXLRefiner": ("ascore", "width", "height", "text"),
    "CLIPTextEncodeFlux": ("clip_l", "t5xxl", "guidance"),
    "CLIPTextEncodeSD3": ("clip_l", "clip_g", "t5xxl", "empty_padding"),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "UNETLoader": ("unet_name", "weight_dtype"),
    "EmptyLatentImage": ("width", "height", "batch_size"),
    "EmptySD3LatentImage": ("width", "height", "batch_size"),
    "PrimitiveNode": ("value",),
    "PrimitiveInt": ("value",),
    "PrimitiveString": ("value",),
    "PrimitiveStringMultiline": ("value",),
}
_MUTED = (2, 4)


def as_prompt(said: Any) -> dict[str, Any]:
    """Return the nodes by id, each with `class_type` and `inputs`; {} for what is no such graph."""
    if not isinstance(said, dict):
        return {}
    nodes, links = said.get("nodes"), said.get("links")
    if not isinstance(nodes, list) or not isinstance(links, list) or len(nodes) > _MOST_NODES:
        return {}
    sources = {
        link[0]: [str(link[1]), link[2]]
        for link in links
        if isinstance(link, list) and len(link) >= 3 and all(isinstance(part, int) for part in link[:3])
    }
    return {
        str(node["id"]): {"class_type": node["type"], "inputs": _inputs(node, sources)}
        for node in nodes
        if isinstance(node, dict)
        and isinstance(node.get("id"), int)
        and isinstance(node.get("type"), str)
        and node.get("mode") not in _MUTED
    }


def _inputs(node: Mapping[str, Any], sources: Mapping[int, list[Any]]) -> dict[str, Any]:
    values = node.get("widgets_values")
    found: dict[str, Any] = {}
    if isinstance(values, dict):
        found = {name: value for name, value in values.items() if isinstance(name, str)}
    elif isinstance(values, list):
        found = dict(zip(_WIDGETS.get(str(node["type"]), ()), values, strict=False))
    inputs = node.get("inputs")
    for entry in inputs if isinstance(inputs, list) else ():
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            continue
        link = entry.get("link")
        if isinstance(link, int) and link in sources:
            # A widget that was turned into an input: what is linked counts, not what the widget showed before.
            found[entry["name"]] = sources[link]
    return found
