"""What text looks like on a terminal that does not come from us: words of engines, of files and of other people."""

from __future__ import annotations

import sys

_KEPT = "\n\t"
# What steers a terminal: the control characters of ASCII, the second set of them, and DEL.
_STEERING = {
    code: chr(code).encode("unicode_escape").decode()
    for code in (*range(0x20), *range(0x7F, 0xA0))
    if chr(code) not in _KEPT
}


def visible(text: str) -> str:
    """Return a text in which nothing moves the cursor, sets a title or asks the terminal for something."""
    return text.translate(_STEERING)


def for_stdout(text: str) -> str:
    """Return a text as it goes to stdout: as it is, unless that is a terminal."""
    return visible(text) if sys.stdout.isatty() else text
