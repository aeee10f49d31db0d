"""What lies at the places of blobs in a directory: opened, told from what is no blob, and described."""

from __future__ import annotations

import errno
import io
import os
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from service_kit.blobs import RESERVED_SUFFIX, BlobInfo, NotABlob, UnreadableBlob, check_key, single_files

DATA = "data"
META = "meta.json"
_MOST_NOTE_BYTES = 1 << 16
_OF_ONE_FILE = (
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ENXIO,
    errno.ENODEV,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
)
"""What is wrong with one file, not with the disk or this process."""


def opened(path: Path, bucket: str, key: str) -> tuple[BinaryIO, BlobInfo, int]:
    """Open the bytes of a blob, and return what is known of it, and how many bytes there are.

    The file may go on behind them.

    Raises:
        FileNotFoundError: there is none.
        NotADirectoryError: in this moment it was deleted, and its key taken again.
        UnreadableBlob: what is there is no blob, or is no file that can be read.
    """
    try:
        return _opened(path, bucket, key)
    except OSError as error:
        if error.errno not in _OF_ONE_FILE:
            raise
        raise UnreadableBlob(f"it cannot be read: {os.strerror(error.errno)}") from error


def _opened(path: Path, bucket: str, key: str) -> tuple[BinaryIO, BlobInfo, int]:
    with ExitStack() as unless_kept:
        descriptor = _open(path)
        unless_kept.callback(os.close, descriptor)
        found = single_files.known_of(descriptor)
        if found is not None:
            info = single_files.noted(found[0], bucket, key)
            unless_kept.pop_all()
            return os.fdopen(descriptor, "rb", buffering=0), info, found[1]
    with _file(path / META) as note:
        info = single_files.noted(note.read(_MOST_NOTE_BYTES) or b"", bucket, key)
    file = _file(path / DATA)
    return file, info, os.fstat(file.fileno()).st_size


def _open(path: Path) -> int:
    # Nobody is waited for, whatever lies there.
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def _file(path: Path) -> io.FileIO:
    """Open a file that has bytes. Raises UnreadableBlob for what is none."""
    descriptor = _open(path)
    try:
        single_files.check_regular(os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return io.FileIO(descriptor, "rb")


def stat_of(path: Path, bucket: str, key: str) -> BlobInfo | None:
    """Return what is known of a blob; None when there is none. Raises UnreadableBlob for what is no blob."""
    try:
        file, info, _ = opened(path, bucket, key)
    except (FileNotFoundError, NotADirectoryError):
        return None
    file.close()
    return info


def look_at(folder: Path, bucket: str, key: str) -> BlobInfo | NotABlob | None:
    """Return the blob that has a name in a bucket's folder, or why it is none; None when it has just gone."""
    path, why = folder / (key + RESERVED_SUFFIX), ""
    # Twice: what is there is perhaps deleted in this moment.
    for _ in range(2):
        try:
            check_key(key)
            file, info, held_bytes = opened(path, bucket, key)
            file.close()
        except ValueError:
            why = "no blob can have that name"
            break
        except (FileNotFoundError, NotADirectoryError):
            if not os.path.lexists(path):
                return None
            why = "it leads nowhere, or its `data` or its `meta.json` is not there"
        except UnreadableBlob as error:
            why = error.why
        else:
            # A second name of a single file has its note behind the bytes.
            if held_bytes >= info.size_bytes:
                return info
            why = f"it has {held_bytes} of {info.size_bytes} bytes"
    try:
        size_bytes = path.lstat().st_size
    except OSError:
        size_bytes = 0
    return NotABlob(bucket, key, key + RESERVED_SUFFIX, size_bytes, why)
