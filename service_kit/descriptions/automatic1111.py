"""The text `parameters` that AUTOMATIC1111's web UI writes into PNG, and into the user comment of JPEG and WebP.

The prompt, which may have many lines; then `Negative prompt: …`, which may have many lines, too; then one line of
settings, `Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512, Model hash: …, Model: …`. A value with a
comma or a quotation mark is a JSON text.
"""

from __future__ import annotations

import json
import re

from service_kit.descriptions.described import Described, clean, count, fraction, model_name, size, whole

_NEGATIVE = "Negative prompt:"
_KEY = re.compile(r"\s*([A-Za-z][A-Za-z0-9 _/()-]{0,60}):\s?")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_LEAST_SETTINGS = 3
_MOST_SETTINGS = 500
_LONGEST_LINE = 1 << 20


def parse(text: str) -> Described | None:
    """Return what the text says; None for one that this tool has not written."""
    if text.lstrip().startswith("{"):
        return None
    lines = text.replace("\r\n", "\n").strip().split("\n")
    values = settings(lines[-1])
    if len(values) < _LEAST_SETTINGS and "Steps" not in values:
        if not any(line.startswith(_NEGATIVE) for line in lines):
            return None
        values = {}
    else:
        lines.pop()
    prompt, negative = _prompts(lines)
    width, height = size(values.get("Size", ""))
    sampler = " ".join(part for part in (values.get("Sampler", ""), values.get("Schedule type", "")) if part)
    return Described(
        tool="automatic1111",
        prompt=prompt,
        negative_prompt=negative,
        model=model_name(values.get("Model", "")),
        seed=whole(values.get("Seed", "")),
        width=width,
        height=height,
        steps=count(values.get("Steps", "")),
        sampler=clean(sampler),
        guidance=fraction(values.get("CFG scale", "")),
    )


def settings(line: str) -> dict[str, str]:
    """Return the pairs of a line `Steps: 20, Model: "a, b"`; {} for a line that has none."""
    found: dict[str, str] = {}
    place = 0
    if len(line) > _LONGEST_LINE:
        return found
    while place < len(line) and len(found) < _MOST_SETTINGS:
        key = _KEY.match(line, place)
        if key is None:
            break
        place = key.end()
        quoted = _QUOTED.match(line, place)
        if quoted is not None:
            value, place = _unquoted(quoted[0]), quoted.end()
        else:
            end = line.find(",", place)
            end = len(line) if end < 0 else end
            value, place = line[place:end].strip(), end
        found.setdefault(key[1].strip(), value)
        place = line.find(",", place) + 1
        if not place:
            break
    return found


def _prompts(lines: list[str]) -> tuple[str, str]:
    prompt: list[str] = []
    negative: list[str] = []
    into = prompt
    for line in lines:
        if into is prompt and line.startswith(_NEGATIVE):
            into = negative
            into.append(line.removeprefix(_NEGATIVE))
        else:
            into.append(line)
    return clean("\n".join(prompt)), clean("\n".join(negative))


def _unquoted(text: str) -> str:
    try:
        value = json.loads(text)
    except ValueError:
        return text[1:-1]
    return value if isinstance(value, str) else text
