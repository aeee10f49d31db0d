"""Telling English prompts from those that the enhancement must leave alone.

No statistics: words that only one language uses count for it, and letters say which script a text is in.
"""

from __future__ import annotations

import unicodedata

from .lexicon import FOREIGN, HOURS, MEDIA, SCENES, WEATHERS
from .palette import HUES
from .reading import words_of


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ENGLISH = _words(
    "the of and with from at by under over on into through between behind near beside against before after above "
    "below across along around its his her their my our your this that these those is are was it where who while "
    "very old young small little big large tall quiet bright dark two three four five one some many few for to"
)
# Words that are an English word or a part of English-speaking people's names now and then, and say little alone.
_WEAK = _words("den am pod con met van im das la un en na il le el los las di de da do en i w z y")
# Words of other languages that English does not have; what English shares ("die", "on", "come") is left out.
_OTHERS = _words(
    # French, Spanish, Portuguese, Italian
    "les des du une dans sur avec sous vers chez au aux et est qui ses ces cette del una por para sobre bajo entre "
    "hacia muy um uma com sob ao dos das nas lo gli della dello dei degli nel nella sul sulla tra che "
    # German, Dutch, Danish, Swedish, Norwegian
    "der dem ein eine einem einen einer und mit auf unter über bei vom zum zur ist nicht het een op naar bij onder og "
    "på med ett och av det til fra "
    # Polish, Czech, Turkish, Hungarian, Romanian, Indonesian, Vietnamese
    "nad przy jest się ve bir ile için egy és az din și yang dengan di itu một trong và của"
)
_BORROWED = _words("café cafés naïve façade façades fiancée cliché déjà piñata jalapeño décor crème soufflé rosé")
_KNOWN = frozenset(SCENES) | frozenset(HOURS) | frozenset(WEATHERS) | frozenset(MEDIA) | frozenset(HUES)
_FOREIGN_NOUNS = frozenset(word.lower() for word in FOREIGN) - {"chat"}
# A text is in another script when more than this share of its letters is.
_MOST_OTHER_LETTERS = 0.3


def is_english(text: str) -> bool:
    """Whether a text can be continued in English; a text without any letter cannot."""
    letters = [character for character in unicodedata.normalize("NFKC", text) if character.isalpha()]
    if not letters:
        return False
    other = sum(not unicodedata.name(character, "").startswith("LATIN") for character in letters)
    if other > _MOST_OTHER_LETTERS * len(letters):
        return False
    words = words_of(text)
    english = sum(word in _ENGLISH or word in _KNOWN or _singular(word) in _KNOWN for word in words)
    weak = sum(word in _WEAK for word in words)
    foreign = sum(word in _OTHERS or word in _FOREIGN_NOUNS or _is_accented(word) for word in words)
    return foreign + 0.6 * weak <= english


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") else word


def _is_accented(word: str) -> bool:
    return not word.isascii() and "’" not in word and word not in _BORROWED
