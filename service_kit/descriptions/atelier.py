"""What Atelier writes into its files under the key `atelier`: JSON with prompts, model, seed and settings."""

from __future__ import annotations

from typing import Any

from service_kit.descriptions.described import Described, clean, count, fraction, model_name, read_json, whole

KEY = "atelier"
# As the API takes them.
_LONGEST_SCHEDULER, _LONGEST_NAME = 64, 100
_MOST_LORAS, _MOST_WEIGHT = 8, 4
_PARTS_OF_ENHANCER = ("engine", "model", "template", "template_version")
_QUALITIES = frozenset({"draft", "standard", "high"})


def parse(text: str) -> Described | None:
    """Return what the text says; None when it says no prompt. Raises ValueError for what is no JSON."""
    made = read_json(text)
    if not isinstance(made, dict) or not clean(made.get("prompt")):
        return None
    found = made.get("settings")
    settings = found if isinstance(found, dict) else {}
    prompt, original = clean(made.get("prompt")), clean(made.get("original_prompt"))
    by = _enhanced_by(made.get("enhanced_by"))
    quality = clean(settings.get("quality"))
    return Described(
        tool=KEY,
        prompt=original or prompt,
        negative_prompt=clean(made.get("negative_prompt")),
        enhanced_prompt=prompt if original or by else "",
        enhanced_by=by,
        model=model_name(made.get("model")),
        seed=whole(made.get("seed")),
        width=count(settings.get("width")),
        height=count(settings.get("height")),
        steps=count(settings.get("steps")),
        quality=quality if quality in _QUALITIES else "",
        frames=count(settings.get("frames")),
        frame_rate=count(settings.get("fps")),
        guidance=fraction(settings.get("guidance")),
        scheduler=clean(settings.get("scheduler"))[:_LONGEST_SCHEDULER],
        loras=_loras(settings.get("loras")),
    )


def _enhanced_by(said: Any) -> tuple[tuple[str, str], ...]:
    """Return the parts of what wrote an enhanced prompt that are said."""
    found = said if isinstance(said, dict) else {}
    parts = ((name, clean(found.get(name))[:_LONGEST_NAME]) for name in _PARTS_OF_ENHANCER)
    return tuple((name, part) for name, part in parts if part)


def _loras(said: Any) -> tuple[tuple[str, float], ...]:
    """Return the LoRAs of a list of names and weights, without what can be none."""
    found: dict[str, float] = {}
    for one in said[:_MOST_LORAS] if isinstance(said, list) else ():
        name, weight = (clean(one.get("name")), one.get("weight")) if isinstance(one, dict) else ("", None)
        if not isinstance(weight, (int, float)) or isinstance(weight, bool):
            continue
        if 0 < len(name) <= _LONGEST_NAME and abs(weight) <= _MOST_WEIGHT:
            found.setdefault(name, float(weight))
    return tuple(found.items())
