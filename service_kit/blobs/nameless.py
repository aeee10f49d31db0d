"""Files without a name, which get one when they are whole: what only Linux has, and not on every file system.

Such a file leaves nothing behind when its writer dies, and a name that is taken is not taken from anybody.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

_NAMELESS: int | None = getattr(os, "O_TMPFILE", None) if Path("/proc/self/fd").is_dir() else None
_MOST_PARTS = 1024
"""How many pieces of memory a system writes at once."""
_NOT_HERE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.EXDEV, errno.EPERM)


class NotHere(Exception):
    """The system or its file system has no files without a name, or no links."""


def begin(folder: int, parts: Iterable[bytes]) -> int:
    """Return a new file on the disk of an open folder, open for writing, that has these bytes: all there after a crash.

    Raises:
        NotHere: the system cannot do that; nothing was written.
        OSError: the disk is full, or broken; nothing is left.
    """
    if _NAMELESS is None:
        raise NotHere
    try:
        file = os.open(".", _NAMELESS | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=folder)
    except OSError as error:
        if error.errno in _NOT_HERE:
            raise NotHere from error
        raise
    try:
        _write_all(file, parts)
        os.fsync(file)
    except BaseException:
        os.close(file)
        raise
    return file


def give_name(file: int, folder: int, name: str) -> None:
    """Give a file a name, perhaps one of several, in an open folder; it is on the disk when the folder is synced.

    Raises:
        FileExistsError: the name is taken.
        NotHere: the system cannot do that.
    """
    try:
        # With `dst_dir_fd` it follows the link in /proc to the file, as it must; without, it would not.
        os.link(f"/proc/self/fd/{file}", name, dst_dir_fd=folder, follow_symlinks=True)
    except OSError as error:
        if error.errno in _NOT_HERE:
            raise NotHere from error
        raise


def _write_all(file: int, parts: Iterable[bytes]) -> None:
    rest = [memoryview(part) for part in parts if part]
    while rest:
        written = os.writev(file, rest[:_MOST_PARTS])
        while rest and written >= len(rest[0]):
            written -= len(rest.pop(0))
        if rest:
            rest[0] = rest[0][written:]
