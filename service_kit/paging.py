"""Page tokens: where the next page of a list starts, opaque to clients and versioned."""

from __future__ import annotations

import base64
import binascii
import json

from service_kit.errors import InvalidArgument

_VERSION = 1
_MAX_TEXT = 2000

PageKey = str | int | float | bool | None


def encode_page_token(kind: str, keys: list[PageKey]) -> str:
    """Return the token of a list (`kind`, such as `library.items`) that goes on after a row with these keys."""
    plain = json.dumps([_VERSION, kind, *keys], ensure_ascii=False, separators=(",", ":"))
    return base64.urlsafe_b64encode(plain.encode()).decode("ascii").rstrip("=")


def decode_page_token(kind: str, text: str, *, field: str = "page_token") -> list[PageKey]:
    """Return the keys of a token that `encode_page_token` made for the same kind of list.

    Raises:
        InvalidArgument: it is not one; names the field.
    """
    try:
        if len(text) > _MAX_TEXT:
            raise ValueError("too long")
        plain = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
        version, found_kind, *keys = plain
        if version != _VERSION or found_kind != kind or not all(_is_key(key) for key in keys):
            raise ValueError("of another kind")
    except (binascii.Error, ValueError, TypeError, RecursionError):
        raise InvalidArgument.field(
            field, "is not a page token of this list; leave it empty for the first page"
        ) from None
    return list(keys)


def _is_key(value: object) -> bool:
    return value is None or isinstance(value, (str, int, float, bool))
