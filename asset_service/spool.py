"""Files of uploads that are not complete: one for each, named after it, in the service's own folder."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import BinaryIO

from service_kit.errors import ErrorReason, FailedPrecondition, Unavailable

_CHUNK_BYTES = 1 << 20


class Spool:
    """Bytes on their way in. What was acknowledged is on the disk."""

    def __init__(self, folder: Path) -> None:
        """Use a folder; `prepare` makes it."""
        self._folder = folder

    async def prepare(self) -> None:
        """Make the folder."""
        await asyncio.to_thread(self._folder.mkdir, mode=0o700, parents=True, exist_ok=True)

    def path(self, upload_id: str) -> Path:
        """Return where the bytes of an upload are."""
        return self._folder / upload_id

    async def open(self, upload_id: str) -> int:
        """Make the file of an upload unless it is there. Returns how many bytes it has."""
        return await asyncio.to_thread(_open, self.path(upload_id))

    async def write(self, upload_id: str, offset: int, data: bytes) -> int:
        """Add bytes at the end. Returns how many there are then.

        Raises:
            FailedPrecondition: the file ends elsewhere, or is gone.
        """
        return await asyncio.to_thread(_write, self.path(upload_id), offset, data)

    async def sync(self, upload_id: str) -> int:
        """Bring to the disk what was written. Returns how many bytes there are."""
        return await asyncio.to_thread(_sync, self.path(upload_id))

    async def digest(self, upload_id: str) -> str:
        """Return the SHA-256 of what is there, in lower-case hexadecimal."""
        return await asyncio.to_thread(_digest, self.path(upload_id))

    async def chunks(self, upload_id: str) -> AsyncGenerator[bytes]:
        """Give the bytes in order."""
        with self.path(upload_id).open("rb", buffering=0) as file:
            while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
                yield chunk

    async def fill(self, upload_id: str, chunks: AsyncGenerator[bytes]) -> None:
        """Write all that comes into the empty file of an upload."""
        offset = 0
        async with aclosing(chunks):
            async for chunk in chunks:
                offset = await self.write(upload_id, offset, chunk)

    async def restart(self, upload_id: str) -> None:
        """Throw away the bytes of an upload, which begins anew."""
        await asyncio.to_thread(os.truncate, self.path(upload_id), 0)

    async def remove(self, upload_id: str) -> None:
        """Delete the file of an upload, if there is one."""
        await asyncio.to_thread(self.path(upload_id).unlink, missing_ok=True)

    async def names(self) -> list[str]:
        """Return the ids of all uploads that have a file."""
        return await asyncio.to_thread(lambda: sorted(path.name for path in self._folder.iterdir()))


def _open(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def _existing(path: Path) -> BinaryIO:
    try:
        return path.open("r+b", buffering=0)
    except FileNotFoundError:
        raise FailedPrecondition("The upload takes no bytes: ask StartUpload.", ErrorReason.INCOMPLETE_UPLOAD) from None


def _write(path: Path, offset: int, data: bytes) -> int:
    with _existing(path) as file:
        end = os.fstat(file.fileno()).st_size
        if offset != end:
            raise FailedPrecondition(
                f"offset must be {end}, where the upload ends, got {offset}", ErrorReason.INCOMPLETE_UPLOAD
            )
        # At the offset, not in append mode: a write whose call was given up must not add its bytes a second time.
        file.seek(offset)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise Unavailable("There is no room for more bytes at the moment.") from error
    return offset + len(data)


def _sync(path: Path) -> int:
    with _existing(path) as file:
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_size


def _digest(path: Path) -> str:
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
