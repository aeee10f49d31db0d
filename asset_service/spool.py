"""Files of uploads that are not complete: one for each, named after it, in the service's own folder."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from service_kit.errors import ErrorReason, FailedPrecondition, Unavailable
from service_kit.file_copies import copy_bytes, make_room
from service_kit.finishing import thread_to_its_end

_MOST_DIGESTS = 1024
# What is copied before it is digested, and what is read of it at a time: both stay in a processor's cache.
_COPIED_BYTES = 4 << 20
_READ_BYTES = 256 << 10


@dataclass(slots=True)
class _Digest:
    """The SHA-256 of what we wrote into a file, and how the file was after that: its size and its time."""

    sha256: hashlib._Hash
    state: tuple[int, int]


class Spool:
    """Bytes on their way in. What was acknowledged is on the disk."""

    def __init__(self, folder: Path) -> None:
        """Use a folder; `prepare` makes it."""
        self._folder = folder
        self._digests: dict[str, _Digest] = {}

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
        # One that came after its lock was given back would change a file which was measured, and may be a blob by then.
        return await thread_to_its_end(self._write, upload_id, offset, data)

    async def copy_in(self, upload_id: str, source: int, size_bytes: int) -> int:
        """Fill the empty file of an upload from an open file of that size, and close that. Returns how many came.

        Raises:
            FailedPrecondition: the upload has bytes, or the file another size.
        """
        return await thread_to_its_end(_copy_in, self.path(upload_id), source, size_bytes)

    async def take_in(self, upload_id: str, source: int, size_bytes: int, copied: Callable[[], None]) -> str:
        """Copy as `copy_in` does, and digest our copy meanwhile. Returns its SHA-256 in lower-case hexadecimal.

        Calls `copied`, in a thread, as soon as the copy has all bytes.
        """
        return await thread_to_its_end(_take_in, self.path(upload_id), source, size_bytes, copied)

    async def sync(self, upload_id: str) -> int:
        """Bring to the disk what was written. Returns how many bytes there are."""
        # Whoever breaks the upload off removes the file, and its place is free, when no thread is at it any more.
        return await thread_to_its_end(_sync, self.path(upload_id))

    async def digest(self, upload_id: str) -> str:
        """Return the SHA-256 of what is there, in lower-case hexadecimal."""
        return await asyncio.to_thread(self._digest, upload_id)

    async def fill(self, upload_id: str, chunks: AsyncGenerator[bytes]) -> None:
        """Write all that comes into the empty file of an upload."""
        offset = 0
        async with aclosing(chunks):
            async for chunk in chunks:
                offset = await self.write(upload_id, offset, chunk)

    async def restart(self, upload_id: str) -> None:
        """Throw away the bytes of an upload, which begins anew."""
        self._digests.pop(upload_id, None)
        await asyncio.to_thread(os.truncate, self.path(upload_id), 0)

    async def remove(self, upload_id: str) -> None:
        """Delete the file of an upload, if there is one."""
        self._digests.pop(upload_id, None)
        await asyncio.to_thread(self.path(upload_id).unlink, missing_ok=True)

    async def names(self) -> list[str]:
        """Return the ids of all uploads that have a file."""
        return await asyncio.to_thread(lambda: sorted(path.name for path in self._folder.iterdir()))

    def _write(self, upload_id: str, offset: int, data: bytes) -> int:
        """Write, and go on with the digest of a file that we have written so far."""
        known = self._digests.pop(upload_id, None)
        with _existing(self.path(upload_id)) as file:
            before = _state(file)
            _write(file, offset, data)
            if known is None or known.state != before:
                if offset:
                    return offset + len(data)
                known = _Digest(hashlib.sha256(), before)
            known.sha256.update(data)
            known.state = _state(file)
        if len(self._digests) >= _MOST_DIGESTS:
            # Threads beside this one change the dict, too: a list is made of it at once.
            self._digests.pop(next(iter(list(self._digests)), ""), None)
        self._digests[upload_id] = known
        return offset + len(data)

    def _digest(self, upload_id: str) -> str:
        with self.path(upload_id).open("rb", buffering=0) as file:
            known = self._digests.get(upload_id)
            if known is not None and known.state == _state(file):
                return known.sha256.hexdigest()
            return hashlib.file_digest(file, "sha256").hexdigest()


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


def _write(file: BinaryIO, offset: int, data: bytes) -> None:
    end = os.fstat(file.fileno()).st_size
    if offset != end:
        raise FailedPrecondition(
            f"offset must be {end}, where the upload ends, got {offset}", ErrorReason.INCOMPLETE_UPLOAD
        )
    file.seek(offset)
    with _no_room_passes():
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]


def _copy_in(path: Path, source: int, size_bytes: int) -> int:
    with _both(path, source, size_bytes) as target, _no_room_passes():
        return copy_bytes(source, target, size_bytes)


def _take_in(path: Path, source: int, size_bytes: int, copied: Callable[[], None]) -> str:
    with _both(path, source, size_bytes) as target, _no_room_passes():
        try:
            make_room(target, size_bytes)
            return _copied(source, target, size_bytes, copied)
        except BaseException:
            # Nothing goes on from there, and the room would be taken until the job is settled.
            os.ftruncate(target, 0)
            raise


def _copied(source: int, target: int, size_bytes: int, copied: Callable[[], None]) -> str:
    """Copy in one thread, and digest the copy in this one. Returns its SHA-256."""

    def copy(start: int) -> int:
        return copy_bytes(source, target, min(_COPIED_BYTES, size_bytes - start), start)

    sha256, buffer = hashlib.sha256(), memoryview(bytearray(_READ_BYTES))
    with ThreadPoolExecutor(1, "spool.copy") as copier:
        pieces = [copier.submit(copy, start) for start in range(0, size_bytes, _COPIED_BYTES)]
        told = copier.submit(copied)
        try:
            for number, piece in enumerate(pieces):
                start = number * _COPIED_BYTES
                end = start + piece.result()
                if end < min(start + _COPIED_BYTES, size_bytes):
                    raise FailedPrecondition(
                        "The file became shorter while it was read.", ErrorReason.INCOMPLETE_UPLOAD
                    )
                while start < end:
                    read = os.preadv(target, [buffer[: end - start]], start)
                    sha256.update(buffer[:read])
                    start += read
            told.result()
        finally:
            # Both files are closed after this: what still copied would write into whatever has their numbers next.
            copier.shutdown(wait=True, cancel_futures=True)
    return sha256.hexdigest()


@contextmanager
def _both(path: Path, source: int, size_bytes: int) -> Iterator[int]:
    """Give the file of an upload, which is empty, for the bytes of another that has all of them; it is closed then."""
    try:
        with _existing(path) as file:
            there, found = os.fstat(file.fileno()).st_size, os.fstat(source).st_size
            if there or found != size_bytes:
                raise FailedPrecondition(
                    f"The file has {found} of {size_bytes} bytes, and the upload {there}.",
                    ErrorReason.INCOMPLETE_UPLOAD,
                )
            yield file.fileno()
    finally:
        os.close(source)


@contextmanager
def _no_room_passes() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise Unavailable("There is no room for more bytes at the moment.") from error


def _state(file: BinaryIO) -> tuple[int, int]:
    known = os.fstat(file.fileno())
    return known.st_size, known.st_mtime_ns


def _sync(path: Path) -> int:
    with _existing(path) as file:
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_size
