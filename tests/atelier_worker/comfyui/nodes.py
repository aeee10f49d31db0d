"""The nodes that the stand-in knows: what they need, and what is saved at the end of a graph of them."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from atelier_worker.engines.files import Mp4Writer
from service_kit.comfy_template import is_link

Graph = dict[str, dict[str, Any]]

# What must be there; a number is the least value of a whole number.
NODES: dict[str, dict[str, int | None]] = {
    "EmptyImage": {"width": 1, "height": 1, "batch_size": 1, "color": 0},
    "ImageInvert": {"image": None},
    "SaveImage": {"images": None, "filename_prefix": None},
    "LoadImage": {"image": None},
    "LoadImageMask": {"image": None, "channel": None},
    "AtelierSteps": {"image": None, "seed": 0, "steps": 1, "milliseconds": 0},
    "CheckpointLoaderSimple": {"ckpt_name": None},
    "LoraLoader": {"model": None, "clip": None, "lora_name": None, "strength_model": None, "strength_clip": None},
    "CLIPTextEncode": {"text": None, "clip": None},
    "EmptyLatentImage": {"width": 16, "height": 16, "batch_size": 1},
    "ImageScale": {"image": None, "width": 0, "height": 0},
    "VAEEncode": {"pixels": None, "vae": None},
    "VAEDecode": {"samples": None, "vae": None},
    "GrowMask": {"mask": None},
    "SetLatentNoiseMask": {"samples": None, "mask": None},
    "KSampler": {"model": None, "positive": None, "negative": None, "latent_image": None, "seed": 0, "steps": 1},
    "UNETLoader": {"unet_name": None},
    "CLIPLoader": {"clip_name": None},
    "VAELoader": {"vae_name": None},
    "ModelSamplingSD3": {"model": None},
    "WanImageToVideo": {"positive": None, "negative": None, "width": 16, "height": 16, "length": 1},
    "CreateVideo": {"images": None, "fps": None},
    "SaveVideo": {"video": None, "filename_prefix": None},
    "NoMemory": {"image": None},
}


class Failure(Exception):
    """A node failed. `kind` is the type of the exception."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


def problems(graph: Graph, folder: Path) -> dict[str, Any] | None:
    """Return the answer to a graph that is no good; None for a good one."""
    for name, node in graph.items():
        if node["class_type"] not in NODES:
            said = f"Cannot execute because node {node['class_type']} does not exist."
            return _refusal("invalid_prompt", said, f"Node ID '#{name}'")
    if not any(node["class_type"].startswith("Save") for node in graph.values()):
        return _refusal("prompt_no_outputs", "Prompt has no outputs", "")
    errors = {name: found for name, node in graph.items() if (found := _node_errors(node, folder))}
    if not errors:
        return None
    listed = {
        name: {"errors": found, "dependent_outputs": ["3"], "class_type": graph[name]["class_type"]}
        for name, found in errors.items()
    }
    said = "Prompt outputs failed validation"
    return _refusal("prompt_outputs_failed_validation", said, "") | {"node_errors": listed}


def _refusal(kind: str, message: str, details: str) -> dict[str, Any]:
    error = {"type": kind, "message": message, "details": details, "extra_info": {}}
    return {"error": error, "node_errors": {}}


def _node_errors(node: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    found = []
    for field, least in NODES[node["class_type"]].items():
        value = node["inputs"].get(field)
        extra: dict[str, Any] = {"input_name": field}
        config = ["INT", {"default": 512, "min": least, "max": 16384, "step": 1}]
        if value is None:
            found.append(_error("required_input_missing", "Required input is missing", field, extra))
        elif least is not None and not is_link(value) and not isinstance(value, int):
            why = f"invalid literal for int() with base 10: {value!r}"
            extra |= {"input_config": config, "received_value": value, "exception_message": why}
            said = "Failed to convert an input value to a INT value"
            found.append(_error("invalid_input_type", said, f"{field}, {value}, {why}", extra))
        elif least is not None and not is_link(value) and value < least:
            extra |= {"input_config": config, "received_value": value}
            found.append(_error("value_smaller_than_min", f"Value {value} smaller than min of {least}", field, extra))
        elif _is_missing(node, field, folder):
            said = f"{field} - Invalid image file: {value}"
            found.append(_error("custom_validation_failed", "Custom validation failed for node", said, extra))
    return found


def _is_missing(node: dict[str, Any], field: str, folder: Path) -> bool:
    loads = node["class_type"].startswith("LoadImage") and field == "image"
    return loads and not (folder / "input" / str(node["inputs"][field])).is_file()


def _error(kind: str, message: str, details: str, extra: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "message": message, "details": details, "extra_info": extra}


def upstream(graph: Graph) -> list[str]:
    """Return every node that an output needs, in an order in which they can run."""
    order: list[str] = []

    def visit(name: str) -> None:
        if name not in order:
            for value in graph[name]["inputs"].values():
                if is_link(value):
                    visit(value[0])
            order.append(name)

    for name, node in graph.items():
        if node["class_type"].startswith("Save"):
            visit(name)
    return order


def signature(graph: Graph, name: str) -> str:
    """Return what makes a node the same as one of an earlier prompt."""
    node = graph[name]
    inputs = {
        field: [signature(graph, value[0]), value[1]] if is_link(value) else value
        for field, value in node["inputs"].items()
    }
    return hashlib.sha256(json.dumps([node["class_type"], inputs], sort_keys=True).encode()).hexdigest()


def preview(step: int, steps: int) -> bytes:
    """Return a small JPEG."""
    out = io.BytesIO()
    Image.new("RGB", (64, 64), (255 * step // steps, 80, 0)).save(out, "JPEG")
    return out.getvalue()


def run_node(graph: Graph, name: str, folder: Path, content: bytes | None = None) -> dict[str, Any] | None:
    """Run a node as far as it can be seen from outside: return what it saved, which is `content` if there is any."""
    node = graph[name]
    kind = node["class_type"]
    if kind == "NoMemory":
        raise Failure("Allocation on device\nin /srv/comfy/model.py", "torch.OutOfMemoryError")
    if kind == "LoadImage":
        _load(folder / "input" / node["inputs"]["image"])
    if not kind.startswith("Save"):
        return None
    saved = _saved(graph, name, folder)
    if content is not None:
        (folder / "output" / saved[0]["subfolder"] / saved[0]["filename"]).write_bytes(content)
    return {"images": saved} | ({"animated": [True]} if kind == "SaveVideo" else {})


def _load(file: Path) -> Image.Image:
    try:
        with Image.open(file) as opened:
            return opened.convert("RGB")
    except UnidentifiedImageError as error:
        raise Failure(f"cannot identify image file '{file}'\n", "PIL.UnidentifiedImageError") from error


def _saved(graph: Graph, name: str, folder: Path) -> list[dict[str, str]]:
    prefix = graph[name]["inputs"]["filename_prefix"]
    subfolder, _, stem = prefix.rpartition("/")
    place = folder / "output" / subfolder
    place.mkdir(parents=True, exist_ok=True)
    is_video = graph[name]["class_type"] == "SaveVideo"
    filename = f"{stem}_{len(list(place.iterdir())) + 1:05}_.{'mp4' if is_video else 'png'}"
    above = [graph[node] for node in upstream(graph)]
    if is_video:
        _save_video(place / filename, above)
    else:
        _picture(above, folder).save(place / filename)
    return [{"filename": filename, "subfolder": subfolder, "type": "output"}]


def _picture(above: list[dict[str, Any]], folder: Path) -> Image.Image:
    picture = Image.new("RGB", (64, 64))
    for node in above:
        inputs = node["inputs"]
        if node["class_type"] == "LoadImage":
            picture = _load(folder / "input" / inputs["image"])
        elif "width" in inputs:
            colour = inputs.get("color", 0x808080)
            channels = (colour >> 16, colour >> 8 & 255, colour & 255)
            picture = Image.new("RGB", (inputs["width"], inputs["height"]), channels)
        elif node["class_type"] == "KSampler":
            picture.putpixel((0, 0), (inputs["seed"] % 256, inputs["steps"] % 256, 1))
        elif node["class_type"] == "ImageInvert":
            picture = ImageOps.invert(picture)
    return picture


def _save_video(file: Path, above: list[dict[str, Any]]) -> None:
    size = next(node["inputs"] for node in above if "length" in node["inputs"])
    rate = next(node["inputs"]["fps"] for node in above if "fps" in node["inputs"])
    with Mp4Writer(file, (size["width"], size["height"]), int(rate), "comfy's own", encoder="stand-in") as video:
        for number in range(size["length"]):
            video.add(Image.new("RGB", (size["width"], size["height"]), (number * 5 % 256, 40, 90)))
