"""Several messages as one row's bytes: for each the lengths of topic and payload, the topic, the payload."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from service_kit.events.exchange.member import Message

_LENGTHS = struct.Struct(">BI")


def to_bytes(messages: Iterable[Message]) -> bytes:
    """Return the messages as bytes."""
    parts = []
    for topic, payload in messages:
        name = topic.encode()
        parts += [_LENGTHS.pack(len(name), len(payload)), name, payload]
    return b"".join(parts)


def from_bytes(body: bytes) -> list[Message]:
    """Return the messages. Raises ValueError for bytes that are none."""
    messages = []
    at = 0
    try:
        while at < len(body):
            name_length, payload_length = _LENGTHS.unpack_from(body, at)
            begin = at + _LENGTHS.size + name_length
            at = begin + payload_length
            messages.append((body[begin - name_length : begin].decode(), body[begin:at]))
    except (struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"a row of the exchange cannot be read: {error}") from error
    if at != len(body):
        raise ValueError("a row of the exchange breaks off")
    return messages
