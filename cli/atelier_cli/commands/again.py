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
        request, notes = request_of(path, as_enhanced=arguments.as_enhanced)
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


def request_of(path: Path, *, as_enhanced: bool) -> tuple[dict[str, Any], list[str]]:
    """Return the request that a file's own words make, and what they do not say.

    Of an enhanced prompt it has what its owner wrote, and asks for an enhancement; or, `as_enhanced`, what came of it.

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
            **_size(settings),
            "steps": int(settings["steps"]),
        }
        if "frames" in settings:
            request["duration_seconds"] = int(settings["frames"]) / int(settings["fps"])
            request["frame_rate"] = int(settings["fps"])
        request |= {name: settings[name] for name in ("guidance", "scheduler", "loras") if name in settings}
        if not as_enhanced and (made.get("original_prompt") or made.get("enhanced_by")):
            request["prompt"] = str(made.get("original_prompt") or made["prompt"])
            request["enhance_prompt"] = True
        return request, _notes(made, settings, as_enhanced=as_enhanced)
    except (TypeError, KeyError, ValueError, AttributeError, ZeroDivisionError):
        raise UsageError(
            f"{path} does not say how it was made: its engine did not write it, or another program left it out. "
            "Of what is in the library give the item's id."
        ) from None


def _size(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the shape as it was asked for; the very size where that was asked for, and of older files."""
    if settings.get("aspect_ratio") in ASPECTS:
        return {"aspect_ratio": settings["aspect_ratio"]}
    return {"width": int(settings["width"]), "height": int(settings["height"])}


def _notes(made: Mapping[str, Any], settings: Mapping[str, Any], *, as_enhanced: bool) -> list[str]:
    notes = []
    if made.get("original_prompt") and as_enhanced:
        notes.append(f"the prompt is the enhanced one; it was given as: {made['original_prompt']}")
    elif made.get("original_prompt"):
        notes.append(f"its prompt was enhanced, as --as-enhanced has it, to: {made['prompt']}")
    if settings.get("references"):
        count = len(settings["references"])
        which = "the reference picture is" if count == 1 else f"the {count} reference pictures are"
        notes.append(f"{which} not in the file: add what is missing to the request")
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
