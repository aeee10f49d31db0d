"""Small blobs of a directory: one file each, with its bytes, then what is known of them, then where that begins.

Such a file is written without a name and is given one by a link, which fails when the name is taken. So it is there
whole or not at all, leaves nothing behind when its writer dies, and asks the disk for one inode and two syncs.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service_kit.blobs import BlobInfo, UnreadableBlob, nameless
from service_kit.clock import parse_rfc3339, rfc3339

END = struct.Struct(">I8s")
MARK = b"atlrblob"


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file that is to be written: its name in a folder, its bytes, and what is known of them."""

    name: str
    data: bytes
    known: Mapping[str, Any]


def begin(folder: int, file: NewFile) -> int:
    """Write a file that has no name yet, on the disk of an open folder. Returns it, open.

    Raises:
        NotHere: the system cannot do that; nothing was written.
        OSError: the disk is full, or broken; nothing is left.
    """
    about = note_bytes(file.known)
    return nameless.begin(folder, (file.data, about, END.pack(len(about), MARK)))


def find(file: int, size_bytes: int, tail: bytes) -> tuple[bytes, int]:
    """Return the note on the blob in an open file, whose end is `tail`, and how many bytes are before it.

    Raises:
        UnreadableBlob: the file does not end as a blob does.
    """
    length, mark = END.unpack(tail[-END.size :])
    if mark != MARK or length + END.size > size_bytes:
        raise UnreadableBlob("it does not end as a blob does")
    whole = length + END.size
    if whole > len(tail):
        tail = os.pread(file, whole, size_bytes - whole)
    return tail[-whole : -END.size], size_bytes - whole


def note_bytes(known: Mapping[str, Any]) -> bytes:
    """Return what is known of a blob as it is written behind its bytes."""
    return json.dumps(known).encode()


def note(info: BlobInfo) -> dict[str, Any]:
    """Return what is known of a blob besides its place, as JSON values."""
    return {
        "generation": info.generation,
        "size_bytes": info.size_bytes,
        "sha256": info.sha256,
        "content_type": info.content_type,
        "created_at": rfc3339(info.created_at),
    }


def noted(written: bytes, bucket: str, key: str) -> BlobInfo:
    """Return what a note says of the blob at a place. Raises UnreadableBlob for one that is torn."""
    try:
        known = json.loads(written)
        return BlobInfo(
            bucket,
            key,
            _text(known["generation"]),
            _size(known["size_bytes"]),
            _text(known["sha256"]),
            _text(known["content_type"]),
            parse_rfc3339(known["created_at"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UnreadableBlob("the note on it is torn") from None


def _text(value: object) -> str:
    # What goes into rows and messages: a digest, a number, a type.
    if not isinstance(value, str) or not (value.isascii() and value.isprintable()):
        raise TypeError
    return value


def _size(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise TypeError
    return value
