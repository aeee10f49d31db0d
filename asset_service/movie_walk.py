"""Walks through the boxes of an MP4 file without decoding any: whether they fit, and what they say of its length.

The boxes are those of ISO/IEC 14496-12. Every table is checked against the box that it is in, before a decoder makes
room for what it announces.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from typing import BinaryIO

from asset_service.refusals import damaged, disguised, known_name, too_large

MAX_INDEX_BYTES = 32 << 20
"""The largest index (`moov`) of a video: about a million frames."""

MAX_SAMPLES = 1_000_000
"""The most frames of a track, or pieces of sound."""

MAX_BOXES = 20_000
"""The most boxes of a video; a fragmented one has several for each fragment."""

_MAX_DEPTH = 10
_PARENTS = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"dinf", b"mvex", b"moof", b"traf"})
# How many bytes of each entry of a table, after version, flags and a count.
_TABLES = {b"stts": 8, b"ctts": 8, b"stsc": 12, b"stco": 4, b"co64": 8, b"stss": 4}


@dataclass(slots=True)
class Movie:
    """What the boxes say: the length in seconds, where they say one, and whether the video is edited."""

    duration_s: float | None = None
    edited: bool = False
    kinds: set[bytes] = field(default_factory=set)
    boxes: int = 0


def walk(file: BinaryIO) -> Movie:
    """Return what the boxes of an MP4 file say; the file is at its beginning again.

    Raises:
        InvalidArgument: `media_damaged`, `media_disguised` or `media_too_large`.
    """
    file.seek(0, os.SEEK_END)
    size = file.tell()
    movie = Movie()
    try:
        _walk(file, 0, size, 0, movie)
    except struct.error:
        raise damaged("The MP4 has a box that is too short") from None
    file.seek(0)
    if b"moov" not in movie.kinds:
        raise damaged("The MP4 has no index: it is not complete")
    return movie


def _walk(file: BinaryIO, place: int, end: int, depth: int, movie: Movie) -> None:
    if depth > _MAX_DEPTH:
        raise damaged(f"The MP4 has boxes in boxes, more than {_MAX_DEPTH} deep")
    while place < end:
        start, next_place, kind = _box(file, place, end, depth)
        movie.boxes += 1
        movie.kinds.add(kind)
        if movie.boxes > MAX_BOXES:
            raise too_large(f"The MP4 has more than {MAX_BOXES} boxes")
        if kind == b"moov" and next_place - start > MAX_INDEX_BYTES:
            raise too_large(f"The MP4 has an index of {next_place - start} bytes; at most {MAX_INDEX_BYTES} are taken")
        if kind in _PARENTS:
            _walk(file, start, next_place, depth + 1, movie)
        else:
            _look(file, kind, start, next_place - start, movie)
        place = next_place


def _box(file: BinaryIO, place: int, end: int, depth: int) -> tuple[int, int, bytes]:
    """Return where the content of a box starts, where the box ends, and its kind."""
    file.seek(place)
    head = file.read(16)
    if len(head) < 8 or place + 8 > end:
        if depth == 0 and not head.strip(b"\x00"):
            return place, end, b"free"
        raise damaged("The MP4 is not complete")
    size, kind = struct.unpack_from(">I4s", head)
    start = place + 8
    if size == 1:
        (size,) = struct.unpack_from(">Q", head, 8)
        start += 8
    elif size == 0:
        if depth:
            raise damaged("The MP4 has a box without an end")
        size = end - place
    if place + size > end or place + size < start or not _is_name(kind):
        if depth == 0 and place and (name := known_name(head)):
            raise disguised(f"Behind the video lies {name}")
        raise damaged(f"The MP4 is not complete, or has a box whose length is wrong: {size} bytes at {place}")
    return start, place + size, kind


def _is_name(kind: bytes) -> bool:
    return all(0x20 <= byte < 0x7F or byte == 0xA9 for byte in kind)


def _look(file: BinaryIO, kind: bytes, start: int, size: int, movie: Movie) -> None:
    """Check what a box says against its own size."""
    if kind not in _TABLES and kind not in (b"mvhd", b"stsz", b"elst"):
        return
    file.seek(start)
    head = file.read(min(size, 32))
    if kind == b"mvhd":
        long = head[0] == 1
        scale, ticks = struct.unpack_from(">IQ" if long else ">II", head, 20 if long else 12)
        if not scale:
            raise damaged("The MP4 says that its clock does not run")
        if ticks not in (0, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF):
            movie.duration_s = ticks / scale
    elif kind == b"elst":
        movie.edited = True
    else:
        if kind == b"stsz":
            each, count = struct.unpack_from(">II", head, 4)
            least = 12 + (0 if each else 4 * count)
            if count > MAX_SAMPLES:
                raise too_large(f"The MP4 has a track of {count} frames; at most {MAX_SAMPLES} are taken")
        else:
            (count,) = struct.unpack_from(">I", head, 4)
            least = 8 + _TABLES[kind] * count
        if least > size:
            raise damaged(f"The MP4's table {kind.decode('latin-1')} says {count} entries, which it has no room for")
