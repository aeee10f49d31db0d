"""From a spooled file to a blob: checked against what was announced, measured, and written once under its own key."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from asset_service.domain import Media, Upload
from asset_service.media import Shape
from asset_service.spool import Spool
from service_kit.blobs import WORKSPACE_BUCKET, BlobInfo, BlobStore
from service_kit.errors import (
    AlreadyExists,
    AtelierError,
    ErrorReason,
    FailedPrecondition,
    InvalidArgument,
    Unavailable,
)

Measure = Callable[[Path], Awaitable[Shape]]
Describe = Callable[[Path], Awaitable[Mapping[str, Any]]]


class Intake:
    """Makes blobs of spooled files. Whoever calls holds the lock of the upload."""

    def __init__(self, store: BlobStore, spool: Spool, measure: Measure, describe: Describe) -> None:
        self._store = store
        self._spool = spool
        self._measure = measure
        self._describe = describe

    async def measured(self, upload: Upload) -> Media:
        """Check a spooled file against what was announced, and measure it.

        Raises:
            FailedPrecondition: `incomplete_upload`.
            InvalidArgument: `digest_mismatch`, after which the upload begins anew; or `unsupported_media`.
        """
        size_bytes = await self._spool.open(upload.upload_id)
        if size_bytes != upload.size_bytes:
            raise FailedPrecondition(
                f"The upload has {size_bytes} of {upload.size_bytes} bytes.", ErrorReason.INCOMPLETE_UPLOAD
            )
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
        if isinstance(found, AtelierError):
            raise found
        return Media(found.content_type, size_bytes, sha256, found.width, found.height, found.duration_ms)

    async def described(self, upload: Upload) -> Mapping[str, Any]:
        """Return how a spooled file says that it was made, by the names of `Described`; nothing when it does not."""
        return await self._describe(self._spool.path(upload.upload_id))

    async def _measured(self, upload_id: str) -> Shape | AtelierError:
        """Return what a spooled file is, or why it is refused: a wrong digest is told first."""
        try:
            return await self._measure(self._spool.path(upload_id))
        except AtelierError as error:
            return error

    async def publish(self, upload: Upload, media: Media, data: bytes | None = None) -> str:
        """Write the blob of an upload, of spooled bytes or of `data`, unless an earlier try has.

        Returns:
            Its generation.
        """
        info: BlobInfo | None
        try:
            if data is not None:
                info = await self._store.put_bytes(WORKSPACE_BUCKET, upload.key, data, content_type=media.content_type)
            else:
                # Whoever has the lock writes: nobody does any more, so the store may have the file itself.
                path = self._spool.path(upload.upload_id)
                info = await self._store.put_file(
                    WORKSPACE_BUCKET, upload.key, path, content_type=media.content_type, sha256=media.sha256
                )
        except AlreadyExists:
            # A try that was cut before its row was written. The key is this upload's alone, so the bytes are its own.
            info = await self._store.stat(WORKSPACE_BUCKET, upload.key)
        if info is None or info.sha256 != media.sha256:
            if info is not None:
                # The key is free again: else no repeat could ever succeed.
                await self._store.delete(WORKSPACE_BUCKET, upload.key, info.generation)
            raise Unavailable("The store does not hold the bytes that were written; repeat.")
        return info.generation
