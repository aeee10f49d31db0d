"""What weights of SDXL can do. Needs no library."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from atelier_worker.engines.features import NO_TEXTS, Row, row

SDXL = "StableDiffusionXLPipeline"

_PICTURES_ONLY = "This model makes pictures and no videos: ask for format image, or choose another model."
_REFUSED = {
    "style": "This model takes no style reference: leave it out, or describe the style in the prompt.",
    "composition": "This model takes no composition reference: leave it out, or send the picture as kind init.",
    "first_frame": "This model makes pictures and takes no first frame: send the picture as kind init.",
    "last_frame": "This model makes pictures and takes no last frame: leave it out.",
    "first_and_last_frame": "This model makes pictures and takes no first and last frame: leave them out.",
}

FEATURES: Mapping[str, Row] = MappingProxyType(
    {
        SDXL: row(
            ("text_to_image", "init", "mask", "negative_prompt", "guidance", "scheduler", "loras"),
            _PICTURES_ONLY,
            {**NO_TEXTS, **_REFUSED},
        )
    }
)
