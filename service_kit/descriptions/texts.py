"""The texts that pictures carry: chunks of PNG, and the EXIF of JPEG and WebP. Nothing else of the file is read.

Formats: PNG 1.2 sections 4.2.3 (tEXt, zTXt, iTXt); EXIF 2.32, of which only ASCII texts and UserComment are looked at;
RIFF for WebP. Lengths that a file states are believed only as far as bytes are there.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import BinaryIO

MOST_BYTES = 8 << 20
"""How much text of one picture is read, in bytes, also when it is unpacked."""

_MOST_CHUNKS = 100_000
_MOST_ENTRIES = 1000
_LONGEST_NAME = 1000
_ASCII, _UNDEFINED = 2, 7
_EXIF_FOLDER, _USER_COMMENT = 0x8769, 0x9286


class TooLong(ValueError):
    """There is more text than any tool writes.

    Attributes:
        found: the texts before.
    """

    def __init__(self, message: str, found: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.found = dict(found or {})


def texts_of(file: BinaryIO) -> dict[str, str]:
    """Return the texts of a picture by their name; the user comment of EXIF is `UserComment`.

    A file of another kind, or a broken one, has the texts that were found until there.

    Raises:
        TooLong: the texts have more than 8 MiB.
        OSError: the file cannot be read.
    """
    start = file.read(12)
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        file.seek(8)
        return _kept(_png(file))
    if start.startswith(b"\xff\xd8"):
        file.seek(2)
        return _first_exif(_jpeg(file))
    if start[:4] == b"RIFF" and start[8:] == b"WEBP":
        return _first_exif(_webp(file))
    return {}


def _kept(pairs: Iterator[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    try:
        for name, text in pairs:
            found[name] = text
    except TooLong as error:
        raise TooLong(str(error), found) from None
    return found


def _png(file: BinaryIO) -> Iterator[tuple[str, str]]:
    # Of all texts together: thousands of small chunks may each unpack to megabytes.
    left = MOST_BYTES
    for _ in range(_MOST_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            return
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IEND":
            return
        if kind not in (b"tEXt", b"zTXt", b"iTXt"):
            file.seek(length + 4, 1)
            continue
        if length > left:
            raise TooLong(f"a text of the picture has {length} bytes; at most {MOST_BYTES} are read of all")
        found = _png_text(kind, file.read(length), left)
        file.seek(4, 1)
        if found is not None:
            name, text = found
            left -= len(text)
            yield name, _decoded(text) if kind != b"iTXt" else text.decode("utf-8", "replace")


def _png_text(kind: bytes, data: bytes, most: int) -> tuple[str, bytes] | None:
    """Return a chunk's name and its text, unpacked."""
    name, zero, rest = data.partition(b"\0")
    if not zero or not 1 <= len(name) <= 79:
        return None
    if kind == b"tEXt":
        # Latin-1 says the standard; several tools write UTF-8 nevertheless.
        return name.decode("latin-1"), rest
    if kind == b"zTXt":
        return name.decode("latin-1"), _unpacked(rest[1:], most)
    # iTXt: packed or not, how, language, translated name, text.
    language, first, behind = rest[2:].partition(b"\0")
    translated, second, text = behind.partition(b"\0")
    if not first or not second or len(language) + len(translated) > _LONGEST_NAME:
        return None
    return name.decode("latin-1"), _unpacked(text, most) if rest[0] == 1 else text


def _unpacked(data: bytes, most: int) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(data, most + 1)
    except zlib.error:
        return b""
    if len(text) > most:
        raise TooLong(f"the texts of the picture have more than {MOST_BYTES} bytes when they are unpacked")
    return text


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _jpeg(file: BinaryIO) -> Iterator[bytes]:
    for _ in range(_MOST_CHUNKS):
        head = file.read(4)
        if len(head) < 4 or head[0] != 0xFF or head[1] in (0xD9, 0xDA):
            return
        length = int.from_bytes(head[2:], "big") - 2
        if length < 0:
            return
        if head[1] != 0xE1:
            file.seek(length, 1)
            continue
        data = file.read(length)
        if data.startswith(b"Exif\0\0"):
            yield data[6:]


def _webp(file: BinaryIO) -> Iterator[bytes]:
    for _ in range(_MOST_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            return
        kind, length = struct.unpack("<4sI", head)
        if kind != b"EXIF":
            file.seek(length + length % 2, 1)
            continue
        if length > MOST_BYTES:
            raise TooLong(f"the EXIF of the picture has {length} bytes; at most {MOST_BYTES} are read")
        yield file.read(length).removeprefix(b"Exif\0\0")
        file.seek(length % 2, 1)


def _first_exif(blocks: Iterator[bytes]) -> dict[str, str]:
    block = next(blocks, b"")
    return _exif(block) if block else {}


def _exif(data: bytes) -> dict[str, str]:
    """Return the texts of a TIFF block: those that are `name:text`, as ComfyUI writes them, and the user comment."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None or len(data) < 8:
        return {}
    found: dict[str, str] = {}
    folders = [struct.unpack_from(f"{order}I", data, 4)[0]]
    for folder in folders:
        for tag, kind, raw in _entries(data, order, folder):
            if tag == _EXIF_FOLDER and len(raw) >= 4 and len(folders) < 3:
                folders.append(struct.unpack_from(f"{order}I", raw)[0])
            elif tag == _USER_COMMENT and kind in (_ASCII, _UNDEFINED):
                found.setdefault("UserComment", _comment(raw, order))
            elif kind == _ASCII:
                name, colon, text = _decoded(raw.rstrip(b"\0")).partition(":")
                if colon and name in ("prompt", "workflow"):
                    found.setdefault(name, text)
    return found


def _entries(data: bytes, order: str, start: int) -> Iterator[tuple[int, int, bytes]]:
    if start < 8 or start + 2 > len(data):
        return
    number = min(struct.unpack_from(f"{order}H", data, start)[0], _MOST_ENTRIES)
    for place in range(start + 2, min(start + 2 + 12 * number, len(data) - 11), 12):
        tag, kind, length = struct.unpack_from(f"{order}HHI", data, place)
        if kind not in (_ASCII, _UNDEFINED):
            yield tag, kind, data[place + 8 : place + 12]
        elif length <= 4:
            yield tag, kind, data[place + 8 : place + 8 + length]
        else:
            (offset,) = struct.unpack_from(f"{order}I", data, place + 8)
            yield tag, kind, data[offset : offset + length]


def _comment(raw: bytes, order: str) -> str:
    """Return a user comment: eight bytes name its encoding. Tools write UTF-16 in either order, not the block's."""
    code, text = raw[:8], raw[8:]
    if code.startswith(b"UNICODE"):
        if text[:2] in (b"\xfe\xff", b"\xff\xfe"):
            return text.decode("utf-16", "replace")
        zeros_first = text[0:200:2].count(0) > text[1:200:2].count(0)
        zeros_last = text[1:200:2].count(0) > text[0:200:2].count(0)
        big = zeros_first or (not zeros_last and order == ">")
        return text.decode("utf-16-be" if big else "utf-16-le", "replace")
    if code.startswith((b"ASCII", b"\0\0\0\0\0\0\0\0")):
        return _decoded(text)
    return _decoded(raw)
