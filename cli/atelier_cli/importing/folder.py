"""What a file of a gallery says of itself: whichever tool wrote it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from atelier_cli.importing import automatic1111, comfyui, invokeai
from atelier_cli.importing.described import Described

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".avif", ".gif"})
VIDEOS = frozenset({".mp4", ".webm", ".mov", ".m4v", ".mkv"})

_PARSERS: Mapping[str, Callable[[str], Described | None]] = {
    "invokeai_metadata": invokeai.parse_metadata,
    "sd-metadata": invokeai.parse_sd_metadata,
    "Dream": invokeai.parse_dream,
    "parameters": automatic1111.parse,
    "UserComment": automatic1111.parse,
}


def describe(texts: Mapping[str, str], beside: str = "") -> Described:
    """Return what the texts of a file say, or else a text file beside it; a note says what could not be read.

    Args:
        texts: by name, as `texts.texts_of` returns them.
        beside: a text file of the same name, as AUTOMATIC1111 writes it on demand.
    """
    notes: list[str] = []
    for name, parse in _PARSERS.items():
        if found := _tried(name, lambda parse=parse, name=name: parse(texts[name]), texts, notes):  # type: ignore[misc]
            return replace(found, notes=tuple(notes)).within_limits()
    if "prompt" in texts or "workflow" in texts:
        both = texts.get("prompt", ""), texts.get("workflow", "")
        for graphs in (both, ("", both[1])):
            try:
                graph = comfyui.parse(*graphs)
            except ValueError as error:
                notes.append(f"its graph {_shortened(error)}")
                continue
            if graph is not None:
                return replace(graph, notes=tuple(notes)).within_limits()
    found = automatic1111.parse(beside) if beside else None
    return replace(found or Described(), notes=tuple(notes)).within_limits()


def _tried(
    name: str, parse: Callable[[], Described | None], texts: Mapping[str, str], notes: list[str]
) -> Described | None:
    if name not in texts:
        return None
    try:
        return parse()
    except ValueError as error:
        notes.append(f"its text {name} {_shortened(error)}")
        return None


def _shortened(error: ValueError) -> str:
    return f"cannot be read: {str(error)[:200]}"
