"""Page tokens: where the next page of a list starts, opaque to clients and versioned."""

from __future__ import annotations

import base64
import binascii
import json
import math
from datetime import datetime

from service_kit.clock import parse_rfc3339, rfc3339
from service_kit.errors import InvalidArgument

_VERSION = 1
_MAX_TEXT = 2000

PageKey = str | int | float | None


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
        raise not_of_this_list(field) from None
    return list(keys)


def encode_place(kind: str, created_at: datetime, row_id: str) -> str:
    """Return the token of a list in order of time that goes on after this row."""
    return encode_page_token(kind, [rfc3339(created_at), row_id])


def decode_place(kind: str, text: str, *, field: str = "page_token") -> tuple[datetime, str]:
    """Return what `encode_place` was given for the same kind of list.

    Raises:
        InvalidArgument: it is not such a token; names the field.
    """
    match decode_page_token(kind, text, field=field):
        case [str(moment), str(row_id)]:
            try:
                return parse_rfc3339(moment), row_id
            except ValueError:
                raise not_of_this_list(field) from None
        case _:
            raise not_of_this_list(field)


def not_of_this_list(field: str = "page_token") -> InvalidArgument:
    """Return the error that says that a token was not made for this list."""
    return InvalidArgument.field(field, "is not a page token of this list; leave it empty for the first page")


def _is_key(value: object) -> bool:
    """Tell whether a value can stand in a query: text that is UTF-8, a number that a database column holds."""
    match value:
        case None:
            return True
        case bool():
            return False
        case str():
            return value.isascii() or value.encode(errors="replace").decode() == value
        case int():
            return abs(value) < 1 << 63
        case float():
            return math.isfinite(value)
        case _:
            return False
