"""Walks through the pieces of pictures without decoding any: whether they fit together, how large, how many frames.

What a decoder would trip over, or take memory for, is refused here, before it sees the file. The formats are those of
the PNG specification (third edition), ITU-T T.81 (JPEG), the WebP container specification, and GIF89a.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from mmap import mmap

from asset_service.refusals import damaged, disguised, known_name, too_large

Bytes = mmap | memoryview

MAX_FRAMES = 2_000
"""The most frames of an animated picture."""

MAX_CHUNKS = 200_000
"""The most pieces that a picture may be cut into."""

MAX_TEXT_BYTES = 4 << 20
"""The longest text in a PNG, packed or not."""

MAX_EXTRA_BYTES = 16 << 20
"""The most bytes of a picture that are not its pixels: texts, profiles, previews."""

_MAX_SCANS = 200
_HEAD = 1024
_ZIP_END = re.compile(rb"PK\x05\x06")
_ZIP_TAIL = 22 + 0xFFFF
_FOREIGN = re.compile(rb"PK\x03\x04|PK\x05\x06|%PDF-|Rar!\x1a\x07|7z\xbc\xaf|(?i:<(html|script|svg|\?php|!doctype))")
# Apart, each with a first byte of its own: only that is looked for quickly.
_IN_HEAD = (re.compile(rb"%PDF-"), re.compile(rb"<(?i:html|script|\?php|!doctype)"))
# After a byte 0xFF in the pixels of a JPEG, what is neither a stuffed zero nor a restart begins the next segment.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


@dataclass(frozen=True, slots=True)
class Outline:
    """Width and height in pixels as stored, and the number of frames."""

    width: int
    height: int
    frames: int


def walk(data: Bytes, content_type: str) -> Outline:
    """Return the outline of a picture of a known type.

    Raises:
        InvalidArgument: `media_damaged`, `media_disguised` or `media_too_large`.
    """
    check_alone(data)
    outline = _WALKS[content_type](data)
    if not outline.width or not outline.height:
        raise damaged(f"The picture says that it is {outline.width} by {outline.height} pixels")
    if outline.frames > MAX_FRAMES:
        raise too_large(f"The picture has more than {MAX_FRAMES} frames")
    return outline


def check_alone(data: Bytes) -> None:
    """Refuse a file that other programs would open as something else: a ZIP archive, a document or a page."""
    for match in _ZIP_END.finditer(data, max(0, len(data) - _ZIP_TAIL)):
        place = match.start() + 22
        if place <= len(data) and place + struct.unpack_from("<H", data, place - 2)[0] == len(data):
            raise disguised("The file is a ZIP archive as well")
    heads = [found for known in _IN_HEAD if (found := known.search(data, 0, _HEAD))]
    if heads:
        first = min(heads, key=lambda found: found.start())
        raise disguised(f"The file is {known_name(first[0] + b' ') or 'a page'} as well")


def _check_end(data: Bytes, end: int) -> None:
    """Refuse bytes behind the end of a picture, but for zeros."""
    rest = len(data) - end
    if rest < 0:
        raise damaged("The picture is not complete")
    behind = bytes(data[end : end + _HEAD])
    if rest and (rest > len(behind) or behind.strip(b"\x00\r\n ")):
        what = known_name(behind) or "something else"
        raise disguised(f"Behind the picture lies {what}, of {rest} bytes")


def _png(data: Bytes) -> Outline:
    width = height = extra = frames = 0
    told: int | None = None
    kinds: set[bytes] = set()
    place = 8
    for kind, start, end in _png_chunks(data):
        if (kind == b"IHDR") is bool(kinds):
            raise damaged("The PNG does not begin with one header")
        if kind == b"IHDR":
            if end - start != 13:
                raise damaged("The PNG has a header of a wrong length")
            width, height = struct.unpack_from(">II", data, start)
        elif kind == b"acTL" and end - start == 8:
            told = struct.unpack_from(">I", data, start)[0]
        elif kind == b"fcTL":
            frames += 1
        elif kind not in (b"IDAT", b"fdAT", b"PLTE"):
            extra += _png_text_bytes(kind, data, start, end)
        if extra > MAX_EXTRA_BYTES:
            raise too_large(f"The PNG has more than {MAX_EXTRA_BYTES} bytes of texts and profiles")
        kinds.add(kind)
        place = end + 4
    if b"IDAT" not in kinds:
        raise damaged("The PNG has no pixels")
    if told is not None and told != frames:
        raise damaged(f"The PNG says that it has {told} frames, and has {frames}")
    _check_end(data, place)
    return Outline(width, height, max(1, frames))


def _png_chunks(data: Bytes) -> Iterator[tuple[bytes, int, int]]:
    """Give kind, start and end of each chunk; the last is IEND."""
    place = 8
    with memoryview(data) as whole:
        for _ in range(MAX_CHUNKS):
            if place + 12 > len(data):
                raise damaged("The PNG is not complete")
            length, kind = struct.unpack_from(">I4s", data, place)
            start, end = place + 8, place + 8 + length
            if not kind.isalpha():
                raise damaged("The PNG has a piece without a name")
            if end + 4 > len(data):
                raise damaged(f"The PNG is not complete: its piece {kind.decode('ascii')} says {length} bytes")
            with whole[place + 4 : end] as covered:
                if zlib.crc32(covered) != struct.unpack_from(">I", data, end)[0]:
                    raise damaged(f"The checksum of the PNG's piece {kind.decode('ascii')} is wrong")
            yield kind, start, end
            if kind == b"IEND":
                return
            place = end + 4
    raise too_large(f"The PNG has more than {MAX_CHUNKS} pieces")


def _png_text_bytes(kind: bytes, data: Bytes, start: int, end: int) -> int:
    """Return how many bytes a piece that is not pixels takes, unpacked."""
    size = end - start
    name = kind.decode("ascii")
    if kind in (b"tEXt", b"zTXt", b"iTXt") and size > MAX_TEXT_BYTES:
        raise too_large(f"The PNG has a text of {size} bytes; at most {MAX_TEXT_BYTES} are taken")
    if kind not in (b"zTXt", b"iTXt", b"iCCP") or size > MAX_EXTRA_BYTES:
        return size
    parts = bytes(data[start:end]).split(b"\x00", 1)
    packed = parts[-1][1:]
    if kind == b"iTXt":
        if parts[-1][:1] != b"\x01":
            return size
        packed = parts[-1][2:].split(b"\x00", 2)[-1]
    unpacker = zlib.decompressobj()
    try:
        unpacked = len(unpacker.decompress(packed, MAX_TEXT_BYTES + 1))
    except zlib.error:
        raise damaged(f"The PNG's piece {name} cannot be unpacked") from None
    if unpacked > MAX_TEXT_BYTES:
        raise too_large(f"The PNG's piece {name} unpacks to more than {MAX_TEXT_BYTES} bytes")
    return max(size, unpacked)


def _jpeg(data: Bytes) -> Outline:
    size: tuple[int, int] | None = None
    scans = extra = 0
    place = 2
    for _ in range(MAX_CHUNKS):
        while place + 1 < len(data) and data[place] == data[place + 1] == 0xFF:
            place += 1
        if place + 4 > len(data) and not (place + 2 == len(data) and data[place + 1] == 0xD9):
            raise damaged("The JPEG is not complete")
        if data[place] != 0xFF or data[place + 1] in (0x00, 0xD8):
            raise damaged("The JPEG has a segment whose length is wrong")
        marker = data[place + 1]
        place += 2
        if marker == 0xD9:
            return _jpeg_end(data, place, size, scans)
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:
            continue
        (length,) = struct.unpack_from(">H", data, place)
        if length < 2 or place + length > len(data):
            raise damaged("The JPEG has a segment whose length is wrong")
        if marker in _SIZES:
            height, width = struct.unpack_from(">HH", data, place + 3)
            if size is not None:
                raise damaged("The JPEG says twice how large it is")
            size = width, height
        elif 0xE0 <= marker <= 0xEF or marker == 0xFE:
            extra += length
        if extra > MAX_EXTRA_BYTES:
            raise too_large(f"The JPEG has more than {MAX_EXTRA_BYTES} bytes of texts and profiles")
        place += length
        if marker == 0xDA:
            scans += 1
            place = _jpeg_scan_end(data, place, scans)
    raise too_large(f"The JPEG has more than {MAX_CHUNKS} pieces")


def _jpeg_scan_end(data: Bytes, place: int, scans: int) -> int:
    if scans > _MAX_SCANS:
        raise too_large(f"The JPEG has more than {_MAX_SCANS} scans")
    found = _MARKER.search(data, place)
    if found is None:
        raise damaged("The JPEG is not complete")
    return found.start()


def _jpeg_end(data: Bytes, place: int, size: tuple[int, int] | None, scans: int) -> Outline:
    if size is None or not scans:
        raise damaged("The JPEG has no pixels")
    # Cameras put previews and films behind the picture, so only what is known to be something else is refused.
    found = _FOREIGN.search(data, place)
    if found:
        raise disguised(f"Behind the picture lies {known_name(found[0] + b' ') or 'a page'}")
    return Outline(*size, 1)


def _webp(data: Bytes) -> Outline:
    (riff,) = struct.unpack_from("<I", data, 4)
    end = 8 + riff
    if end > len(data) or riff < 4:
        raise damaged(f"The WebP is not complete: it says {end} bytes, and there are {len(data)}")
    _check_end(data, end)
    canvas: tuple[int, int] | None = None
    frames = chunks = pictures = 0
    place = 12
    while place < end:
        if place + 8 > end:
            raise damaged("The WebP has a piece whose length is wrong")
        kind, length = struct.unpack_from("<4sI", data, place)
        start = place + 8
        if start + length > end:
            raise damaged("The WebP has a piece whose length is wrong")
        chunks += 1
        if kind == b"VP8X" and length >= 10:
            canvas = _uint24(data, start + 4) + 1, _uint24(data, start + 7) + 1
        elif kind in (b"VP8 ", b"VP8L"):
            pictures += 1
            canvas = canvas or _webp_size(data, kind, start, length)
        elif kind == b"ANMF":
            frames += 1
        if frames > MAX_FRAMES or chunks > MAX_CHUNKS:
            raise too_large(f"The WebP has more than {MAX_FRAMES} frames")
        place = start + length + length % 2
    if canvas is None or not (frames or pictures):
        raise damaged("The WebP has no pixels")
    return Outline(*canvas, max(1, frames))


def _webp_size(data: Bytes, kind: bytes, start: int, length: int) -> tuple[int, int]:
    if length < 10:
        raise damaged("The WebP is not complete")
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, start + 1)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", data, start + 6)
    return width & 0x3FFF, height & 0x3FFF


def _uint24(data: Bytes, place: int) -> int:
    return int.from_bytes(data[place : place + 3], "little")


def _gif(data: Bytes) -> Outline:
    if len(data) < 13:
        raise damaged("The GIF is not complete")
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    place = 13 + _gif_table(flags)
    frames = 0
    try:
        while data[place] != 0x3B:
            kind, place = data[place], place + 1
            if kind == 0x21:
                place = _gif_blocks(data, place + 1)
            elif kind == 0x2C:
                left, top, wide, high, flags = struct.unpack_from("<HHHHB", data, place)
                if not wide or not high or left + wide > width or top + high > height:
                    raise damaged("The GIF has a frame that does not lie in the picture")
                frames += 1
                if frames > MAX_FRAMES:
                    raise too_large(f"The GIF has more than {MAX_FRAMES} frames")
                place = _gif_blocks(data, place + 9 + _gif_table(flags) + 1)
            else:
                raise damaged("The GIF has a piece of an unknown kind")
    except (IndexError, struct.error):
        raise damaged("The GIF is not complete") from None
    if not frames:
        raise damaged("The GIF has no pixels")
    _check_end(data, place + 1)
    return Outline(width, height, frames)


def _gif_table(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _gif_blocks(data: Bytes, place: int) -> int:
    while length := data[place]:
        place += 1 + length
    return place + 1


_WALKS: dict[str, Callable[[Bytes], Outline]] = {
    "image/png": _png,
    "image/jpeg": _jpeg,
    "image/webp": _webp,
    "image/gif": _gif,
}
