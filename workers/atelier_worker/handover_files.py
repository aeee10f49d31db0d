"""Files in the folder that a worker shares with an asset service, each for the bytes of one call at a time.

To make a file costs a disk more than to fill one. So a file is used again for the next call once the service has
answered, and only then: until that it may be reading. Between two calls it is empty: nobody's bytes stay there.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

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
        """Empty a file and let it be used again: the service has answered. It is removed if enough are kept."""
        try:
            os.ftruncate(file.descriptor, 0)
        except OSError:
            self.discard(file)
            return
        if len(self._free) < MOST_KEPT:
            self._free.append(file)
        else:
            self.discard(file)

    def discard(self, file: HandoverFile) -> None:
        """Remove a file, of which nobody knows whether the service still reads it."""
        os.close(file.descriptor)
        with suppress(OSError):
            (self._folder / file.name).unlink()

    def close(self) -> None:
        """Remove the files that nobody uses."""
        # One by one: a call that was cancelled may still be taking one, in a thread of its own.
        with suppress(IndexError):
            while True:
                self.discard(self._free.pop())

    def take(self) -> HandoverFile | None:
        """Return an empty file; None where there can be none."""
        with suppress(IndexError):
            while True:
                file = self._free.pop()
                if os.fstat(file.descriptor).st_nlink:
                    return file
                # The service removes what nobody has written to for long.
                self.discard(file)
        name = secrets.token_hex(16)
        try:
            return HandoverFile(name, os.open(self._folder / name, _NEW, 0o600))
        except OSError:
            return None


def _copy(path: Path, target: int, size_bytes: int, offset: int) -> None:
    """Copy a file to a place in an open one. Raises OSError unless it has so many bytes, and no more."""
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if copy_bytes(source, target, size_bytes, at=offset) < size_bytes or os.fstat(source).st_size != size_bytes:
            raise OSError(f"{path.name} got another size while it was read")
    finally:
        os.close(source)
