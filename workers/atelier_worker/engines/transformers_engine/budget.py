"""How long a prompt may be, and where it is cut when it is longer: at the end of a clause, or between two words."""

from __future__ import annotations

import math
import re

# A run of letters, or one sign. The tokenizer of CLIP cuts a text in the same places before it looks for tokens.
_PIECE = re.compile(r"[^\W\d_]+|\d|[^\s\w]|_")
# Words of one token are rarely longer than this in the vocabulary of CLIP; longer ones are taken for several.
_LETTERS_A_TOKEN = 8
_CLAUSE_END = re.compile(r"[.!?,;:](?=\s)|[。！？，；]")
_WEAK_ENDS = ",;:，；"
# From this share of the budget on a clause is held back until it is whole, for it may have to be dropped.
_CAREFUL_FROM = 0.6


def tokens_of(text: str) -> int:
    """Return about how many tokens a text has for the text encoders of picture models.

    An estimate on the safe side, as the tokenizer of the target is not here: a word is a token for each 8 letters, a
    digit and a sign are one each, and a letter outside of ASCII is two.
    """
    return sum(_piece_tokens(piece) for piece in _PIECE.findall(text))


def _piece_tokens(piece: str) -> int:
    foreign = sum(not letter.isascii() for letter in piece)
    return max(1, math.ceil((len(piece) - foreign) / _LETTERS_A_TOKEN) + foreign * 2)


class Budget:
    """Lets a text through, word by word, up to a number of tokens.

    Of a text that is too long it keeps whole clauses, and of a clause that is too long from the start whole words.
    `cut` tells that something was dropped; nothing comes after it.
    """

    def __init__(self, tokens: int) -> None:
        """Let at most `tokens` through, as `tokens_of` counts them."""
        self._most = tokens
        self._used = 0
        self._held = ""
        self._clause_is_whole = True  # what was given out ends with a clause
        self.cut = False

    def feed(self, piece: str) -> str:
        """Take a piece; return what surely stays."""
        if self.cut:
            return ""
        self._held += piece
        need = self._used + tokens_of(self._held)
        if need > self._most:
            return self._give_up()
        end = _word_end(self._held) if need <= self._most * _CAREFUL_FROM else _clause_end(self._held)
        return self._give(end)

    def end(self, *, complete: bool = True) -> str:
        """Return what is left. `complete` is False when the text was broken off: its last clause is dropped."""
        if self.cut:
            return ""
        return self._give(len(self._held.rstrip())) if complete else self._give_up()

    def _give(self, end: int) -> str:
        given, self._held = self._held[:end], self._held[end:]
        if given:
            self._used += tokens_of(given)
            self._clause_is_whole = self._held.startswith(tuple(_WEAK_ENDS)) or given.endswith((".", "!", "?", "。"))
        return given

    def _give_up(self) -> str:
        """Give the words that fit when a clause was begun that cannot be taken back, else nothing."""
        self.cut = True
        if self._clause_is_whole and self._used:
            return ""
        end = _clause_end(self._held) or _word_end(self._held)
        while self._used + tokens_of(self._held[:end]) > self._most:
            end = _word_end(self._held[:end])
        return self._give(end)


def _word_end(text: str) -> int:
    """Return where the last word ends that surely goes no further, without a comma after it."""
    space = next((at for at in range(len(text) - 1, -1, -1) if text[at].isspace()), 0)
    return len(text[:space].rstrip().rstrip(_WEAK_ENDS))


def _clause_end(text: str) -> int:
    """Return where the last whole clause ends, without a comma after it; 0 when there is none."""
    ends = list(_CLAUSE_END.finditer(text))
    return len(text[: ends[-1].end()].rstrip(_WEAK_ENDS)) if ends else 0
