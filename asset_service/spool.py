"""Files of uploads that are not complete: one for each, named after it, in the service's own folder."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

from service_kit.errors import ErrorReason, FailedPrecondition, Unavailable
from service_kit.file_copies import copy_bytes

_MOST_DIGESTS = 1024
_P = ParamSpec("_P")
_R = TypeVar("_R")


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
        return await _to_its_end(self._write, upload_id, offset, data)

    async def copy_in(self, upload_id: str, source: int, size_bytes: int) -> int:
        """Fill the empty file of an upload from an open file of that size, and close that. Returns how many came.

        Raises:
            FailedPrecondition: the upload has bytes, or the file another size.
        """
        return await _to_its_end(_copy_in, self.path(upload_id), source, size_bytes)

    async def sync(self, upload_id: str) -> int:
        """Bring to the disk what was written. Returns how many bytes there are."""
        return await asyncio.to_thread(_sync, self.path(upload_id))

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


async def _to_its_end(work: Callable[_P, _R], *args: _P.args, **options: _P.kwargs) -> _R:
    """Return what work in a thread returns. Whoever is cancelled waits for it: the lock of the upload goes after that.

    A write that came later would change a file which was measured, and may be a blob by then.
    """
    begun = asyncio.ensure_future(asyncio.to_thread(work, *args, **options))
    try:
        return await asyncio.shield(begun)
    except asyncio.CancelledError:
        await asyncio.wait([begun])
        raise


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
    try:
        with _existing(path) as file:
            there, found = os.fstat(file.fileno()).st_size, os.fstat(source).st_size
            if there or found != size_bytes:
                raise FailedPrecondition(
                    f"The file has {found} of {size_bytes} bytes, and the upload {there}.",
                    ErrorReason.INCOMPLETE_UPLOAD,
                )
            with _no_room_passes():
                return copy_bytes(source, file.fileno(), size_bytes)
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
