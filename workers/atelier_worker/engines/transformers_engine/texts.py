"""Text as it is made, piece by piece: whole characters, nothing of a stop text, and no thinking.

What was written cannot be taken back, so each of these holds back what it may still have to drop. None of them knows
torch. Together: tokens → `Detokenizer` → `Thinking` → `StopTexts` → the client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

_UNFINISHED = "\ufffd"  # what half a character is decoded to
# A character has at most four bytes, each of which may be a token. What is still open after twice that never closes.
_MOST_OPEN_TOKENS = 8


class Detokenizer:
    """Turns tokens into text one by one, and gives a character out only when all of its tokens are there.

    A piece is what the text of a window of tokens gained: many tokenizers write a token differently after another one
    (a space before the word), so a token is never decoded alone.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        """Decode with `decode`, which takes tokens and returns their text."""
        self._decode = decode
        self._tokens: list[int] = []
        self._window = 0  # where the window begins: tokens that were given out, for their effect on the next one
        self._given = 0  # tokens before this one were given out

    def feed(self, token: int) -> str:
        """Take one token; return the text that is certain now, which may be empty."""
        self._tokens.append(token)
        text = self._decode(self._tokens[self._window :])
        if text.endswith(_UNFINISHED) and len(self._tokens) - self._given < _MOST_OPEN_TOKENS:
            return ""
        before = self._decode(self._tokens[self._window : self._given])
        self._window, self._given = self._given, len(self._tokens)
        return text[len(before) :]

    def end(self) -> str:
        """Return what is still held back, without half a character at its end."""
        if self._given == len(self._tokens):
            return ""
        before = self._decode(self._tokens[self._window : self._given])
        text = self._decode(self._tokens[self._window :])
        self._given = len(self._tokens)
        return text[len(before) :].rstrip(_UNFINISHED)


class StopTexts:
    """Ends a text before the first of some stop texts, wherever its pieces are broken."""

    def __init__(self, stops: Iterable[str]) -> None:
        """Stop before any of `stops`; empty ones are left out."""
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.stopped = False

    def feed(self, piece: str) -> str:
        """Take a piece; return what can be no part of a stop text. Once `stopped`, nothing comes any more."""
        if self.stopped:
            return ""
        text = self._held + piece
        place = min((at for stop in self._stops if (at := text.find(stop)) >= 0), default=-1)
        if place >= 0:
            self.stopped, self._held = True, ""
            return text[:place]
        held = max((beginning_at_end(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def end(self) -> str:
        """Return what was held back for a stop text that did not come."""
        held, self._held = self._held, ""
        return held


class Thinking:
    """Leaves out what a model thinks before it answers: blocks of `<think>…</think>` at the beginning of its text.

    Later ones are text: somebody may well ask what these tags are for.
    """

    _OPEN, _CLOSE = "<think>", "</think>"

    def __init__(self, *, begun: bool = False) -> None:
        """Begin inside of a block if `begun`: the chat templates of some models open it themselves."""
        self._inside = begun
        self._answering = False
        self._left_out = begun
        self._held = ""

    @property
    def inside(self) -> bool:
        """Whether the model is thinking."""
        return self._inside

    def feed(self, piece: str) -> str:
        """Take a piece; return what belongs to the answer."""
        if self._answering:
            return piece
        self._held += piece
        while True:
            if self._inside:
                _, closed, after = self._held.partition(self._CLOSE)
                if not closed:
                    self._held = self._held[-len(self._CLOSE) :]
                    return ""
                self._inside, self._held = False, after
            beginning = self._held.lstrip()
            if beginning.startswith(self._OPEN):
                self._inside, self._left_out = True, True
                self._held = beginning[len(self._OPEN) :]
            elif self._OPEN.startswith(beginning):
                return ""
            else:
                return self._answer()

    def end(self) -> str:
        """Return what was held back, unless it is a thought that never ended."""
        return "" if self._inside or self._answering or not self._held.strip() else self._answer()

    def _answer(self) -> str:
        self._answering = True
        held, self._held = self._held, ""
        # The empty lines between the block and the answer belong to the block.
        return held.lstrip() if self._left_out else held


def beginning_at_end(text: str, whole: str) -> int:
    """Return how many characters at the end of `text` are a beginning of `whole`, but not all of it."""
    return next((size for size in range(min(len(whole) - 1, len(text)), 0, -1) if whole.startswith(text[-size:])), 0)
