"""Cursors: a place in a service's events, opaque to clients and versioned."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

_VERSION = "v1"
_MAX_TEXT = 200


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place: after the event at `position` (0 is before the first) of the database whose random id is `epoch`."""

    epoch: str
    position: int


def encode_cursor(epoch: str, position: int) -> str:
    """Return a cursor as text that fits into a header and a URL."""
    return base64.urlsafe_b64encode(f"{_VERSION}:{epoch}:{position}".encode()).decode("ascii").rstrip("=")


def decode_cursor(text: str) -> Cursor | None:
    """Return the place; None for any other text, which a watcher answers with a snapshot."""
    if not text or len(text) > _MAX_TEXT:
        return None
    try:
        plain = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        return None
    version, _, rest = plain.partition(":")
    epoch, _, position = rest.rpartition(":")
    if version != _VERSION or not epoch or not position.isdecimal():
        return None
    return Cursor(epoch, int(position))
