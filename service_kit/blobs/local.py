"""A blob store in a local directory.

A blob is a folder `<bucket>/<key>.blob` that holds `data` and `meta.json`. It is written under `<bucket>/.tmp` and
published by one rename, which fails when the key is taken, so that a blob is there whole or not at all, and bytes and
meta never disagree. One that comes as bytes in memory is a single file of that name where the system can do that: see
`single_files`; several that come together share one: see `bundles`. The generation is a random text among what is
known: unlike a file's times it survives a backup. A copy is a folder with a hard link of the bytes, or with
bytes of its own when a link would keep those of others.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import AsyncGenerator, AsyncIterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from service_kit.blobs import (
    BlobInfo,
    NewBlob,
    NotABlob,
    SignedUrl,
    UnreadableBlob,
    check_bucket,
    check_digest,
    folders,
    only_blobs,
)
from service_kit.blobs.local_drafts import Drafts, new_generation
from service_kit.blobs.local_files import DATA, Opened, look_at, opened, stat_of
from service_kit.blobs.small_blobs import SmallBlobs
from service_kit.errors import NotFound, OutOfRange
from service_kit.file_copies import copy_bytes, make_room
from service_kit.finishing import thread_to_its_end

CHUNK_BYTES = 1 << 20
_MOST_AHEAD = 64
"""How many files are open that have no name yet, because nobody has chosen their blobs; others wait for that."""
# Another file system, or one that has no links, or no more of them.
_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP)


class LocalBlobStore:
    """Blobs below one directory. Processes on one machine may share it; readers need no right to write."""

    def __init__(self, root: Path) -> None:
        """Choose the directory; it is made at the first write."""
        self._root = root
        self._drafts = Drafts(root)
        self._open_ahead = 0
        self.origin = ""

    async def put(
        self, bucket: str, key: str, chunks: AsyncIterable[bytes], *, content_type: str, sha256: str | None = None
    ) -> BlobInfo:
        """Write a blob whose key is free; see `BlobStore.put`."""
        draft = await asyncio.to_thread(self._drafts.new, bucket, key)
        try:
            written, size_bytes = await _write(draft / DATA, chunks)
            check_digest(written, sha256)
            info = BlobInfo(bucket, key, new_generation(), size_bytes, written, content_type, datetime.now(UTC))
            await thread_to_its_end(self._drafts.publish, draft, info)
        except BaseException:
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, draft, ignore_errors=True))
            raise
        return info

    async def put_bytes(
        self, bucket: str, key: str, data: bytes, *, content_type: str, sha256: str | None = None
    ) -> BlobInfo:
        """Write a small blob whose key is free; see `BlobStore.put_bytes`."""
        known = sha256 if sha256 is not None else await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
        [written] = await self.put_many(bucket, [NewBlob(key, data, known, content_type)])
        if isinstance(written, Exception):
            raise written
        return written

    async def put_many(
        self, bucket: str, blobs: Sequence[NewBlob], *, chosen: asyncio.Future[Sequence[int]] | None = None
    ) -> Sequence[BlobInfo | Exception]:
        """Write small blobs whose keys are free; see `BlobStore.put_many`. Those of one folder share a file."""
        writing = SmallBlobs(self._drafts, bucket, blobs)
        if chosen is None:
            return await thread_to_its_end(writing.publish, range(len(blobs)))
        with self._ahead(writing.count_files) as may_begin:
            try:
                if may_begin:
                    await thread_to_its_end(writing.write)
                return await thread_to_its_end(writing.publish, await asyncio.shield(chosen))
            finally:
                if writing.is_open:
                    # Nobody has chosen. To free the room takes the disk a moment.
                    await thread_to_its_end(writing.close)

    async def put_file(
        self,
        bucket: str,
        key: str,
        path: Path,
        *,
        content_type: str,
        sha256: str,
        checked: asyncio.Future[Any] | None = None,
    ) -> BlobInfo:
        """Write a blob of a file by a hard link to it, or a copy from another disk; see `BlobStore.put_file`."""
        draft = await asyncio.to_thread(self._drafts.new, bucket, key)
        try:
            size_bytes = await asyncio.to_thread(_link_synced, path, draft / DATA)
            info = BlobInfo(bucket, key, new_generation(), size_bytes, sha256, content_type, datetime.now(UTC))
            # A draft that is removed while a thread publishes it would be there in part.
            await thread_to_its_end(self._drafts.complete, draft, info)
            if checked is not None:
                await asyncio.shield(checked)
            await thread_to_its_end(self._drafts.show, draft, info)
        except BaseException:
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, draft, ignore_errors=True))
            raise
        return info

    async def adopt(self, info: BlobInfo, chunks: AsyncIterable[bytes]) -> None:
        """Write a blob whose key is free as it was in another store, with the generation that rows know it by.

        Raises:
            AlreadyExists: the key is taken; its blob is untouched.
            InvalidArgument: `digest_mismatch`; nothing was written.
        """
        draft = await asyncio.to_thread(self._drafts.new, info.bucket, info.key)
        try:
            written, _ = await _write(draft / DATA, chunks)
            check_digest(written, info.sha256)
            await thread_to_its_end(self._drafts.publish, draft, info)
        except BaseException:
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, draft, ignore_errors=True))
            raise

    async def stat(self, bucket: str, key: str) -> BlobInfo | None:
        """Return what is known about a blob; see `BlobStore.stat`."""
        return await asyncio.to_thread(stat_of, self._drafts.path(bucket, key), bucket, key)

    async def open_range(
        self, bucket: str, key: str, *, offset: int = 0, length: int | None = None, generation: str | None = None
    ) -> AsyncGenerator[bytes]:
        """Stream bytes; see `BlobStore.open_range`."""
        opening = asyncio.ensure_future(asyncio.to_thread(self._open_at, bucket, key, generation, offset, length))
        try:
            file, left, chunk = await asyncio.shield(opening)
        except asyncio.CancelledError:
            # Whoever leaves while the thread opens the file leaves nobody else to close it.
            opening.add_done_callback(_close_opened)
            raise
        try:
            while left > 0:
                left -= len(chunk)
                yield chunk
                if left > 0:
                    chunk = await asyncio.to_thread(_read, file, left)
        finally:
            file.close()

    async def read_whole(
        self, wanted: Sequence[tuple[str, str, str]], *, most_bytes: int, most_bytes_together: int
    ) -> Sequence[bytes | None]:
        """Return small blobs, all of them with one hop to a thread; see `BlobStore.read_whole`."""
        return await asyncio.to_thread(self._read_whole, wanted, most_bytes, most_bytes_together)

    async def copy_into(self, file: int, bucket: str, key: str, *, generation: str) -> BlobInfo:
        """Copy a blob inside the kernel to the beginning of an open file; see `BlobStore.copy_into`."""
        return await asyncio.to_thread(self._copy_into, file, bucket, key, generation)

    async def copy(
        self, source: tuple[str, str], target: tuple[str, str], *, generation: str | None = None
    ) -> BlobInfo:
        """Copy a blob inside the store; see `BlobStore.copy`."""
        return await asyncio.to_thread(self._copy, source, target, generation)

    async def delete(self, bucket: str, key: str, generation: str) -> bool:
        """Remove a blob of exactly this generation; see `BlobStore.delete`."""
        return await asyncio.to_thread(self._delete, bucket, key, generation)

    async def clear_drafts(self, bucket: str, *, older_than: timedelta) -> int:
        """Remove what broken writes have left; see `BlobStore.clear_drafts`."""
        check_bucket(bucket)
        drafts = self._root / bucket / folders.DRAFTS
        return await asyncio.to_thread(folders.clear_drafts, drafts, time.time() - older_than.total_seconds())

    def list(self, bucket: str, prefix: str = "", *, after: str = "") -> AsyncGenerator[BlobInfo]:
        """Give every blob whose key starts with `prefix`; see `BlobStore.list`."""
        return only_blobs(self.look(bucket, prefix, after=after))

    async def look(self, bucket: str, prefix: str = "", *, after: str = "") -> AsyncGenerator[BlobInfo | NotABlob]:
        """Give every blob, and every other file or folder that has the name of one; see `BlobStore.look`."""
        check_bucket(bucket)
        found = folders.keys(self._root / bucket, prefix)
        for key in await asyncio.to_thread(lambda: sorted(key for key in found if key > after)):
            entry = await asyncio.to_thread(look_at, self._root / bucket, bucket, key)
            if entry is not None:
                yield entry

    async def sign(self, bucket: str, key: str, generation: str, *, ttl: timedelta) -> SignedUrl | None:
        """Return None: a directory serves nobody."""
        return None

    async def close(self) -> None:
        """Do nothing: no file stays open."""

    @contextmanager
    def _ahead(self, files: int) -> Iterator[bool]:
        """Count files that are open before their blobs are chosen. Gives whether there may be so many more."""
        if self._open_ahead + files > _MOST_AHEAD:
            yield False
            return
        self._open_ahead += files
        try:
            yield True
        finally:
            self._open_ahead -= files

    def _open(self, bucket: str, key: str, generation: str | None) -> Opened:
        path = self._drafts.path(bucket, key)
        missing = NotFound(f"There is no blob {key} in {bucket}.")
        try:
            found = opened(path, bucket, key)
        except (FileNotFoundError, NotADirectoryError):
            raise missing from None
        if generation not in (None, found.info.generation):
            found.file.close()
            raise missing
        return found

    def _open_at(
        self, bucket: str, key: str, generation: str | None, offset: int, length: int | None
    ) -> tuple[BinaryIO, int, bytes]:
        """Open a range. Returns its file, how many bytes it has, and the first of them: all, if it is small."""
        found = self._open(bucket, key, generation)
        try:
            size_bytes = found.info.size_bytes
            if offset < 0 or offset > size_bytes:
                raise OutOfRange(f"offset must be 0..{size_bytes}, got {offset}")
            left = size_bytes - offset if length is None else min(length, size_bytes - offset)
            found.file.seek(found.start + offset)
            return found.file, left, _read(found.file, left)
        except BaseException:
            found.file.close()
            raise

    def _read_whole(self, wanted: Sequence[tuple[str, str, str]], most_bytes: int, left: int) -> Sequence[bytes | None]:
        found = []
        for bucket, key, generation in wanted:
            data = None
            with suppress(NotFound, UnreadableBlob):
                data = self._whole(bucket, key, generation, min(most_bytes, left))
            left -= len(data or b"")
            found.append(data)
        return found

    def _whole(self, bucket: str, key: str, generation: str, most_bytes: int) -> bytes | None:
        found = self._open(bucket, key, generation)
        size_bytes = found.info.size_bytes
        with found.file as file:
            # One that is too large is not read.
            file.seek(found.start)
            data = file.read(size_bytes) if size_bytes <= most_bytes else b""
        return data if len(data) == size_bytes else None

    def _copy_into(self, target: int, bucket: str, key: str, generation: str) -> BlobInfo:
        found = self._open(bucket, key, generation)
        with found.file:
            make_room(target, found.info.size_bytes)
            _copy_out(found, target)
        return found.info

    def _copy(self, source: tuple[str, str], target: tuple[str, str], generation: str | None) -> BlobInfo:
        draft = self._drafts.new(*target)
        try:
            found = self._open(*source, generation)
            with found.file:
                if found.is_shared:
                    # A link would keep what others have in the file.
                    with (draft / DATA).open("xb", buffering=0) as data:
                        _copy_out(found, data.fileno())
                        os.fsync(data.fileno())
                else:
                    self._link(source, draft / DATA)
            known = found.info
            info = BlobInfo(
                *target, new_generation(), known.size_bytes, known.sha256, known.content_type, datetime.now(UTC)
            )
            self._drafts.publish(draft, info)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        return info

    def _link(self, source: tuple[str, str], data: Path) -> None:
        path = self._drafts.path(*source)
        try:
            os.link(path / DATA if path.is_dir() else path, data)
        except FileNotFoundError:
            raise NotFound(f"There is no blob {source[1]} in {source[0]}.") from None

    def _delete(self, bucket: str, key: str, generation: str) -> bool:
        path = self._drafts.path(bucket, key)
        found = look_at(self._root / bucket, bucket, key)
        if found is None or (isinstance(found, BlobInfo) and found.generation != generation):
            return False
        doomed = self._root / bucket / folders.DRAFTS / secrets.token_hex(16)
        try:
            if path.is_dir() and not path.is_symlink():
                # A bucket that was copied from elsewhere need not have it.
                folders.make_folders(doomed.parent, self._root)
                path.rename(doomed)
            else:
                path.unlink()
        except FileNotFoundError:
            return False
        folders.sync_folder(path.parent)
        shutil.rmtree(doomed, ignore_errors=True)
        folders.remove_empty(path.parent, self._root / bucket)
        return True


async def _write(path: Path, chunks: AsyncIterable[bytes]) -> tuple[str, int]:
    """Write chunks to a new file, synced to the disk. Returns the SHA-256 in hexadecimal and the size."""
    digest = hashlib.sha256()
    size_bytes = 0
    with path.open("xb", buffering=0) as file:
        async for chunk in chunks:
            await asyncio.to_thread(_write_all, file, chunk, digest)
            size_bytes += len(chunk)
        await asyncio.to_thread(os.fsync, file.fileno())
    return digest.hexdigest(), size_bytes


def _link_synced(path: Path, data: Path) -> int:
    """Make a second name of a file, or a copy of it on another disk, synced. Returns its size in bytes."""
    try:
        os.link(path, data)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copyfile(path, data)
    with data.open("rb") as file:
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_size


def _write_all(file: BinaryIO, chunk: bytes, digest: hashlib._Hash | None = None) -> None:
    if digest is not None:
        digest.update(chunk)
    rest = memoryview(chunk)
    while rest:
        rest = rest[file.write(rest) :]


def _copy_out(found: Opened, target: int) -> None:
    """Copy the bytes of a blob to the beginning of another open file."""
    size_bytes = found.info.size_bytes
    if copy_bytes(found.file.fileno(), target, size_bytes, found.start, at=0) < size_bytes:
        raise NotFound("The file of a blob is shorter than it was written.")


def _read(file: BinaryIO, left: int) -> bytes:
    chunk = file.read(max(0, min(CHUNK_BYTES, left)))
    if left > 0 and not chunk:
        raise NotFound("The file of a blob is shorter than it was written.")
    return chunk


def _close_opened(opening: asyncio.Future[tuple[BinaryIO, int, bytes]]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result()[0].close()
