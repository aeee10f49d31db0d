"""What a language model wraps around the prompt that it was asked for, taken off while the text still comes in.

Taken off are a preface ("Here is the enhanced prompt:"), quotation marks and stars around the whole, and everything
after the first paragraph; line breaks become spaces. As nothing can be taken back, the beginning waits until it is
certain to be no preface, and a text that begins with a quotation mark waits for the other one.
"""

from __future__ import annotations

import re

# A preface is no longer than this, and what can begin one is not given out before.
_LONGEST_PREFACE = 160
_PAIRS = {'"': '"', "“": "”", "«": "»", "„": "“", "'": "'", "`": "`", "‘": "’"}
_OPENERS = (
    "sure|certainly|of course|okay|ok|absolutely|alright|great|here|here's|here’s|this is|below|the following|prompt"
    "|enhanced|improved|rewritten|revised|detailed|refined|expanded|output|answer|result|the enhanced|the rewritten"
    "|the improved|your|final|new prompt"
)
_OPENER = re.compile(rf"(?:{_OPENERS})\b", re.IGNORECASE)
_MARKS = re.compile(r"[\s*_#>]*")
_PREFACE = re.compile(
    r"(?:(?:sure|certainly|of course|okay|ok|absolutely|alright|great)\b[^:.!\n]{0,40}[,.!:]\s*)?"
    r"(?:(?:here|this is|below|the following)\b[^:\n]{0,80}"
    r"\b(?:prompt|version|description|rewrite|result|caption)\b[^:\n]{0,60}:"
    r"|here(?:'s|’s)? (?:you go|it is|we go)\s*:"
    r"|(?:the |your |final |new )?(?:(?:enhanced|improved|rewritten|revised|detailed|refined|expanded|new|final)\s+)?"
    r"(?:video |image )?(?:prompt|output|answer|result)\s*[*_]*\s*:)\s*",
    re.IGNORECASE,
)
_AGREEMENT = re.compile(
    r"(?:sure|certainly|of course|okay|ok|absolutely|alright|great)\s*[!.:](?:\s+|$)", re.IGNORECASE
)


class Cleaner:
    """Cleans one text. `ended` tells that its paragraph is over: what comes then is left out."""

    def __init__(self) -> None:
        self._held = ""
        self._begun = False  # the beginning was decided
        self._quote = ""  # the closing quotation mark that the text waits for
        self.ended = False

    def feed(self, piece: str) -> str:
        """Take a piece; return what surely belongs to the prompt."""
        if self.ended:
            return ""
        self._held += piece
        if not self._begun and not self._begin(over=False):
            return ""
        return self._flow(over=False)

    def end(self) -> str:
        """Return what was held back and belongs to the prompt."""
        if self.ended:
            return ""
        if not self._begun:
            self._begin(over=True)
        return self._flow(over=True)

    def _begin(self, *, over: bool) -> bool:
        """Take the preface off once it is certain what it is; tell whether it is."""
        text = self._held[_end_of_marks(self._held) :]
        if not text and not over:
            return False
        if not over and _may_be_preface(text):
            return False
        while match := _PREFACE.match(text) or _AGREEMENT.match(text):
            text = text[match.end() :]
            text = text[_end_of_marks(text) :]
        self._held = text
        if not text and not over:
            return False
        self._begun = True
        if text[:1] in _PAIRS:
            self._quote = _PAIRS[text[0]]
        return True

    def _flow(self, *, over: bool) -> str:
        if self._quote and not self._unquoted(over=over):
            return ""
        text = self._held
        paragraph = re.search(r"\n[^\S\n]*\n", text)
        if paragraph:
            self.ended = over = True
            text = text[: paragraph.start()]
        text = text.rstrip().rstrip("*").rstrip() if over else text
        # White space at the end may be the end of the paragraph, and stars the end of what is bold.
        kept = len(text) if over else len(text.rstrip(" \t\r\n*"))
        self._held = text[kept:]
        return re.sub(r"\s+", " ", text[:kept])

    def _unquoted(self, *, over: bool) -> bool:
        """Take the marks off a text in quotation marks; tell whether it is certain by now whether it is one."""
        text = self._held
        close = text.find(self._quote, 1)
        # An apostrophe within a word closes nothing.
        while close > 0 and text[close + 1 : close + 2].isalnum():
            close = text.find(self._quote, close + 1)
        if close < 0:
            paragraph = re.search(r"\n[^\S\n]*\n", text)
            if not over and not paragraph:
                return False
            # A mark that is never closed is one too many, unless it is an apostrophe.
            self._held = text if self._quote in "'’" else text[1:]
            self._quote = ""
            return True
        after = text[close + 1 :]
        if not over and not after.strip() and "\n\n" not in after:
            return False
        surrounds = not after.strip(" \t\r.*") or after.lstrip(" \t\r.*").startswith("\n")
        if surrounds:
            self._held = text[1:close] + ("\n\n" if after else "")
        self._quote = ""
        return True


def _end_of_marks(text: str) -> int:
    match = _MARKS.match(text)
    return match.end() if match else 0


def _may_be_preface(text: str) -> bool:
    """Tell whether more of the text has to be seen before it is certain whether it begins with a preface."""
    if _PREFACE.fullmatch(text) or _AGREEMENT.fullmatch(text):
        return True
    rest = text
    while match := _PREFACE.match(rest) or _AGREEMENT.match(rest):
        rest = rest[match.end() :]
        rest = rest[_end_of_marks(rest) :]
        if not rest:
            return True
    if len(rest) >= _LONGEST_PREFACE or "\n" in rest.strip():
        return False
    opener = _OPENER.match(rest)
    if opener:
        return True
    lowered = rest.lower()
    return any(one.startswith(lowered) for one in _OPENERS.split("|"))
