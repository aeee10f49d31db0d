"""References as they go over the wire, those of one call in one message."""

from __future__ import annotations

from collections.abc import Sequence

from atelier.asset.v1.upload_service_pb2 import ReadReferencesResponse, WholeReference

_LENGTH_DELIMITED = 2
_ONE_OF_THEM = bytes((ReadReferencesResponse.DESCRIPTOR.fields_by_name["references"].number << 3 | _LENGTH_DELIMITED,))
_ITS_DATA = bytes((WholeReference.DESCRIPTOR.fields_by_name["data"].number << 3 | _LENGTH_DELIMITED,))


def encoded(references: Sequence[bytes | None]) -> bytes:
    """Return a ReadReferencesResponse as it goes over the wire: the bytes of files are copied once, here.

    The library copies them into its message, from there into a buffer that it makes larger again and again, and from
    there into its answer: that takes longer than to read them.
    """
    parts: list[bytes] = []
    for one in references:
        before, data = (b"", b"") if one is None else (_ITS_DATA + _varint(len(one)), one)
        parts += (_ONE_OF_THEM + _varint(len(before) + len(data)) + before, data)
    return b"".join(parts)


def handed_over(references: Sequence[bytes | None]) -> ReadReferencesResponse:
    """Return the answer for references whose bytes are in the worker's file."""
    return ReadReferencesResponse(
        references=[WholeReference(handed_over_bytes=None if one is None else len(one)) for one in references]
    )


def _varint(number: int) -> bytes:
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)
