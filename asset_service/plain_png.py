"""Plain PNGs are known to be whole when their pixels unpack to as many bytes as their size asks for.

No picture is made of them, which takes most of the time that decoding takes, and memory. Plain is what programs write
that make pictures: grey or colours of 8 or 16 bits, with or without transparency, not interlaced, and beside the
pixels nothing but texts. The format is that of the PNG specification (third edition).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from mmap import mmap

Bytes = mmap | memoryview

_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
# Texts by which a picture may say that it is to be turned.
_MAY_TURN = (b"Raw profile type", b"XML:com.adobe.xmp")
# A text begins with its name, of 79 bytes at most, a zero, and how it is packed.
_NAME_BYTES = 81
_LAST_FILTER = 4
_PIECE_BYTES = 16 << 20
_PACKED_BYTES = 4 << 20


def is_plain_and_whole(data: Bytes) -> bool:
    """Tell whether a PNG that was walked through is plain and whole. One that is not has to be decoded to be judged."""
    width, height, depth, colour, method, filters, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    if colour not in _CHANNELS or depth not in (8, 16) or method or filters or interlaced:
        return False
    pixels: list[tuple[int, int]] = []
    before = b""
    for kind, start, end in _pieces(data):
        if kind == b"IDAT":
            if pixels and before != kind:
                # Programs stop at what parts the pixels: they must follow each other.
                return False
            pixels.append((start, end))
        elif kind not in (b"IHDR", b"IEND") and not (kind in _TEXTS and _is_plain_text(data, kind, start)):
            return False
        before = kind
    row_bytes = 1 + width * _CHANNELS[colour] * depth // 8
    with memoryview(data) as whole:
        return _unpacks(_cut(whole, pixels), row_bytes, height)


def _pieces(data: Bytes) -> Iterator[tuple[bytes, int, int]]:
    place = 8
    while place < len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        yield kind, place + 8, place + 8 + length
        if kind == b"IEND":
            return
        place += 12 + length


def _is_plain_text(data: Bytes, kind: bytes, start: int) -> bool:
    """Tell whether a text can be read, as far as that is told by its first bytes, and does not turn the picture."""
    head = bytes(data[start : start + _NAME_BYTES])
    if head.startswith(_MAY_TURN):
        return False
    # One that is packed says how, and there is one way.
    return kind != b"zTXt" or head.partition(b"\x00")[2][:1] == b"\x00"


def _cut(data: memoryview, places: Iterable[tuple[int, int]]) -> Iterator[memoryview]:
    """Give what lies at some places, little at a time: a large picture is not in memory twice."""
    for start, end in places:
        for begin in range(start, end, _PACKED_BYTES):
            with data[begin : min(begin + _PACKED_BYTES, end)] as piece:
                yield piece


def _unpacks(pieces: Iterable[memoryview], row_bytes: int, rows: int) -> bool:
    """Tell whether bytes unpack to so many rows, each of which begins with a filter that there is."""
    unpacker = zlib.decompressobj()
    done = 0
    try:
        for piece in pieces:
            packed: memoryview | bytes = piece
            while packed:
                if unpacker.eof or done > rows * row_bytes:
                    return False
                # In large pieces: the interpreter does other things meanwhile, and may be slow to come back.
                unpacked = unpacker.decompress(packed, min(_PIECE_BYTES, rows * row_bytes - done + 1))
                if max(unpacked[-done % row_bytes :: row_bytes], default=0) > _LAST_FILTER:
                    return False
                done += len(unpacked)
                packed = unpacker.unconsumed_tail
    except zlib.error:
        return False
    return unpacker.eof and done == rows * row_bytes and not unpacker.unused_data
