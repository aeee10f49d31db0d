"""What a prompt asks for, as far as a draughtsman with a word list can tell.

Words are looked up whole in Latin script, and as parts of the text in scripts that do not put spaces between words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from .lexicon import FOREIGN, HOURS, MEDIA, SCENES, SUBJECTS, WEATHERS
from .palette import HUES, Hue

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")


@dataclass(frozen=True, slots=True)
class Reading:
    """What was understood. `hues` come in the prompt's order; `subject_hue` is a colour that names the subject alone."""

    scene: str
    hour: str
    weathers: tuple[str, ...]
    medium: str
    hues: tuple[Hue, ...]
    subject_hue: Hue | None
    words: frozenset[str]

    def has(self, *words: str) -> bool:
        return any(word in self.words for word in words)


def words_of(text: str) -> list[str]:
    """The words of a text, lower-case, in order."""
    return [word.lower() for word in _WORD.findall(unicodedata.normalize("NFKC", text))]


def read(prompt: str, negative_prompt: str = "") -> Reading:
    """Read a prompt; what the negative prompt names is left out of weather, hours and colours."""
    refused = set(words_of(negative_prompt))
    words = [word for word in _with_translations(prompt) if word not in refused]
    singular = [_singular(word) for word in words]
    scene = _scene(singular)
    hues = [HUES[word] for word in words if word in HUES]
    return Reading(
        scene=scene,
        hour=_first(singular, HOURS) or _default_hour(scene),
        weathers=tuple(dict.fromkeys(WEATHERS[word] for word in singular if word in WEATHERS)),
        medium=_first(singular, MEDIA) or "gouache",
        hues=tuple(hues[:3]),
        subject_hue=_subject_hue(singular, scene) if len(hues) == 1 else None,
        words=frozenset(words) | frozenset(singular),
    )


def _with_translations(prompt: str) -> list[str]:
    words = words_of(prompt)
    text = unicodedata.normalize("NFKC", prompt)
    whole = set(words)
    # A Latin word counts whole ("mer" is not in "summer"); other scripts run words together.
    found = sorted(
        (text.find(part), meaning)
        for part, meaning in FOREIGN.items()
        if (part.lower() in whole if part.isascii() or _is_latin(part) else part in text)
    )
    return words + [word for _, meaning in found for word in meaning.split()]


def _is_latin(text: str) -> bool:
    return all(unicodedata.name(character, "").startswith("LATIN") for character in text)


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us")) else word


def _first(words: Iterable[str], table: dict[str, str]) -> str | None:
    return next((table[word] for word in words if word in table), None)


def _scene(words: list[str]) -> str:
    """The scene with the most weight of words; the earlier a word, the more it counts."""
    scores: dict[str, float] = {}
    for place, word in enumerate(words):
        for scene, weight in SCENES.get(word, ()):
            scores[scene] = scores.get(scene, 0.0) + weight * (1 - 0.5 * place / max(12, len(words)))
    return max(scores, key=lambda scene: (scores[scene], scene)) if scores else "abstract"


def _default_hour(scene: str) -> str:
    return {
        "alley": "night",
        "harbour": "dusk",
        "space": "night",
        "market": "sunset",
        "portrait": "dusk",
        "cat": "dusk",
        "room": "dusk",
    }.get(scene, "day")


def _subject_hue(words: list[str], scene: str) -> Hue | None:
    """The colour in "a red bicycle": it names the subject, so the rest of the picture stays as it is."""
    for color, noun in pairwise(words):
        if color in HUES and noun in SUBJECTS.get(scene, ()):
            return HUES[color]
    return None
