"""Several small blobs of one folder in one file, which has a name for each of them.

To make a file takes a disk longer than to write a hundred kilobytes into one. So blobs that are written together share
a file: the bytes of each and what is known of it, then where each begins, then how many there are and a mark. Every
name is a link to all of it, and the end tells by a name's digest where its bytes are. Without its name a blob is gone;
its bytes go with the last name of the file, and nothing is moved or counted for that.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Sequence

from service_kit.blobs import UnreadableBlob, nameless
from service_kit.blobs.single_files import NewFile, note_bytes

MOST = 24
"""How many blobs share a file: where they are is read with one look at its end."""

MOST_BYTES = 1 << 20
"""How large each of them may be: its bytes are read at once."""

_MEMBER = struct.Struct(">16sQII")
END = struct.Struct(">I8s")
MARK = b"atlrmany"


def begin(folder: int, files: Sequence[NewFile]) -> int:
    """Write small files to one that has no name yet, on the disk of an open folder. Returns it, open.

    Raises:
        NotHere: the system cannot do that; nothing was written.
        OSError: the disk is full, or broken; nothing is left.
    """
    parts: list[bytes] = []
    table: list[bytes] = []
    start = 0
    for file in files:
        note = note_bytes(file.known)
        parts += (file.data, note)
        table.append(_MEMBER.pack(_digest(file.name), start, len(file.data), len(note)))
        start += len(file.data) + len(note)
    return nameless.begin(folder, [*parts, *table, END.pack(len(files), MARK)])


def find(file: int, size_bytes: int, tail: bytes, name: str) -> tuple[bytes, int, int]:
    """Return the note on the blob of a name in an open file, whose end is `tail`; where it begins; and its size.

    Raises:
        UnreadableBlob: it is not there.
    """
    count, _ = END.unpack(tail[-END.size :])
    length = count * _MEMBER.size + END.size
    if count > MOST or length > len(tail):
        raise UnreadableBlob("it does not end as a blob does")
    table = tail[-length : -END.size]
    wanted = _digest(name)
    for place in range(0, count * _MEMBER.size, _MEMBER.size):
        digest, start, held, note_length = _MEMBER.unpack_from(table, place)
        if digest == wanted:
            if start + held + note_length > size_bytes - length:
                raise UnreadableBlob("it is shorter than it was written")
            return os.pread(file, note_length, start + held), start, held
    raise UnreadableBlob("it has other blobs, and none of this name")


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=16).digest()
