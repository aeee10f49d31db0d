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
import json
import os
import secrets
import shutil
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, MutableSequence, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from service_kit.blobs import (
    RESERVED_SUFFIX,
    BlobInfo,
    NewBlob,
    NotABlob,
    SignedUrl,
    UnreadableBlob,
    bundles,
    check_bucket,
    check_digest,
    check_key,
    folders,
    nameless,
    only_blobs,
    single_files,
)
from service_kit.blobs.local_files import DATA, META, Opened, look_at, opened, stat_of
from service_kit.blobs.single_files import NewFile
from service_kit.errors import AlreadyExists, AtelierError, NotFound, OutOfRange
from service_kit.file_copies import copy_bytes, make_room
from service_kit.finishing import thread_to_its_end

CHUNK_BYTES = 1 << 20
_TRIES = 10
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
            written, size_bytes = await _write(draft / DATA, chunks)
            check_digest(written, sha256)
            info = BlobInfo(bucket, key, _new_generation(), size_bytes, written, content_type, datetime.now(UTC))
            await thread_to_its_end(self._publish, draft, final, info)
        except BaseException:
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, draft, ignore_errors=True))
            raise
        return info

    async def put_bytes(
        self, bucket: str, key: str, data: bytes, *, content_type: str, sha256: str | None = None
    ) -> BlobInfo:
        """Write a small blob whose key is free; see `BlobStore.put_bytes`."""
        return await asyncio.to_thread(self._put_bytes, bucket, key, data, content_type, sha256)

    async def put_many(self, bucket: str, blobs: Sequence[NewBlob]) -> Sequence[BlobInfo | Exception]:
        """Write small blobs whose keys are free; see `BlobStore.put_many`. Those of one folder share its sync."""
        return await asyncio.to_thread(self._put_many, bucket, blobs)

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
        final = self._path(bucket, key)
        draft = await asyncio.to_thread(self._new_draft, bucket)
        try:
            size_bytes = await asyncio.to_thread(_link_synced, path, draft / DATA)
            info = BlobInfo(bucket, key, _new_generation(), size_bytes, sha256, content_type, datetime.now(UTC))
            # A draft that is removed while a thread publishes it would be there in part.
            await thread_to_its_end(_complete, draft, info)
            if checked is not None:
                await asyncio.shield(checked)
            await thread_to_its_end(self._show, draft, final, info)
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
        final = self._path(info.bucket, info.key)
        draft = await asyncio.to_thread(self._new_draft, info.bucket)
        try:
            written, _ = await _write(draft / DATA, chunks)
            check_digest(written, info.sha256)
            await thread_to_its_end(self._publish, draft, final, info)
        except BaseException:
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, draft, ignore_errors=True))
            raise

    async def stat(self, bucket: str, key: str) -> BlobInfo | None:
        """Return what is known about a blob; see `BlobStore.stat`."""
        return await asyncio.to_thread(stat_of, self._path(bucket, key), bucket, key)

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

    def _path(self, bucket: str, key: str) -> Path:
        check_bucket(bucket)
        check_key(key)
        return self._root / bucket / (key + RESERVED_SUFFIX)

    def _new_draft(self, bucket: str) -> Path:
        drafts = self._root / bucket / folders.DRAFTS
        folders.make_folders(drafts, self._root.parent)
        draft = drafts / secrets.token_hex(16)
        draft.mkdir(mode=0o700)
        return draft

    def _put_bytes(self, bucket: str, key: str, data: bytes, content_type: str, sha256: str | None) -> BlobInfo:
        blob = NewBlob(key, data, sha256 or hashlib.sha256(data).hexdigest(), content_type)
        [written] = self._put_many(bucket, [blob])
        if isinstance(written, Exception):
            raise written
        return written

    def _put_many(self, bucket: str, blobs: Sequence[NewBlob]) -> Sequence[BlobInfo | Exception]:
        now = datetime.now(UTC)
        infos = [
            BlobInfo(bucket, blob.key, _new_generation(), len(blob.data), blob.sha256, blob.content_type, now)
            for blob in blobs
        ]
        paths = [self._path(bucket, blob.key) for blob in blobs]
        written: MutableSequence[BlobInfo | Exception] = [*infos]
        for folder in dict.fromkeys(path.parent for path in paths):
            places = [place for place, path in enumerate(paths) if path.parent == folder]
            files = [NewFile(paths[place].name, blobs[place].data, single_files.note(infos[place])) for place in places]
            for place, file, error in zip(places, files, self._write_together(folder, files), strict=True):
                if error is not None:
                    written[place] = self._put_alone(paths[place], infos[place], file, error)
        return written

    def _write_together(self, folder: Path, files: Sequence[NewFile]) -> Sequence[OSError | None]:
        """Write files into a folder. Returns for each why it is not there; FileNotFoundError if it is to be alone."""
        small = [place for place, file in enumerate(files) if len(file.data) <= bundles.MOST_BYTES]
        found: MutableSequence[OSError | None] = [FileNotFoundError()] * len(files)
        if len(small) < 2:
            return found
        try:
            folders.make_folders(folder, self._root)
            with folders.opened(folder) as descriptor:
                try:
                    for some in (small[at : at + bundles.MOST] for at in range(0, len(small), bundles.MOST)):
                        written = bundles.write(descriptor, [files[place] for place in some])
                        for place, error in zip(some, written, strict=True):
                            found[place] = error
                finally:
                    # Also what was written before the system could no more.
                    os.fsync(descriptor)
        except (FileNotFoundError, nameless.NotHere):
            # The folder went in this moment, or the system cannot do that.
            return found
        except OSError as error:
            # Names may have been given, and a crash would lose them; those of other folders are not harmed.
            return [error] * len(files)
        return found

    def _put_alone(self, final: Path, info: BlobInfo, file: NewFile, error: OSError) -> BlobInfo | Exception:
        """Write a blob that could not be written with others for that reason. Returns it, or why it is not there."""
        if error.errno == errno.EEXIST:
            return _taken(info)
        if not isinstance(error, FileNotFoundError):
            return error
        try:
            self._put_one(final, info, file)
        except (AtelierError, OSError) as why:
            return why
        return info

    def _put_one(self, final: Path, info: BlobInfo, file: NewFile) -> None:
        with suppress(nameless.NotHere):
            self._at_its_key(final, info, lambda: _write_single(final.parent, file))
            return
        draft = self._new_draft(info.bucket)
        try:
            with (draft / DATA).open("xb", buffering=0) as data:
                _write_all(data, file.data)
                os.fsync(data.fileno())
            self._publish(draft, final, info)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise

    def _publish(self, draft: Path, final: Path, info: BlobInfo) -> None:
        _complete(draft, info)
        self._show(draft, final, info)

    def _show(self, draft: Path, final: Path, info: BlobInfo) -> None:
        self._at_its_key(final, info, lambda: draft.rename(final))
        folders.sync_folder(final.parent)

    def _at_its_key(self, final: Path, info: BlobInfo, publish: Callable[[], object]) -> None:
        for tries_left in reversed(range(_TRIES)):
            try:
                folders.make_folders(final.parent, self._root)
                publish()
                return
            except OSError as error:
                # A folder never takes the place of a file.
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    if final.parent.is_dir():
                        # Perhaps by an earlier try that broke off before this: its repeat believes that the name stays.
                        folders.sync_folder(final.parent)
                    raise _taken(info) from None
                # The last blob beside it was deleted in this moment, and the folder with it, or one above.
                if error.errno != errno.ENOENT or not tries_left:
                    raise

    def _open(self, bucket: str, key: str, generation: str | None) -> Opened:
        path = self._path(bucket, key)
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
        final = self._path(*target)
        draft = self._new_draft(target[0])
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
                *target, _new_generation(), known.size_bytes, known.sha256, known.content_type, datetime.now(UTC)
            )
            self._publish(draft, final, info)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        return info

    def _link(self, source: tuple[str, str], data: Path) -> None:
        path = self._path(*source)
        try:
            os.link(path / DATA if path.is_dir() else path, data)
        except FileNotFoundError:
            raise NotFound(f"There is no blob {source[1]} in {source[0]}.") from None

    def _delete(self, bucket: str, key: str, generation: str) -> bool:
        path = self._path(bucket, key)
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


def _complete(draft: Path, info: BlobInfo) -> None:
    """Write what is known of the bytes in a draft beside them: then it lacks its key only."""
    _write_meta(draft / META, info)
    folders.sync_folder(draft)


def _write_all(file: BinaryIO, chunk: bytes, digest: hashlib._Hash | None = None) -> None:
    if digest is not None:
        digest.update(chunk)
    rest = memoryview(chunk)
    while rest:
        rest = rest[file.write(rest) :]


def _write_single(folder: Path, file: NewFile) -> None:
    with folders.opened(folder) as descriptor:
        single_files.write(descriptor, file)
        os.fsync(descriptor)


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


def _taken(info: BlobInfo) -> AlreadyExists:
    return AlreadyExists(f"The key {info.key} in {info.bucket} is taken.")


def _new_generation() -> str:
    return secrets.token_hex(8)


def _write_meta(path: Path, info: BlobInfo) -> None:
    with path.open("xb") as file:
        file.write(json.dumps(single_files.note(info)).encode())
        file.flush()
        os.fsync(file.fileno())
