"""Making a prompt richer: its own words first, then composition, light, palette, medium and a detail that fit it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from atelier_worker.engine import Context, EngineError, Task

from .language import is_english
from .lexicon import MEDIA
from .pace import pause
from .reading import read, words_of
from .rng import generator
from .vocabulary import COMPOSITION, DETAIL, FAMILIES, LIGHT, MEDIUM, PALETTE, TECHNIQUE

# By these it is known what wrote a prompt: another version when the same prompt and seed give another text.
TEMPLATE, TEMPLATE_VERSION = "sketch/words", "v1"
_STEPS = 12
_LEAST_WORDS = 15
_LANGUAGE_WARNING = (
    "The prompt was left as it is: the sketch engine adds words in English only, and this prompt is not in English."
)
# Words that may come more than once: they carry grammar, not content.
_GRAMMAR_WORDS = (
    "a an the of in on with and from by to at under over across through into between behind against its near along around "
    "while as where that toward below above out off up down for one than so each every only very few or"
)
GRAMMAR = frozenset(_GRAMMAR_WORDS.split())
_ENDINGS = ("ing", "ed", "ly", "es", "s", "e", "y")
_TOKEN = re.compile(r"\s*\S+")

# How the parts are put together: the text before each part. Parts after a full stop begin with a capital.
_PATTERNS: tuple[tuple[str, ...], ...] = (
    (", ", ", ", ", ", ", ", ", "),
    (". ", ", ", ". ", ", ", "; "),
    (", ", ". ", ", ", "; ", ", "),
    (": ", ", ", "; ", ", ", "; "),
    (", ", "; ", ". ", ", ", ", "),
)
_ORDERS: tuple[tuple[str, ...], ...] = (
    ("composition", "detail", "light", "palette", "medium"),
    ("detail", "light", "composition", "palette", "medium"),
    ("light", "detail", "palette", "composition", "medium"),
    ("medium", "composition", "light", "detail", "palette"),
    ("composition", "light", "detail", "medium", "palette"),
)


def run(task: Task, context: Context, step_delay: float) -> None:
    """Write the richer prompt word by word; a prompt that is not English is written as it is, with a warning.

    Raises:
        EngineError: the prompt is blank.
    """
    if not task.prompt.strip():
        raise EngineError("The prompt is blank: write at least one word to enhance.")
    if is_english(task.prompt):
        text = enhanced(task.prompt, task.seed)
    else:
        text = task.prompt
        context.warn(_LANGUAGE_WARNING)
    tokens = list(tokens_of(text))
    done = 0
    for number, token in enumerate(tokens, 1):
        context.write(token)
        step = _STEPS * number // len(tokens)
        if step > done:
            done = step
            context.progress(step, _STEPS, phase="writing")
        pause(step_delay * _STEPS / len(tokens), context)
    context.finish("stop", template=TEMPLATE, template_version=TEMPLATE_VERSION)


def tokens_of(text: str) -> Iterator[str]:
    """A text in pieces of one word and the space before it; together they are the text."""
    end = 0
    for found in _TOKEN.finditer(text):
        end = found.end()
        yield found.group()
    if end < len(text):
        yield text[end:]


def enhanced(prompt: str, seed: int) -> str:
    """The prompt, verbatim, and 15 to 60 words more. The same prompt and seed give the same text."""
    rng = generator("enhance", prompt, seed)
    order = _ORDERS[int(rng.integers(len(_ORDERS)))]
    joints = _PATTERNS[int(rng.integers(len(_PATTERNS)))]
    picker = _Picker(prompt, rng)
    parts = [part for part in (picker.pick(aspect) for aspect in order) if part]
    # A prompt that says nearly everything itself leaves few phrases that repeat nothing: any that still fits will do.
    spare = iter(("composition", "light", "medium", "palette", "detail"))
    while sum(len(words_of(part)) for part in parts) < _LEAST_WORDS and (aspect := next(spare, None)) is not None:
        parts += [part for part in (picker.pick(aspect, anywhere=True),) if part]
    return _joined(prompt, parts, joints)


def _joined(prompt: str, parts: Sequence[str], joints: Sequence[str]) -> str:
    text = prompt.rstrip()
    ended = text.endswith((".", "!", "?"))
    for place, part in enumerate(parts):
        joint = joints[place % len(joints)]
        if place == 0 and (ended or text.endswith((",", ";", ":", "-", "—", "–"))):
            joint = " "
        begins = joint == ". " or (place == 0 and ended)
        text += joint + (part[0].upper() + part[1:] if begins else part)
    return text if text.endswith(".") else text + "."


class _Picker:
    """Chooses phrases for one prompt, so that no content word comes twice and the prompt keeps its meaning."""

    def __init__(self, prompt: str, rng: np.random.Generator) -> None:
        self._rng = rng
        self._text = prompt
        self._before = read(prompt)
        self._medium = self._before.medium
        self._used = {stem(word) for word in words_of(prompt)}
        self._names_medium = any(word in MEDIA for word in words_of(prompt))

    def pick(self, aspect: str, *, anywhere: bool = False) -> str | None:
        """A phrase on an aspect; None when each of them repeats a word. `anywhere`: also from other subjects."""
        pools = self._pools(aspect)
        if anywhere:
            pools = [*pools, [phrase for table in _TABLES[aspect] for phrase in table]]
        for pool in pools:
            for place in self._rng.permutation(len(pool)):
                phrase = pool[int(place)]
                if self._fits(phrase, aspect):
                    if aspect == "medium":
                        self._medium = read(f"{self._text}, {phrase}").medium
                    self._used |= {stem(word) for word in words_of(phrase)}
                    self._text += f", {phrase}"
                    return phrase
        return None

    def _pools(self, aspect: str) -> list[Sequence[str]]:
        """The phrases on an aspect that suit the prompt, the most fitting pool first."""
        before = self._before
        family = FAMILIES[before.scene]
        match aspect:
            case "composition":
                return [COMPOSITION[family], COMPOSITION["open"]]
            case "light":
                return [*(LIGHT[weather] for weather in before.weathers), LIGHT[before.hour], LIGHT["day"]]
            case "palette":
                hour = "day" if before.hour not in PALETTE else before.hour
                return [PALETTE["named"]] if before.hues else [PALETTE[hour], PALETTE["day"], PALETTE["named"]]
            case "medium":
                return [TECHNIQUE[before.medium]] if self._names_medium else [MEDIUM[family], MEDIUM["open"]]
            case _:
                return [DETAIL.get(before.scene, DETAIL["abstract"])]

    def _fits(self, phrase: str, aspect: str) -> bool:
        content = [stem(word) for word in words_of(phrase) if word not in GRAMMAR]
        if len(set(content)) < len(content) or self._used & set(content):
            return False
        after, before = read(f"{self._text}, {phrase}"), self._before
        return (
            (after.scene, after.hour, after.weathers) == (before.scene, before.hour, before.weathers)
            and (not before.hues or after.hues == before.hues)
            and (after.medium == self._medium or (aspect == "medium" and not self._names_medium))
        )


_TABLES: dict[str, tuple[Sequence[str], ...]] = {
    "composition": tuple(COMPOSITION.values()),
    "light": tuple(LIGHT.values()),
    "palette": (PALETTE["named"],),
    "medium": tuple(TECHNIQUE.values()),
    "detail": (DETAIL["abstract"],),
}


def stem(word: str) -> str:
    """A word without its ending, so that "drifting" repeats "drift"."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word
