"""A text that must not be seen: it does not print, format or compare in a way that tells it."""

from __future__ import annotations

import hmac


class Secret:
    """A secret text. Only `reveal()` gives it out; everything else shows a mask."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text. Do not log it, and do not put it into an error."""
        return self._text

    def __bool__(self) -> bool:
        """Tell whether there is a secret at all."""
        return bool(self._text)

    def __str__(self) -> str:
        return "********" if self._text else ""

    def __repr__(self) -> str:
        return "Secret('********')" if self._text else "Secret('')"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> str:
        raise TypeError("a secret cannot be pickled or copied")
