"""Small blobs of a directory: one file each, with its bytes, then what is known of them, then where that begins.

Such a file is written without a name and is given one by a link, which fails when the name is taken. So it is there
whole or not at all, leaves nothing behind when its writer dies, and asks the disk for one inode and two syncs.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service_kit.blobs import BlobInfo, UnreadableBlob
from service_kit.clock import parse_rfc3339, rfc3339

_END = struct.Struct(">I8s")
_MARK = b"atlrblob"
_TAIL_BYTES = 1024
"""What is known of a blob is read at once when it is not longer: its digest, its type, some numbers."""

# A file without a name is what only Linux has, and not on every file system.
_NAMELESS: int | None = getattr(os, "O_TMPFILE", None) if Path("/proc/self/fd").is_dir() else None
_NOT_HERE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.EXDEV, errno.EPERM)


class NotHere(Exception):
    """The system or its file system has no files without a name, or no links."""


def write(path: Path, data: bytes, known: Mapping[str, Any]) -> None:
    """Write a file whose name is free into a folder that is there. It is on the disk when this returns.

    Raises:
        FileExistsError: the name is taken.
        FileNotFoundError: the folder is not there.
        NotHere: the system cannot do that; nothing was written.
    """
    if _NAMELESS is None:
        raise NotHere
    about = json.dumps(known).encode()
    parts = [data, about + _END.pack(len(about), _MARK)]
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        file = _nameless(folder)
        try:
            _write_all(file, parts)
            os.fsync(file)
            _name(file, folder, path.name)
        finally:
            os.close(file)
        os.fsync(folder)
    finally:
        os.close(folder)


def known_of(descriptor: int) -> tuple[bytes, int] | None:
    """Return the note on the blob in an open file, and how many bytes are before it; None when it is a folder.

    Raises:
        UnreadableBlob: the file is no blob.
    """
    found = os.fstat(descriptor)
    if stat.S_ISDIR(found.st_mode):
        return None
    check_regular(found)
    start = max(0, found.st_size - _TAIL_BYTES)
    tail = os.pread(descriptor, _TAIL_BYTES, start)
    if len(tail) < _END.size:
        raise UnreadableBlob("it is too short")
    length, mark = _END.unpack(tail[-_END.size :])
    if mark != _MARK or length + _END.size > found.st_size:
        raise UnreadableBlob("it does not end as a blob does")
    whole = length + _END.size
    if whole > len(tail):
        tail = os.pread(descriptor, whole, found.st_size - whole)
    return tail[-whole : -_END.size], found.st_size - whole


def check_regular(found: os.stat_result) -> None:
    """Raise UnreadableBlob for what is no file that has bytes, such as a pipe."""
    if not stat.S_ISREG(found.st_mode):
        raise UnreadableBlob("it is no file that has bytes")


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


def _nameless(folder: int) -> int:
    try:
        return os.open(".", (_NAMELESS or 0) | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=folder)
    except OSError as error:
        if error.errno in _NOT_HERE:
            raise NotHere from error
        raise


def _name(file: int, folder: int, name: str) -> None:
    try:
        # With `dst_dir_fd` it follows the link in /proc to the file, as it must; without, it would not.
        os.link(f"/proc/self/fd/{file}", name, dst_dir_fd=folder, follow_symlinks=True)
    except OSError as error:
        if error.errno in _NOT_HERE:
            raise NotHere from error
        raise


def _write_all(file: int, parts: list[bytes]) -> None:
    rest = [memoryview(part) for part in parts]
    while rest:
        written = os.writev(file, rest)
        while rest and written >= len(rest[0]):
            written -= len(rest.pop(0))
        if rest:
            rest[0] = rest[0][written:]
