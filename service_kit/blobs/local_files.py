"""What lies at the places of blobs in a directory: opened, told from what is no blob, and described."""

from __future__ import annotations

import errno
import io
import os
import stat
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from service_kit.blobs import RESERVED_SUFFIX, BlobInfo, NotABlob, UnreadableBlob, bundles, check_key, single_files

DATA = "data"
META = "meta.json"
_MOST_NOTE_BYTES = 1 << 16
_TAIL_BYTES = 1024
"""What is known of a blob is read at once when it is not longer: its digest, its type, some numbers."""
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


@dataclass(frozen=True, slots=True)
class Opened:
    """A blob that is open: its file, what is known of it, where in the file its bytes begin, and how many there are.

    The file may go on behind them. `is_shared` says that it has other blobs as well.
    """

    file: BinaryIO
    info: BlobInfo
    start: int
    held_bytes: int
    is_shared: bool = False


def opened(path: Path, bucket: str, key: str) -> Opened:
    """Open the bytes of a blob.

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
        raise UnreadableBlob(f"it cannot be read: {os.strerror(error.errno)}", is_lost=False) from error


def _opened(path: Path, bucket: str, key: str) -> Opened:
    with ExitStack() as unless_kept:
        descriptor = _open(path)
        unless_kept.callback(os.close, descriptor)
        found = os.fstat(descriptor)
        if not stat.S_ISDIR(found.st_mode):
            note, start, held_bytes, is_shared = _place(descriptor, found, path.name)
            info = single_files.noted(note, bucket, key)
            unless_kept.pop_all()
            return Opened(os.fdopen(descriptor, "rb", buffering=0), info, start, held_bytes, is_shared)
    with _file(path / META) as meta:
        info = single_files.noted(meta.read(_MOST_NOTE_BYTES) or b"", bucket, key)
    file = _file(path / DATA)
    return Opened(file, info, 0, os.fstat(file.fileno()).st_size)


def _place(descriptor: int, found: os.stat_result, name: str) -> tuple[bytes, int, int, bool]:
    """Return the note on the blob of a name in an open file, where it begins, its size, and whether others are there.

    Raises:
        UnreadableBlob: the file is no blob.
    """
    _check_regular(found)
    tail = os.pread(descriptor, _TAIL_BYTES, max(0, found.st_size - _TAIL_BYTES))
    if len(tail) < single_files.END.size:
        raise UnreadableBlob("it is too short")
    if tail.endswith(bundles.MARK):
        return *bundles.find(descriptor, found.st_size, tail, name), True
    note, held_bytes = single_files.find(descriptor, found.st_size, tail)
    return note, 0, held_bytes, False


def _open(path: Path) -> int:
    # Nobody is waited for, whatever lies there.
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def _file(path: Path) -> io.FileIO:
    """Open a file that has bytes. Raises UnreadableBlob for what is none."""
    descriptor = _open(path)
    try:
        _check_regular(os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return io.FileIO(descriptor, "rb")


def _check_regular(found: os.stat_result) -> None:
    """Raise UnreadableBlob for what is no file that has bytes, such as a pipe."""
    if not stat.S_ISREG(found.st_mode):
        raise UnreadableBlob("it is no file that has bytes")


def stat_of(path: Path, bucket: str, key: str) -> BlobInfo | None:
    """Return what is known of a blob; None when there is none. Raises UnreadableBlob for what is no blob."""
    try:
        found = opened(path, bucket, key)
    except (FileNotFoundError, NotADirectoryError):
        return None
    found.file.close()
    return _whole(found)


def _whole(found: Opened) -> BlobInfo:
    """Return what is known of an open blob. Raises UnreadableBlob when bytes of it are missing."""
    # There may be more: a second name of a single file has its note behind the bytes.
    if found.held_bytes < found.info.size_bytes:
        raise UnreadableBlob(f"it has {found.held_bytes} of {found.info.size_bytes} bytes")
    return found.info


def look_at(folder: Path, bucket: str, key: str) -> BlobInfo | NotABlob | None:
    """Return the blob that has a name in a bucket's folder, or why it is none; None when it has just gone."""
    path, why = folder / (key + RESERVED_SUFFIX), ""
    # Twice: what is there is perhaps deleted in this moment.
    for _ in range(2):
        try:
            check_key(key)
            found = opened(path, bucket, key)
            found.file.close()
            return _whole(found)
        except ValueError:
            why = "no blob can have that name"
            break
        except (FileNotFoundError, NotADirectoryError):
            if not os.path.lexists(path):
                return None
            why = "it leads nowhere, or its `data` or its `meta.json` is not there"
        except UnreadableBlob as error:
            why = error.why
    try:
        size_bytes = path.lstat().st_size
    except OSError:
        size_bytes = 0
    return NotABlob(bucket, key, key + RESERVED_SUFFIX, size_bytes, why)
