"""What an item is found by: its words and labels as tokens, folded alike when they are written and when they are asked.

Both databases index the same tokens and compare them byte by byte, so both find the same items. A token is the owner's
tag, a letter for its kind, and what it says: nothing that a database could read as syntax.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from service_kit.identity import Owner

VERSION = 1
"""Grows when items are folded in another way; the migration that comes with it sets those of old versions to 0."""

LONGEST_WORD = 64
MOST_WORDS = 4000

_OWNER_TAG = 8
# Vowels of Indic scripts are marks too, of class 0; nuktas, voiced kana and viramas (7 to 9) tell words apart as well.
_KEPT_MARKS = frozenset({0, 7, 8, 9})
_VARIATIONS = frozenset(map(chr, range(0xFE00, 0xFE10)))
_LETTERS = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "æ": "ae", "œ": "oe", "ı": "i", "ـ": ""})
# Written without spaces: Han, kana, Hangul, Bopomofo, Thai, Lao, Myanmar, Khmer.
_SPACELESS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
_RUN = re.compile(f"([{_SPACELESS}]+)|([^{_SPACELESS}]+)")


@dataclass(frozen=True, slots=True)
class Facts:
    """What an item says of itself and never changes: prompts as given and as enhanced, model, seed, format."""

    prompts: tuple[str, ...]
    model: str
    seed: int | None
    format: str


@dataclass(frozen=True, slots=True)
class Labels:
    """What its owner says of an item."""

    title: str = ""
    tags: tuple[str, ...] = ()
    is_favourite: bool = False
    collection_ids: tuple[str, ...] = ()


NO_LABELS = Labels()


@dataclass(frozen=True, slots=True)
class Asked:
    """Tokens that an item must all have, and the beginning of one more; None when any will do."""

    tokens: tuple[str, ...] = ()
    prefix: str | None = None

    def __bool__(self) -> bool:
        """Tell whether anything is asked."""
        return bool(self.tokens) or self.prefix is not None


def fold(text: str) -> str:
    """Return a text as it is compared: without case, marks, widths and ligatures."""
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    bare = "".join(char for char in plain if unicodedata.combining(char) in _KEPT_MARKS and char not in _VARIATIONS)
    return unicodedata.normalize("NFC", bare.translate(_LETTERS))


def fold_label(text: str) -> str:
    """Return a tag, title or name as it is compared and sorted: folded, with single spaces."""
    return " ".join(fold(text).split())


def words_of(text: str) -> list[str]:
    """Return the words of a text, folded, in order; of a script without spaces every character and every pair."""
    return [word for run in _runs(text) for word in (_grams(run) if _is_spaceless(run) else [run[:LONGEST_WORD]])]


def tokens_of(owner: Owner, facts: Facts, labels: Labels) -> str:
    """Return every token of an item, each once, with a space before and after each."""
    texts = (*facts.prompts, labels.title, *labels.tags)
    words = dict.fromkeys(f"w{word}" for text in texts for word in words_of(text))
    found = dict.fromkeys([*_narrow(facts.format, facts.model, facts.seed, labels), *list(words)[:MOST_WORDS]])
    tag = owner_tag(owner)
    return "".join(f" {tag}{token}" for token in sorted(found)) + " "


def asked(
    owner: Owner, text: str, *, format: str | None, model: str | None, seed: int | None, labels: Labels
) -> Asked | None:
    """Return what an item must have. None when nothing can: the text has signs, but no word.

    The last word of the text may be the beginning of one.
    """
    tag = owner_tag(owner)
    narrow = [tag + token for token in _narrow(format, model, seed, labels)]
    runs = list(_runs(text))
    if not runs:
        return None if text.strip() else Asked(tuple(narrow))
    *whole, last = runs
    words: list[str] = [word for run in whole for word in _demanded(run)]
    if _is_spaceless(last):
        return Asked((*narrow, *dict.fromkeys(f"{tag}w{word}" for word in (*words, *_demanded(last)))))
    return Asked((*narrow, *dict.fromkeys(f"{tag}w{word}" for word in words)), f"{tag}w{last[:LONGEST_WORD]}")


@lru_cache(maxsize=1024)
def owner_tag(owner: Owner) -> str:
    """Return what every token of an owner begins with: in the index each owner's words are words of their own."""
    return _digest(f"{owner.tenant_id}\0{owner.owner_id}")[:_OWNER_TAG]


def _narrow(format: str | None, model: str | None, seed: int | None, labels: Labels) -> Iterator[str]:
    if format:
        yield f"f{format}"
    if model:
        yield f"m{_digest(fold_label(model))}"
    if seed is not None:
        yield f"s{seed}"
    if labels.is_favourite:
        yield "v"
    yield from (f"t{_digest(fold_label(tag))}" for tag in labels.tags)
    yield from (f"c{_digest(collection_id)}" for collection_id in labels.collection_ids)


def _runs(text: str) -> Iterator[str]:
    """Give the runs of letters and digits of one kind of script, folded; a sign such as an emoji is one by itself."""
    piece: list[str] = []
    for char in fold(text):
        category = unicodedata.category(char)
        if category[0] in "LNM":
            piece.append(char)
            continue
        yield from _split(piece)
        piece = []
        if category == "So":
            yield char
    yield from _split(piece)


def _split(piece: list[str]) -> Iterator[str]:
    return (found.group() for found in _RUN.finditer("".join(piece)))


def _is_spaceless(run: str) -> bool:
    found = _RUN.match(run)
    return found is not None and found.group(1) is not None


def _grams(run: str) -> Iterable[str]:
    return [*run, *(run[at : at + 2] for at in range(len(run) - 1))]


def _demanded(run: str) -> Iterable[str]:
    """Return the words that an item must have for a whole run: the pairs say more than the characters."""
    if not _is_spaceless(run):
        return [run[:LONGEST_WORD]]
    return [run] if len(run) == 1 else [run[at : at + 2] for at in range(len(run) - 1)]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
