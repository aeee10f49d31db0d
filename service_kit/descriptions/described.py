"""What another system says about one file, and how its texts and numbers are read without trusting them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

MAX_TEXT = 16_000
"""The longest prompt that the API takes, in characters."""
MAX_JSON = 8 << 20
"""The longest JSON that is read, in characters."""

_LIMITS = {
    "prompt": MAX_TEXT,
    "negative_prompt": MAX_TEXT,
    "enhanced_prompt": MAX_TEXT,
    "model": 300,
    "sampler": 200,
}
_WHOLE = re.compile(r"[+-]?[0-9]{1,39}")
_FRACTION = re.compile(r"[+-]?[0-9]{1,9}(?:\.[0-9]{0,20})?")
_SIZE = re.compile(r"([0-9]{1,6})\s*[xX×]\s*([0-9]{1,6})")
_MODEL_FILE = re.compile(r"\.(?:safetensors|ckpt|pt|pth|bin|gguf|sft)$", re.IGNORECASE)
_MOST_PIXELS = 1_000_000


@dataclass(frozen=True, slots=True)
class Described:
    """How a file was made.

    Attributes:
        tool: `atelier`, `automatic1111`, `comfyui`, `invokeai` or `tables`; empty for a file that says nothing.
        seed: a whole number of any size as text; empty when it is not known.
        width: pixels that were asked for; 0 when it is not known, as for height and steps.
        guidance: how closely the engine followed the prompt.
        quality: `draft`, `standard` or `high`, of Atelier's own files; empty otherwise, as frames and their rate are 0,
            and as are the scheduler and the LoRAs, which are named as our workers name them.
        enhanced_by: of Atelier's own files the parts of what wrote the enhanced prompt, by name; none that is empty.
        made_at: when the file was made.
        notes: what could not be taken over, as sentences.
    """

    tool: str = ""
    prompt: str = ""
    negative_prompt: str = ""
    enhanced_prompt: str = ""
    model: str = ""
    seed: str = ""
    width: int = 0
    height: int = 0
    steps: int = 0
    sampler: str = ""
    guidance: float | None = None
    quality: str = ""
    frames: int = 0
    frame_rate: int = 0
    scheduler: str = ""
    loras: tuple[tuple[str, float], ...] = ()
    enhanced_by: tuple[tuple[str, str], ...] = ()
    made_at: datetime | None = None
    notes: tuple[str, ...] = ()

    def within_limits(self) -> Described:
        """Return it without the texts that are too long for the API; a note says so for each."""
        changes: dict[str, Any] = {}
        notes = list(self.notes)
        for name, limit in _LIMITS.items():
            text = getattr(self, name)
            if len(text) > limit:
                changes[name] = text[:limit]
                notes.append(f"{name} has {len(text)} characters; only the first {limit} were taken over")
        return replace(self, **changes, notes=tuple(notes)) if changes else self


def clean(value: object) -> str:
    """Return a text without control characters that no prompt needs and without halves of surrogates; else ""."""
    if not isinstance(value, str):
        return ""
    value = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return "".join(mark for mark in value if mark >= " " or mark in "\n\t").replace("\x7f", "").strip()


def whole(value: object) -> str:
    """Return a whole number as its text, whatever its size; "" for anything else, also for a truth value."""
    if isinstance(value, bool):
        return ""
    if isinstance(value, int):
        # Longer ones cannot be printed, and are no seeds.
        return str(value) if abs(value) < 10**39 else ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    text = value.strip() if isinstance(value, str) else ""
    return str(int(text)) if _WHOLE.fullmatch(text) else ""


def count(value: object) -> int:
    """Return a number of pixels or steps; 0 for what cannot be one."""
    text = whole(value)
    number = int(text) if text else 0
    return number if 0 < number <= _MOST_PIXELS else 0


def fraction(value: object) -> float | None:
    """Return a number that is not negative and not huge; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and _FRACTION.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, (int, float)) and 0 <= value <= _MOST_PIXELS:
        return float(value)
    return None


def size(text: object) -> tuple[int, int]:
    """Return width and height of a text such as `512x768`; zeros for anything else."""
    match = _SIZE.fullmatch(text.strip()) if isinstance(text, str) and len(text) < 40 else None
    return (count(match[1]), count(match[2])) if match else (0, 0)


def model_name(value: object) -> str:
    """Return the name of a model whose file is named: without folders and ending."""
    return _MODEL_FILE.sub("", clean(value).replace("\\", "/").rpartition("/")[2])


def read_json(text: str) -> Any:
    """Return what a JSON text means.

    Raises:
        ValueError: it is none, is too long, or is nested deeper than anything that a tool writes.
    """
    if len(text) > MAX_JSON:
        raise ValueError(f"has {len(text)} characters; at most {MAX_JSON} are read")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
