"""What can be asked of an upstream: the words of its API, by the shape of request that its models take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from atelier_worker.engines.features import OF_TEXTS, Row, row

_NO_PICTURES = "This model of an upstream writes texts: choose another model."
_NO_TEXTS = "This model of an upstream makes pictures: choose another model."
_NO_WORD = "This upstream makes pictures, and its API has no word for {}: leave it out."
_NO_VIDEOS = "This upstream makes pictures, and no videos: ask for format image, or choose another model."
_NO_CHANGES = "This upstream makes pictures from text alone: leave out the reference of kind {}, or take another model."
_CHANGES = ("init", "mask")


def _pictures(can: Iterable[str]) -> Row:
    able = frozenset(can)
    refused = dict.fromkeys(OF_TEXTS, _NO_TEXTS) | {"text_to_video": _NO_VIDEOS}
    refused |= {kind: _NO_CHANGES.format(kind) for kind in _CHANGES if kind not in able}
    refused |= {
        name: _NO_WORD.format(words)
        for name, words in (
            ("style", "a reference of kind style"),
            ("composition", "a reference of kind composition"),
            ("negative_prompt", "a negative prompt"),
            ("guidance", "guidance"),
            ("scheduler", "a scheduler"),
            ("loras", "a LoRA"),
        )
    }
    return row(able, _NO_VIDEOS, refused)


PICTURES: Mapping[str, Row] = MappingProxyType(
    {
        "plain": _pictures(("text_to_image", *_CHANGES)),
        "gpt-image": _pictures(("text_to_image", *_CHANGES)),
        "dall-e-3": _pictures(("text_to_image",)),
        "dall-e-2": _pictures(("text_to_image", *_CHANGES)),
    }
)
TEXTS: Row = row(OF_TEXTS, _NO_PICTURES)

FEATURES: Mapping[str, Row] = MappingProxyType({"chat": TEXTS, **PICTURES})
