"""What weights of SDXL can do. Needs no library."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from atelier_worker.engines.diffusers_engine.settings import ModelSettings
from atelier_worker.engines.features import NO_TEXTS, Row, row

SDXL = "StableDiffusionXLPipeline"
GUIDED = "StableDiffusionXLPipeline with ip_adapter and controlnet"

_PICTURES_ONLY = "This model makes pictures and no videos: ask for format image, or choose another model."
_REFUSED = {
    "style": "This model takes no style reference: leave it out, or describe the style in the prompt.",
    "composition": "This model takes no composition reference: leave it out, or send the picture as kind init.",
    "first_frame": "This model makes pictures and takes no first frame: send the picture as kind init.",
    "last_frame": "This model makes pictures and takes no last frame: leave it out.",
    "first_and_last_frame": "This model makes pictures and takes no first and last frame: leave them out.",
}

_CAN = ("text_to_image", "init", "mask", "negative_prompt", "guidance", "scheduler", "loras")
_BESIDE = ("style", "composition")

FEATURES: Mapping[str, Row] = MappingProxyType(
    {
        SDXL: row(_CAN, _PICTURES_ONLY, {**NO_TEXTS, **_REFUSED}),
        GUIDED: row(
            (*_CAN, *_BESIDE),
            _PICTURES_ONLY,
            {**NO_TEXTS, **{name: said for name, said in _REFUSED.items() if name not in _BESIDE}},
        ),
    }
)


def row_of(settings: ModelSettings) -> Row:
    """The row of a model: what its IP-Adapter and its ControlNet add, where it has them."""
    added = {"style": settings.ip_adapter is not None, "composition": settings.controlnet is not None}
    return {**FEATURES[SDXL], **{name: FEATURES[GUIDED][name] for name, there in added.items() if there}}
