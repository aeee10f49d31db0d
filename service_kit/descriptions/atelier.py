"""What Atelier writes into its files under the key `atelier`: JSON with prompts, model, seed and settings."""

from __future__ import annotations

from service_kit.descriptions.described import Described, clean, count, model_name, read_json, whole

KEY = "atelier"
_QUALITIES = frozenset({"draft", "standard", "high"})


def parse(text: str) -> Described | None:
    """Return what the text says; None when it says no prompt. Raises ValueError for what is no JSON."""
    made = read_json(text)
    if not isinstance(made, dict) or not clean(made.get("prompt")):
        return None
    found = made.get("settings")
    settings = found if isinstance(found, dict) else {}
    prompt, original = clean(made.get("prompt")), clean(made.get("original_prompt"))
    quality = clean(settings.get("quality"))
    return Described(
        tool=KEY,
        prompt=original or prompt,
        negative_prompt=clean(made.get("negative_prompt")),
        enhanced_prompt=prompt if original else "",
        model=model_name(made.get("model")),
        seed=whole(made.get("seed")),
        width=count(settings.get("width")),
        height=count(settings.get("height")),
        steps=count(settings.get("steps")),
        quality=quality if quality in _QUALITIES else "",
        frames=count(settings.get("frames")),
        frame_rate=count(settings.get("fps")),
    )
