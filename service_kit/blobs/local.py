"""A blob store in a local directory.

A blob is a folder `<bucket>/<key>.blob` that holds `data` and `meta.json`. It is written under `<bucket>/.tmp` and
published by one rename, which fails when the key is taken, so that a blob is there whole or not at all, and bytes and
meta never disagree. The generation is a random text in `meta.json`: unlike a file's times it survives a backup. A copy
is a hard link of `data`.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import AsyncGenerator, AsyncIterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from service_kit.blobs import RESERVED_SUFFIX, BlobInfo, SignedUrl, check_bucket, check_digest, check_key
from service_kit.clock import parse_rfc3339, rfc3339
from service_kit.errors import AlreadyExists, NotFound, OutOfRange

CHUNK_BYTES = 1 << 20
_TEMPORARY = ".tmp"
_TRIES = 10
_DATA = "data"
_META = "meta.json"
# Another file system, or one that has no links, or no more of them.
_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP)


class LocalBlobStore:
    """Blobs below one directory. Processes on one machine may share it; readers need no right to write."""

    def __init__(self, root: Path) -> None:
        """Choose the directory; it is made at the first write."""
        self._root = root
        self.origin = ""

    async def put(
        self, bucket: str, key: str, chunks: AsyncIterable[bytes], *, content_type: str, sha256: str | None = None
    ) -> BlobInfo:
        """Write a blob whose key is free; see `BlobStore.put`."""
        final = self._path(bucket, key)
        draft = await asyncio.to_thread(self._new_draft, bucket)
        try:
            written, size_bytes = await _write(draft / _DATA, chunks)
            check_digest(written, sha256)
            info = BlobInfo(bucket, key, _new_generation(), size_bytes, written, content_type, datetime.now(UTC))
            await asyncio.to_thread(self._publish, draft, final, info)
        except BaseException:
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, draft, ignore_errors=True))
            raise
        return info

    async def put_bytes(self, bucket: str, key: str, data: bytes, *, content_type: str) -> BlobInfo:
        """Write a small blob whose key is free; see `BlobStore.put_bytes`."""
        return await asyncio.to_thread(self._put_bytes, bucket, key, data, content_type)

    async def put_file(self, bucket: str, key: str, path: Path, *, content_type: str, sha256: str) -> BlobInfo:
        """Write a blob of a file by a hard link to it, or a copy from another disk; see `BlobStore.put_file`."""
        return await asyncio.to_thread(self._put_file, bucket, key, path, content_type, sha256)

    async def adopt(self, info: BlobInfo, chunks: AsyncIterable[bytes]) -> None:
        """Write a blob whose key is free as it was in another store, with the generation that rows know it by.

        Raises:
            AlreadyExists: the key is taken; its blob is untouched.
            InvalidArgument: `digest_mismatch`; nothing was written.
        """
        final = self._path(info.bucket, info.key)
        draft = await asyncio.to_thread(self._new_draft, info.bucket)
        try:
            written, _ = await _write(draft / _DATA, chunks)
            check_digest(written, info.sha256)
            await asyncio.to_thread(self._publish, draft, final, info)
        except BaseException:
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, draft, ignore_errors=True))
            raise

    async def stat(self, bucket: str, key: str) -> BlobInfo | None:
        """Return what is known about a blob; see `BlobStore.stat`."""
        return await asyncio.to_thread(_read_meta, self._path(bucket, key), bucket, key)

    async def open_range(
        self, bucket: str, key: str, *, offset: int = 0, length: int | None = None, generation: str | None = None
    ) -> AsyncGenerator[bytes]:
        """Stream bytes; see `BlobStore.open_range`."""
        opening = asyncio.ensure_future(asyncio.to_thread(self._open, bucket, key, generation))
        try:
            file, info = await asyncio.shield(opening)
        except asyncio.CancelledError:
            # Whoever leaves while the thread opens the file leaves nobody else to close it.
            opening.add_done_callback(_close_opened)
            raise
        try:
            if offset < 0 or offset > info.size_bytes:
                raise OutOfRange(f"offset must be 0..{info.size_bytes}, got {offset}")
            left = info.size_bytes - offset if length is None else min(length, info.size_bytes - offset)
            await asyncio.to_thread(file.seek, offset)
            while left > 0:
                chunk = await asyncio.to_thread(file.read, min(CHUNK_BYTES, left))
                if not chunk:
                    raise NotFound("The file of a blob is shorter than it was written.")
                left -= len(chunk)
                yield chunk
        finally:
            file.close()

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
        drafts = self._root / bucket / _TEMPORARY
        return await asyncio.to_thread(_clear_drafts, drafts, time.time() - older_than.total_seconds())

    async def list(self, bucket: str, prefix: str = "", *, after: str = "") -> AsyncGenerator[BlobInfo]:
        """Give every blob whose key starts with `prefix`; see `BlobStore.list`."""
        check_bucket(bucket)
        found = _keys(self._root / bucket, prefix)
        for key in await asyncio.to_thread(lambda: sorted(key for key in found if key > after)):
            info = await asyncio.to_thread(_read_meta, self._path(bucket, key), bucket, key)
            if info is not None:
                yield info

    async def sign(self, bucket: str, key: str, generation: str, *, ttl: timedelta) -> SignedUrl | None:
        """Return None: a directory serves nobody."""
        return None

    async def close(self) -> None:
        """Do nothing: no file stays open."""

    def _path(self, bucket: str, key: str) -> Path:
        check_bucket(bucket)
        check_key(key)
        return self._root / bucket / (key + RESERVED_SUFFIX)

    def _new_draft(self, bucket: str) -> Path:
        drafts = self._root / bucket / _TEMPORARY
        _make_folders(drafts, self._root.parent)
        draft = drafts / secrets.token_hex(16)
        draft.mkdir(mode=0o700)
        return draft

    def _put_bytes(self, bucket: str, key: str, data: bytes, content_type: str) -> BlobInfo:
        final = self._path(bucket, key)
        draft = self._new_draft(bucket)
        try:
            digest = hashlib.sha256()
            with (draft / _DATA).open("xb", buffering=0) as file:
                _write_all(file, data, digest)
                os.fsync(file.fileno())
            info = BlobInfo(
                bucket, key, _new_generation(), len(data), digest.hexdigest(), content_type, datetime.now(UTC)
            )
            self._publish(draft, final, info)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        return info

    def _put_file(self, bucket: str, key: str, path: Path, content_type: str, sha256: str) -> BlobInfo:
        final = self._path(bucket, key)
        draft = self._new_draft(bucket)
        try:
            data = draft / _DATA
            try:
                os.link(path, data)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                shutil.copyfile(path, data)
            with data.open("rb") as file:
                os.fsync(file.fileno())
                size_bytes = os.fstat(file.fileno()).st_size
            info = BlobInfo(bucket, key, _new_generation(), size_bytes, sha256, content_type, datetime.now(UTC))
            self._publish(draft, final, info)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        return info

    def _publish(self, draft: Path, final: Path, info: BlobInfo) -> None:
        _write_meta(draft / _META, info)
        _sync_folder(draft)
        for tries_left in reversed(range(_TRIES)):
            try:
                _make_folders(final.parent, self._root)
                draft.rename(final)
                break
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    raise AlreadyExists(f"The key {info.key} in {info.bucket} is taken.") from None
                # The last blob beside it was deleted in this moment, and the folder with it, or one above.
                if error.errno != errno.ENOENT or not tries_left:
                    raise
        _sync_folder(final.parent)

    def _open(self, bucket: str, key: str, generation: str | None) -> tuple[BinaryIO, BlobInfo]:
        path = self._path(bucket, key)
        info = _read_meta(path, bucket, key)
        if info is None or generation not in (None, info.generation):
            raise NotFound(f"There is no blob {key} in {bucket}.")
        try:
            return (path / _DATA).open("rb", buffering=0), info
        except FileNotFoundError:
            raise NotFound(f"There is no blob {key} in {bucket}.") from None

    def _copy(self, source: tuple[str, str], target: tuple[str, str], generation: str | None) -> BlobInfo:
        final = self._path(*target)
        draft = self._new_draft(target[0])
        try:
            file, known = self._open(*source, generation)
            file.close()
            try:
                os.link(self._path(*source) / _DATA, draft / _DATA)
            except FileNotFoundError:
                raise NotFound(f"There is no blob {source[1]} in {source[0]}.") from None
            info = BlobInfo(
                *target, _new_generation(), known.size_bytes, known.sha256, known.content_type, datetime.now(UTC)
            )
            self._publish(draft, final, info)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        return info

    def _delete(self, bucket: str, key: str, generation: str) -> bool:
        path = self._path(bucket, key)
        info = _read_meta(path, bucket, key)
        if info is None or info.generation != generation:
            return False
        doomed = self._root / bucket / _TEMPORARY / secrets.token_hex(16)
        try:
            path.rename(doomed)
        except FileNotFoundError:
            return False
        _sync_folder(path.parent)
        shutil.rmtree(doomed, ignore_errors=True)
        _remove_empty(path.parent, self._root / bucket)
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


def _write_all(file: BinaryIO, chunk: bytes, digest: hashlib._Hash) -> None:
    digest.update(chunk)
    rest = memoryview(chunk)
    while rest:
        rest = rest[file.write(rest) :]


def _close_opened(opening: asyncio.Future[tuple[BinaryIO, BlobInfo]]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result()[0].close()


def _new_generation() -> str:
    return secrets.token_hex(8)


def _write_meta(path: Path, info: BlobInfo) -> None:
    meta = {
        "generation": info.generation,
        "size_bytes": info.size_bytes,
        "sha256": info.sha256,
        "content_type": info.content_type,
        "created_at": rfc3339(info.created_at),
    }
    with path.open("xb") as file:
        file.write(json.dumps(meta).encode())
        file.flush()
        os.fsync(file.fileno())


def _read_meta(path: Path, bucket: str, key: str) -> BlobInfo | None:
    try:
        meta = json.loads((path / _META).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    return BlobInfo(
        bucket,
        key,
        meta["generation"],
        meta["size_bytes"],
        meta["sha256"],
        meta["content_type"],
        parse_rfc3339(meta["created_at"]),
    )


def _clear_drafts(drafts: Path, before: float) -> int:
    removed = 0
    for draft in drafts.iterdir() if drafts.is_dir() else ():
        try:
            touched = max(path.stat().st_mtime for path in (draft, *draft.iterdir()))
        except (FileNotFoundError, NotADirectoryError):
            # Published, or removed, in this moment.
            continue
        if touched < before:
            shutil.rmtree(draft, ignore_errors=True)
            removed += 1
    return removed


def _keys(root: Path, prefix: str) -> Iterator[str]:
    for folder, names, _ in os.walk(root):
        below = Path(folder).relative_to(root).as_posix()
        start = "" if below == "." else below + "/"
        for name in list(names):
            if name.endswith(RESERVED_SUFFIX):
                key = start + name.removesuffix(RESERVED_SUFFIX)
                if key.startswith(prefix):
                    yield key
        if not start and _TEMPORARY in names:
            names.remove(_TEMPORARY)
        names[:] = [name for name in names if not name.endswith(RESERVED_SUFFIX)]


def _remove_empty(folder: Path, top: Path) -> None:
    """Remove a folder and those above it that hold nothing: their names say whose blobs were there."""
    while folder != top:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


def _make_folders(folder: Path, known: Path) -> None:
    """Make a folder and its parents up to one that is known to exist, each synced into its parent."""
    if folder.is_dir():
        return
    if folder != known:
        _make_folders(folder.parent, known)
    folder.mkdir(mode=0o700, exist_ok=True, parents=folder == known)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
