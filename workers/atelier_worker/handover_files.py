"""Files in the folder that a worker shares with an asset service, each for the bytes of one call at a time.

To write over a file costs a fraction of what a new one does. So a file is used again for the next call once the service
has answered, and only then: until that it may be reading. When no call is under way all are empty: nobody's bytes stay.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from service_kit.file_copies import copy_bytes

MOST_KEPT = 2
"""How many files are kept for later calls: as many as are under way at once, unless something went wrong."""

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class HandoverFile:
    """An open file, and its name in the folder."""

    name: str
    descriptor: int


class HandoverFiles:
    """The files of one worker. Its methods block for a moment; several threads may call them."""

    def __init__(self, folder: Path) -> None:
        """Use a folder that need not be there."""
        self._folder = folder
        self._free: list[HandoverFile] = []
        self._under_way = 0
        self._lock = Lock()

    def write(self, files: Sequence[tuple[Path, int]]) -> HandoverFile | None:
        """Return a file that has these files of so many bytes, one behind the other.

        None where there can be none, or where one of them cannot be read whole.
        """
        made = self.take()
        if made is None:
            return None
        try:
            offset = 0
            for path, size_bytes in files:
                _copy(path, made.descriptor, size_bytes, offset)
                offset += size_bytes
        except OSError:
            self.discard(made)
            return None
        return made

    def give_back(self, file: HandoverFile) -> None:
        """Let a file be used again: the service has answered. It is removed if enough are kept."""
        with self._lock:
            is_kept = len(self._free) < MOST_KEPT
            if is_kept:
                self._free.append(file)
            self._ended()
        if not is_kept:
            self._remove(file)

    def discard(self, file: HandoverFile) -> None:
        """Remove a file, of which nobody knows whether the service still reads it."""
        with self._lock:
            self._ended()
        self._remove(file)

    def _ended(self) -> None:
        self._under_way -= 1
        if not self._under_way:
            for file in self._free:
                os.ftruncate(file.descriptor, 0)

    def _remove(self, file: HandoverFile) -> None:
        os.close(file.descriptor)
        with suppress(OSError):
            (self._folder / file.name).unlink()

    def close(self) -> None:
        """Remove the files that nobody uses."""
        with self._lock:
            free, self._free = self._free, []
        for file in free:
            self._remove(file)

    def take(self) -> HandoverFile | None:
        """Return a file, whatever it has, for somebody to write over; None where there can be none."""
        with self._lock:
            file = self._free.pop() if self._free else None
            self._under_way += 1
        # The service removes what nobody has written to for long.
        if file is not None and not os.fstat(file.descriptor).st_nlink:
            self._remove(file)
            file = None
        if file is not None:
            return file
        name = secrets.token_hex(16)
        try:
            return HandoverFile(name, os.open(self._folder / name, _NEW, 0o600))
        except OSError:
            with self._lock:
                self._ended()
            return None


def _copy(path: Path, target: int, size_bytes: int, offset: int) -> None:
    """Copy a file to a place in an open one. Raises OSError unless it has so many bytes, and no more."""
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if copy_bytes(source, target, size_bytes, at=offset) < size_bytes or os.fstat(source).st_size != size_bytes:
            raise OSError(f"{path.name} got another size while it was read")
    finally:
        os.close(source)
