"""Copies of open files, inside the kernel where it can: on some file systems no byte moves at all."""

from __future__ import annotations

import errno
import os

_AT_ONCE = 1 << 30
_PIECE_BYTES = 1 << 20
# Two file systems, or one that leaves this to others.
_NOT_HERE = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)


def make_room(file: int, size_bytes: int) -> None:
    """Give a new file its room on the disk at once, where the system can: then its bytes are copied in less time.

    Raises:
        OSError: there is no room.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file, 0, size_bytes)
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise


def copy_bytes(source: int, target: int, length: int, start: int = 0, *, at: int | None = None) -> int:
    """Copy `length` bytes of one open file from `start` to the same place of another, or to `at`.

    Returns:
        How many there were.

    Raises:
        OSError: the disk is full, or broken.
    """
    done, to = 0, start if at is None else at
    if hasattr(os, "copy_file_range"):
        try:
            while done < length:
                copied = os.copy_file_range(source, target, min(_AT_ONCE, length - done), start + done, to + done)
                if not copied:
                    return done
                done += copied
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
    while done < length:
        piece = os.pread(source, min(_PIECE_BYTES, length - done), start + done)
        if not piece:
            break
        write_at(target, piece, to + done)
        done += len(piece)
    return done


def write_at(file: int, data: bytes, offset: int) -> None:
    """Write bytes to a place in an open file.

    Raises:
        OSError: the disk is full, or broken.
    """
    rest = memoryview(data)
    while rest:
        written = os.pwrite(file, rest, offset)
        rest, offset = rest[written:], offset + written
