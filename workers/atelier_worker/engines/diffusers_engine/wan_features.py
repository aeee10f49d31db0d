"""What weights of Wan can do: five kinds of them, told apart by how they are configured. Needs no library."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from atelier_worker.engines.features import NO_TEXTS, Row, row

TEXT = "WanPipeline"
TEXT_OR_FIRST = "WanPipeline, expanded timesteps"
FIRST = "WanImageToVideoPipeline"
FIRST_AND_LAST = "WanImageToVideoPipeline, two frames"
FREE = "WanImageToVideoPipeline, no image encoder"

_CLASSES = ("WanPipeline", "WanImageToVideoPipeline")
_ALWAYS = ("negative_prompt", "guidance", "scheduler", "loras")
_VIDEOS_ONLY = "This model makes videos and no pictures: ask for format video, or choose another model."
_TEXT_ONLY = "This model makes videos from text alone: leave out first_frame and last_frame, or choose another model."
_NO_LAST = "This model begins with a first frame but cannot be told the last one: leave out last_frame."
_NEEDS_FIRST = "This model makes a video from its first frame: send a reference of kind first_frame."
_NEEDS_BOTH = "This model makes a video between two frames: send references of kind first_frame and of kind last_frame."
_REFERENCES = {
    kind: f"This model makes videos and takes no reference of kind {kind}: leave it out."
    for kind in ("init", "mask", "style", "composition")
}


def _row(*can: str, **refused: str) -> Row:
    return row((*_ALWAYS, *can), _VIDEOS_ONLY, {**NO_TEXTS, **_REFERENCES, **refused})


FEATURES: Mapping[str, Row] = MappingProxyType(
    {
        TEXT: _row(
            "text_to_video", first_frame=_TEXT_ONLY, first_and_last_frame=_TEXT_ONLY, last_frame=_TEXT_ONLY
        ),
        TEXT_OR_FIRST: _row("text_to_video", "first_frame", first_and_last_frame=_NO_LAST, last_frame=_NO_LAST),
        FIRST: _row("first_frame", text_to_video=_NEEDS_FIRST, first_and_last_frame=_NO_LAST, last_frame=_NEEDS_FIRST),
        FIRST_AND_LAST: _row(
            "first_and_last_frame", text_to_video=_NEEDS_BOTH, first_frame=_NEEDS_BOTH, last_frame=_NEEDS_BOTH
        ),
        FREE: _row(
            "first_frame", "first_and_last_frame", text_to_video=_NEEDS_FIRST, last_frame=_NEEDS_FIRST
        ),
    }
)  # fmt: skip


def name_of(pipeline: Any) -> str | None:
    """Return which row of `FEATURES` a loaded pipeline has; None when it is none of Wan's."""
    kind = type(pipeline).__name__
    if kind not in _CLASSES:
        return None
    transformer = pipeline.transformer if pipeline.transformer is not None else pipeline.transformer_2
    return _name(kind, pipeline.config, transformer.config)


def name_in(folder: Path) -> str | None:
    """Return which row of `FEATURES` the weights in a folder will have, before they are loaded.

    None when they are none of Wan's, or do not say.
    """
    try:
        index = json.loads((folder / "model_index.json").read_text("utf-8"))
        models = ("transformer" if index["transformer"][1] else "transformer_2", index["_class_name"])
        transformer = json.loads((folder / models[0] / "config.json").read_text("utf-8"))
        return _name(models[1], index, transformer) if models[1] in _CLASSES else None
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        # Whatever is wrong here is said when they are loaded.
        return None


def _name(kind: str, pipeline: Mapping[str, Any], transformer: Mapping[str, Any]) -> str:
    if pipeline.get("expand_timesteps"):
        return TEXT_OR_FIRST
    if kind == "WanPipeline":
        return TEXT
    if transformer.get("image_dim") is None:
        return FREE
    return FIRST if transformer.get("pos_embed_seq_len") is None else FIRST_AND_LAST
