"""From a spooled file to a blob: checked against what was announced, measured, and written once under its own key."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from asset_service.domain import Media, Upload
from asset_service.media import HEAD_BYTES, sniff
from asset_service.shape_domain import Shape
from asset_service.spool import Spool
from service_kit.blobs import WORKSPACE_BUCKET, BlobInfo, BlobStore, NewBlob, UnreadableBlob, erase
from service_kit.errors import (
    AlreadyExists,
    AtelierError,
    ErrorReason,
    FailedPrecondition,
    InvalidArgument,
    Unavailable,
)
from service_kit.finishing import to_the_end

Measure = Callable[[Path], Awaitable[Shape]]
Describe = Callable[[Path], Awaitable[Mapping[str, Any]]]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Begun:
    """An upload that has all its bytes, with their digest; what the bytes are is being found out."""

    upload: Upload
    media: asyncio.Task[Media]


Begin = Callable[[], Awaitable[Begun]]

MemoryFile = tuple[Upload, str, bytes]
"""An upload whose bytes are in memory: what they say that they are, and the bytes."""

PublishAll = Callable[[Sequence[MemoryFile]], Awaitable[list[str | Exception]]]


class Intake:
    """Makes blobs of spooled files. Whoever calls holds the lock of the upload."""

    def __init__(self, store: BlobStore, spool: Spool, measure: Measure, describe: Describe) -> None:
        self._store = store
        self._spool = spool
        self._measure = measure
        self._describe = describe

    async def begin(self, upload: Upload) -> Begun:
        """Begin to check a spooled file against what was announced, and to measure it.

        What it is comes later, or InvalidArgument: `digest_mismatch`, after which the upload begins anew; or
        `unsupported_media`.

        Raises:
            FailedPrecondition: `incomplete_upload`.
        """
        size_bytes = await self._spool.open(upload.upload_id)
        if size_bytes != upload.size_bytes:
            raise FailedPrecondition(
                f"The upload has {size_bytes} of {upload.size_bytes} bytes.", ErrorReason.INCOMPLETE_UPLOAD
            )
        return Begun(upload, asyncio.create_task(self._check(upload), name="intake.check"))

    async def _check(self, upload: Upload) -> Media:
        # A child reads the file while we do, and the disk writes what it has not written yet.
        shape = asyncio.create_task(self._measured(upload.upload_id), name="intake.measure")
        written = asyncio.create_task(self._spool.sync(upload.upload_id), name="intake.sync")
        try:
            sha256 = await self._spool.digest(upload.upload_id)
        finally:
            # Both to their end, whatever becomes of the other: nobody else owns them.
            await asyncio.gather(shape, written, return_exceptions=True)
        found = shape.result()
        written.result()
        if sha256 != upload.sha256:
            await self._spool.restart(upload.upload_id)
            raise InvalidArgument(
                f"The bytes have the SHA-256 {sha256}, and {upload.sha256} was announced; send them again.",
                ErrorReason.DIGEST_MISMATCH,
            )
        return _media(found, upload.size_bytes, sha256)

    async def take(self, upload: Upload, source: int) -> Begun:
        """Copy an open file of a worker on this machine, of which only a size was announced, and measure the copy.

        The copy is digested while it grows. As soon as it has all bytes nobody else can change any: then the child
        begins with it, and the disk. Closes `source`.

        Raises:
            FailedPrecondition: `incomplete_upload`; the file has another size.
        """
        loop, copied = asyncio.get_running_loop(), asyncio.Event()
        try:
            await self._empty(upload)
        except BaseException:
            os.close(source)
            raise

        def tell() -> None:
            loop.call_soon_threadsafe(copied.set)

        async def after_copy() -> Shape | AtelierError:
            await copied.wait()
            written = asyncio.create_task(self._spool.sync(upload.upload_id), name="intake.sync")
            try:
                found = await self._measured(upload.upload_id)
            finally:
                await to_the_end(written)
            return found

        measuring = asyncio.create_task(after_copy(), name="intake.after_copy")
        try:
            sha256 = await self._spool.take_in(upload.upload_id, source, upload.size_bytes, tell)
        except BaseException:
            measuring.cancel()
            await asyncio.gather(measuring, return_exceptions=True)
            raise

        async def media() -> Media:
            return _media(await measuring, upload.size_bytes, sha256)

        return Begun(replace(upload, sha256=sha256), asyncio.create_task(media(), name="intake.media"))

    async def _empty(self, upload: Upload) -> None:
        # Of an earlier try that broke off nothing is known but its size.
        await self._spool.open(upload.upload_id)
        await self._spool.restart(upload.upload_id)

    async def described(self, upload: Upload) -> Mapping[str, Any]:
        """Return how a spooled file says that it was made, by the names of `Described`; nothing when it does not."""
        return await self._describe(self._spool.path(upload.upload_id))

    async def _measured(self, upload_id: str) -> Shape | AtelierError:
        """Return what a spooled file is, or why it is refused: a wrong digest is told first."""
        try:
            return await self._measure(self._spool.path(upload_id))
        except AtelierError as error:
            return error

    async def write_checked(
        self, begins: Sequence[Begin], check: Callable[[Sequence[Begun]], Coroutine[Any, Any, T]]
    ) -> tuple[T, Sequence[str]]:
        """Make blobs of uploads that belong together. Returns what `check` says of them, and their generations.

        A store that takes long begins while they are measured; it shows none before all are found to be right.
        """
        tasks: list[asyncio.Task[Any]] = []
        try:
            begun = []
            for begin in begins:
                begun.append(await begin())
                tasks.append(begun[-1].media)
            checked = asyncio.create_task(check(begun), name="intake.checked")
            writes = [asyncio.create_task(self._publish_checked(one.upload, checked)) for one in begun]
            tasks += [checked, *writes]
            await asyncio.wait(writes)
            # What is wrong with the files is told before what is wrong with the store.
            return await checked, [write.result() for write in writes]
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            raise
        finally:
            # To their ends: the locks go after that.
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _publish_checked(self, upload: Upload, checked: asyncio.Future[Any]) -> str:
        """Write the blob of spooled bytes that are being checked: it is there only when the checks have succeeded.

        Returns:
            Its generation.

        Raises:
            InvalidArgument: `unsupported_media`; or what the checks raise.
        """
        content_type = await asyncio.to_thread(_told_type, self._spool.path(upload.upload_id))
        return await self._publish(upload, content_type, checked)

    async def _publish(self, upload: Upload, content_type: str, checked: asyncio.Future[Any]) -> str:
        """Write the blob of an upload, of its spooled bytes, unless an earlier try has. Returns its generation."""
        info: BlobInfo | None
        try:
            # Whoever has the lock writes: nobody does any more, so the store may have the file itself.
            info = await self._store.put_file(
                WORKSPACE_BUCKET,
                upload.key,
                self._spool.path(upload.upload_id),
                content_type=content_type,
                sha256=upload.sha256,
                checked=checked,
            )
        except AlreadyExists:
            await asyncio.shield(checked)
            info = await self._earlier(upload)
        return await self._own(upload, info)

    async def publish_all(self, files: Sequence[MemoryFile]) -> list[str | Exception]:
        """Write the blobs of uploads, each of a type and of bytes in memory, unless an earlier try has.

        Returns:
            The generation of each, or why it is not there.
        """
        return await self._generations(files, await self._store.put_many(WORKSPACE_BUCKET, _new_blobs(files)))

    @asynccontextmanager
    async def begin_all(self, files: Sequence[MemoryFile]) -> AsyncGenerator[PublishAll]:
        """Have the store begin with bytes of uploads that have no row yet. Gives what does `publish_all` for some.

        Those for which it is not called are no blobs, and nothing stays of them.
        """
        places = {upload.upload_id: place for place, (upload, _, _) in enumerate(files)}
        chosen: asyncio.Future[Sequence[int]] = asyncio.get_running_loop().create_future()
        writing = asyncio.create_task(
            self._store.put_many(WORKSPACE_BUCKET, _new_blobs(files), chosen=chosen), name="intake.begin_all"
        )

        async def publish(some: Sequence[MemoryFile]) -> list[str | Exception]:
            chosen.set_result([places[upload.upload_id] for upload, _, _ in some])
            return await self._generations(some, await writing)

        try:
            yield publish
        finally:
            chosen.cancel()
            # To its end: the locks go after that.
            await asyncio.gather(writing, return_exceptions=True)

    async def _generations(
        self, files: Sequence[MemoryFile], written: Sequence[BlobInfo | Exception]
    ) -> list[str | Exception]:
        generations: list[str | Exception] = []
        for (upload, _, _), outcome in zip(files, written, strict=True):
            try:
                if isinstance(outcome, AlreadyExists):
                    generations.append(await self._own(upload, await self._earlier(upload)))
                else:
                    generations.append(outcome.generation if isinstance(outcome, BlobInfo) else outcome)
            except AtelierError as error:
                generations.append(error)
        return generations

    async def _earlier(self, upload: Upload) -> BlobInfo | None:
        """Return what a try wrote that was cut before its row was: the key is this upload's alone."""
        try:
            return await self._store.stat(WORKSPACE_BUCKET, upload.key)
        except UnreadableBlob as error:
            if not error.is_lost:
                raise
            # Torn: the key is free again, else no repeat could ever succeed.
            await erase(self._store, WORKSPACE_BUCKET, upload.key)
            return None

    async def _own(self, upload: Upload, info: BlobInfo | None) -> str:
        """Return the generation of what lies at the key of an upload. Raises Unavailable unless it is its bytes."""
        if info is None or info.sha256 != upload.sha256:
            if info is not None:
                # The key is free again: else no repeat could ever succeed.
                await self._store.delete(WORKSPACE_BUCKET, upload.key, info.generation)
            raise Unavailable("The store does not hold the bytes that were written; repeat.")
        return info.generation


def _new_blobs(files: Sequence[MemoryFile]) -> Sequence[NewBlob]:
    return [NewBlob(upload.key, data, upload.sha256, content_type) for upload, content_type, data in files]


def _told_type(path: Path) -> str:
    with path.open("rb") as file:
        return sniff(file.read(HEAD_BYTES))


def _media(found: Shape | AtelierError, size_bytes: int, sha256: str) -> Media:
    """Return what a file is, or raise why it is refused."""
    if isinstance(found, AtelierError):
        raise found
    return Media.of(found, size_bytes, sha256)
