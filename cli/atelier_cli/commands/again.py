"""`atelier again`: the request that makes something again, from the library or from what a file says of itself."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atelier_cli.context import Context
from atelier_cli.exits import OK, UsageError
from atelier_cli.parser import ASPECTS

_KEY = "atelier"
_ITEM = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PNG = b"\x89PNG\r\n\x1a\n"


def again(context: Context) -> int:
    """Print the request that makes an item or a file again; with `--submit` hand it in."""
    arguments = context.arguments
    path = Path(arguments.thing)
    if path.is_file():
        request, notes = request_of(path)
        for note in notes:
            context.note(note)
    elif _ITEM.fullmatch(arguments.thing):
        with context.client() as client:
            request = client.recipe(arguments.thing, as_enhanced=arguments.as_enhanced)
    else:
        raise UsageError(f"{arguments.thing} is neither a file nor the id of an item.")
    if not arguments.submit:
        context.print(json.dumps(request, ensure_ascii=False, indent=2))
        return OK
    from atelier_client import Lora, ReferenceImage

    options = {name: value for name, value in request.items() if value is not False and value not in ("", None, [])}
    prompt, model = options.pop("prompt"), options.pop("model")
    options["reference_images"] = [
        ReferenceImage(each["asset_id"], each["kind"], each.get("strength"))
        for each in options.pop("reference_images", ())
    ]
    options["loras"] = [Lora(each["name"], each.get("weight")) for each in options.pop("loras", ())]
    with context.client() as client:
        submitted = client.submit(prompt, model=model, **options)
    context.print_json(submitted.raw) if context.json else context.print(submitted.job_id)
    return OK


def request_of(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the request that a file's own words make, and what they do not say.

    Raises:
        UsageError: the file does not say how it was made, or not in our words.
        OSError: it cannot be read.
    """
    said = _said(path)
    try:
        made: Any = json.loads(said) if said else None
        settings: Any = made["settings"]
        request: dict[str, Any] = {
            "prompt": str(made["prompt"]),
            "negative_prompt": str(made.get("negative_prompt", "")),
            "model": str(made["model"]),
            "format": "video" if "frames" in settings else "image",
            "quantity": 1,
            "seed": int(made["seed"]),
            "quality": str(settings["quality"]),
            "aspect_ratio": _nearest_aspect(int(settings["width"]), int(settings["height"])),
            "steps": int(settings["steps"]),
        }
        if "frames" in settings:
            request["duration_seconds"] = int(settings["frames"]) / int(settings["fps"])
            request["frame_rate"] = int(settings["fps"])
        request |= {name: settings[name] for name in ("guidance", "scheduler", "loras") if name in settings}
        return request, _notes(made, settings)
    except (TypeError, KeyError, ValueError, AttributeError, ZeroDivisionError):
        raise UsageError(f"{path} does not say how it was made: only files that Atelier made do.") from None


def _notes(made: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    notes = []
    if made.get("original_prompt"):
        notes.append(f"the prompt is the enhanced one; it was given as: {made['original_prompt']}")
    if settings.get("references"):
        notes.append(f"{len(settings['references'])} reference pictures are not in the file: add them to the request")
    return notes


def _said(path: Path) -> str:
    """Return what a file says under our key: in a text of a PNG, or in the metadata of a video."""
    with path.open("rb") as file:
        if file.read(len(_PNG)) == _PNG:
            from service_kit.descriptions.texts import texts_of

            file.seek(0)
            return texts_of(file).get(_KEY, "")
    import av

    try:
        with av.open(str(path)) as container:
            return container.metadata.get(_KEY, "")
    except (av.FFmpegError, ValueError):
        return ""


def _nearest_aspect(width: int, height: int) -> str:
    """Return the ratio that a size was rounded from: sizes are multiples of 8 or 16, so the nearest one."""

    def distance(aspect: str) -> float:
        wide, _, high = aspect.partition(":")
        return abs(width / height / (int(wide) / int(high)) - 1)

    return min(ASPECTS, key=distance)
