"""What InvokeAI writes into PNG: `invokeai_metadata` (version 3 and later), `sd-metadata` (2), and `Dream` (1 and 2).

`invokeai_metadata` is flat JSON. `sd-metadata` is JSON whose `image` has the prompt as a text or as weighted parts.
`Dream` is the command: `"a prompt" -s 50 -S 42 -W 512 -H 512 -C 7.5 -A k_lms`. In the older two the negative prompt
stands in square brackets within the prompt.
"""

from __future__ import annotations

from typing import Any

from service_kit.descriptions.described import Described, clean, count, fraction, model_name, read_json, whole

_LONGEST_COMMAND = 1 << 16
_MOST_PARTS = 1000


def parse_metadata(text: str) -> Described | None:
    """Return what `invokeai_metadata` says; None when it says nothing. Raises ValueError for what is no JSON."""
    said = read_json(text)
    if not isinstance(said, dict):
        return None
    model = said.get("model")
    if isinstance(model, dict):
        model = next((model[name] for name in ("name", "model_name", "key") if model.get(name)), "")
    styles = (clean(said.get(f"{kind}_style_prompt")) for kind in ("positive", "negative"))
    prompt, negative = (
        "\n".join(part for part in (clean(said.get(f"{kind}_prompt")), style) if part)
        for kind, style in zip(("positive", "negative"), styles, strict=True)
    )
    found = Described(
        tool="invokeai",
        prompt=prompt,
        negative_prompt=negative,
        model=model_name(model),
        seed=whole(said.get("seed")),
        width=count(said.get("width")),
        height=count(said.get("height")),
        steps=count(said.get("steps")),
        sampler=clean(said.get("scheduler")),
        guidance=fraction(said.get("cfg_scale")),
    )
    return found if found != Described(tool="invokeai") else None


def parse_sd_metadata(text: str) -> Described | None:
    """Return what `sd-metadata` says; None when it says nothing. Raises ValueError for what is no JSON."""
    said = read_json(text)
    image = said.get("image") if isinstance(said, dict) else None
    if not isinstance(image, dict):
        return None
    prompt, negative = in_brackets(_weighted(image.get("prompt")))
    return Described(
        tool="invokeai",
        prompt=prompt,
        negative_prompt=negative,
        model=model_name(said.get("model_weights") or said.get("model")),
        seed=whole(image.get("seed")),
        width=count(image.get("width")),
        height=count(image.get("height")),
        steps=count(image.get("steps")),
        sampler=clean(image.get("sampler")),
        guidance=fraction(image.get("cfg_scale")),
    )


def parse_dream(text: str) -> Described | None:
    """Return what `Dream` says; None for a text that is no such command."""
    text = text.strip()
    if not text.startswith('"') or len(text) > _LONGEST_COMMAND:
        return None
    # The prompt may have quotation marks of its own; the last one before the options ends it.
    end = text.find('" -', 1)
    end = text.rfind('"') if end < 0 else end
    if end <= 0:
        return None
    prompt, negative = in_brackets(clean(text[1:end]))
    options = _options(text[end + 1 :].split())
    return Described(
        tool="invokeai",
        prompt=prompt,
        negative_prompt=negative,
        seed=whole(options.get("-S", "")),
        width=count(options.get("-W", "")),
        height=count(options.get("-H", "")),
        steps=count(options.get("-s", "")),
        sampler=clean(options.get("-A", "")),
        guidance=fraction(options.get("-C", "")),
    )


def in_brackets(prompt: str) -> tuple[str, str]:
    """Return a prompt without what stands in square brackets, and that: the negative prompt."""
    outside: list[str] = []
    inside: list[str] = []
    rest = prompt
    while rest:
        before, bracket, after = rest.partition("[")
        within, closing, behind = after.partition("]")
        if not bracket or not closing:
            outside.append(rest)
            break
        outside.append(before)
        inside.append(within.strip())
        rest = behind
    return " ".join(part for text in outside if (part := text.strip())), ", ".join(part for part in inside if part)


def _weighted(prompt: Any) -> str:
    if isinstance(prompt, list):
        parts = (part.get("prompt") if isinstance(part, dict) else part for part in prompt[:_MOST_PARTS])
        return " ".join(text for text in map(clean, parts) if text)
    return clean(prompt)


def _options(words: list[str]) -> dict[str, str]:
    """Return `-S 42`, `-S42` and `-S=42` by their letter; the first one counts."""
    found: dict[str, str] = {}
    for place, word in enumerate(words):
        if len(word) < 2 or word[0] != "-" or word[1] == "-":
            continue
        value = word[2:].lstrip("=") or (words[place + 1] if place + 1 < len(words) else "")
        found.setdefault(word[:2], value)
    return found
