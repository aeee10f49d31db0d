"""Where an object of Google Cloud Storage is read into: a file that is open, piece by piece as it comes."""

from __future__ import annotations

import os
from typing import Any

import google_crc32c
from google.cloud import storage

from service_kit.file_copies import write_at


class CannotWrite(Exception):
    """The file that a blob is read into takes no more: nothing that the store has done."""

    def __init__(self, why: OSError) -> None:
        """Say why."""
        super().__init__(str(why))
        self.why = why


class Target:
    """Where a blob is read into: the beginning of an open file, and its CRC32C.

    It has the file open once more, until nobody has it any more: a thread may write when nobody waits for it.
    """

    def __init__(self, file: int) -> None:
        """Write to the beginning of an open file."""
        self._file = os.dup(file)
        self.size_bytes = 0
        self.checksum = google_crc32c.Checksum()

    def write(self, piece: bytes) -> int:
        """Write the next bytes."""
        try:
            write_at(self._file, piece, self.size_bytes)
        except OSError as error:
            raise CannotWrite(error) from error
        self.checksum.update(piece)
        self.size_bytes += len(piece)
        return len(piece)

    def __del__(self) -> None:
        """Close the file."""
        os.close(self._file)


def read_into(target: Target, blob: storage.Blob, last: int, **bounds: Any) -> None:
    """Read an object into a file from where that has come to, up to the last byte that is wanted."""
    blob.download_to_file(target, start=target.size_bytes, end=last, raw_download=True, checksum=None, **bounds)
