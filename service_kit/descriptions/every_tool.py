"""What a file says of itself: whichever tool wrote it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from service_kit.descriptions import atelier, automatic1111, comfyui, invokeai
from service_kit.descriptions.described import Described, read_json
from service_kit.descriptions.texts import TooLong, texts_of

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".avif", ".gif"})
VIDEOS = frozenset({".mp4", ".webm", ".mov", ".m4v", ".mkv"})

_GRAPHS = ("prompt", "workflow")
_PARSERS: Mapping[str, Callable[[str], Described | None]] = {
    atelier.KEY: atelier.parse,
    "invokeai_metadata": invokeai.parse_metadata,
    "sd-metadata": invokeai.parse_sd_metadata,
    "Dream": invokeai.parse_dream,
    "parameters": automatic1111.parse,
    "UserComment": automatic1111.parse,
}


def describe_file(path: Path) -> Described:
    """Return what a picture or a video says of itself; nothing for one that is broken. Blocks.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            found = texts_of(file)
    except TooLong as error:
        said = describe(error.found)
        return replace(said, notes=(str(error), *said.notes))
    return describe(found or _tags(path))


def _tags(path: Path) -> dict[str, str]:
    """Return the tags of a video. Some tools write theirs as JSON into its comment."""
    import av  # slow to import, and only needed for videos

    try:
        with av.open(str(path), mode="r", format="mp4") as container:
            tags = dict(container.metadata)
    except (av.FFmpegError, ValueError, EOFError):
        return {}
    try:
        said = read_json(tags.get("comment", ""))
    except ValueError:
        return tags
    named = said.items() if isinstance(said, dict) else ()
    told = {name: text if isinstance(text, str) else json.dumps(text) for name, text in named if name in _GRAPHS}
    return told | tags


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
