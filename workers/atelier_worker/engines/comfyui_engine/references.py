"""References on their way to ComfyUI: named by their content, so that no name collides and none is anybody's path."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence

from PIL import Image, ImageChops

from atelier_worker.engine import Reference
from atelier_worker.engines.comfyui_engine.api import ComfyApi
from atelier_worker.engines.files import painted_by, read_upright
from service_kit.comfy_template import Target, Template


def send_references(api: ComfyApi, template: Template, references: Sequence[Reference]) -> dict[str, str]:
    """Upload what the template has a place for; return the kind → its name in ComfyUI.

    Raises:
        EngineError: a reference is no picture that can be read.
    """
    used = {one.kind: one for one in references if one.strength > 0 and one.kind in template.inputs}
    pictures = {kind: read_upright(one) for kind, one in used.items()}
    if "mask" in pictures:
        mask = painted_by(pictures.pop("mask"), used["mask"].strength)
        place = template.inputs["mask"][0]
        shared = next((kind for kind in pictures if place in template.inputs[kind]), None)
        if shared is not None:
            pictures[shared] = _with_mask(pictures[shared], mask)
        else:
            pictures["mask"] = _alone(mask, template, place)
    return {kind: _send(api, picture) for kind, picture in pictures.items()}


def _with_mask(picture: Image.Image, mask: Image.Image) -> Image.Image:
    """ComfyUI takes for a mask what a picture lets through: transparent is drawn anew."""
    both = picture.convert("RGBA")
    both.putalpha(ImageChops.invert(mask.resize(picture.size, Image.Resampling.BILINEAR)))
    return both


def _alone(mask: Image.Image, template: Template, place: Target) -> Image.Image:
    node = template.workflow[place.node]
    if node["class_type"] == "LoadImageMask" and node["inputs"].get("channel") in ("red", "green", "blue"):
        return mask.convert("RGB")
    return _with_mask(Image.new("RGB", mask.size), mask)


def _send(api: ComfyApi, picture: Image.Image) -> str:
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=1)
    content = out.getvalue()
    return api.upload(f"{hashlib.sha256(content).hexdigest()}.png", content, "image/png")
