"""References beside SDXL's own weights: `style` by an IP-Adapter, `composition` by a ControlNet."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from atelier_worker.engine import EngineError
from atelier_worker.engines.diffusers_engine.models import Model, effective_dtype
from atelier_worker.engines.diffusers_engine.weights import adapter_file

_log = logging.getLogger(__name__)
_WEAK, _STRONG = 0.08, 0.16  # slopes of light, of 1 for black beside white


def apply_style(model: Model, strength: float | None) -> None:
    """Make a model look at a style reference with a strength of 0 to 1, or (None) be without.

    The caller holds the model's lock.

    Raises:
        EngineError: the IP-Adapter cannot be loaded; the model is then without.
    """
    pipeline = model.pipeline
    if strength is None:
        if model.styled:
            pipeline.unload_ip_adapter()
            model.styled = False
        return
    if not model.styled:
        try:
            _load_style(model)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            pipeline.unload_ip_adapter()
            if "out of memory" in str(error).lower():
                raise
            raise _unusable("ip_adapter", error) from error
        model.styled = True
    pipeline.set_ip_adapter_scale(strength)


def _load_style(model: Model) -> None:
    import torch
    from transformers import CLIPVisionModelWithProjection

    settings = model.settings.ip_adapter
    if settings is None:
        raise ValueError("the model has no IP-Adapter")
    file = adapter_file(settings)
    dtype = getattr(torch, effective_dtype(model.settings.dtype, model.device))
    encoder = CLIPVisionModelWithProjection.from_pretrained(
        str(file.parent / "image_encoder"), dtype=dtype, use_safetensors=True, local_files_only=True
    )
    model.pipeline.register_modules(image_encoder=encoder.to(model.device))
    model.pipeline.load_ip_adapter(
        str(file.parent), subfolder="", weight_name=file.name, image_encoder_folder=None, local_files_only=True
    )


def controlnet_of(model: Model) -> Any:
    """The ControlNet of a model, loaded by the first task that needs it. The caller holds the model's lock.

    Raises:
        EngineError: it cannot be loaded.
    """
    import torch
    from diffusers import ControlNetModel

    settings = model.settings.controlnet
    if model.controlnet is None and settings is not None:
        dtype = getattr(torch, effective_dtype(model.settings.dtype, model.device))
        try:
            loaded = ControlNetModel.from_pretrained(
                settings.source, dtype=dtype, use_safetensors=True, local_files_only=True
            )
            model.controlnet = loaded.to(model.device)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            if "out of memory" in str(error).lower():
                raise
            raise _unusable("controlnet", error) from error
    return model.controlnet


def edges(picture: Image.Image) -> Image.Image:
    """The outlines of a picture, white on black, one pixel wide, as ControlNets for edges know them (Canny, 1986).

    The light is softened, its slope taken, only the crest of a slope kept; of weak crests those beside strong ones.
    """
    light = np.asarray(picture.convert("L").filter(ImageFilter.GaussianBlur(1.4)), np.float32) / 255
    down, right = np.gradient(light)
    slope = np.hypot(down, right)
    around = np.pad(slope, 1)
    # The direction across the edge, in eighths of a turn; opposite ones are the same.
    eighth = np.round(np.arctan2(down, right) / (np.pi / 4)).astype(int) % 4
    crest = np.zeros(slope.shape, bool)
    rows, columns = slope.shape
    for number, (dy, dx) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        ahead = around[1 + dy : 1 + dy + rows, 1 + dx : 1 + dx + columns]
        behind = around[1 - dy : 1 - dy + rows, 1 - dx : 1 - dx + columns]
        crest |= (eighth == number) & (slope >= ahead) & (slope > behind)
    strong = Image.fromarray(crest & (slope > _STRONG / 2)).convert("L").filter(ImageFilter.MaxFilter(5))
    kept = crest & (slope > _WEAK / 2) & (np.asarray(strong) > 0)
    return Image.fromarray((kept * 255).astype(np.uint8)).convert("RGB")


def _unusable(what: str, error: Exception) -> EngineError:
    _log.error("guide_not_loaded guide=%s error=%s", what, error)
    return EngineError(f"The {what} of this model cannot be loaded; the worker's log says why.")
