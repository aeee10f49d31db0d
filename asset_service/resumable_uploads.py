"""Files that clients bring in pieces: begun, filled, resumed after a break, and at the end an asset of the same id."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from asset_service.client_uploads import Announced, ClientUploads, check_announced
from asset_service.domain import MAX_PIECE_BYTES, Asset, Upload, UploadState, upload_key
from asset_service.locks import UploadLocks
from asset_service.removal import Removal
from asset_service.spool import Spool
from asset_service.storage import Storage
from service_kit import crash
from service_kit.errors import (
    ErrorReason,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from service_kit.finishing import Unbroken
from service_kit.identity import Owner
from service_kit.ids import new_id

MAX_OPEN = 32
"""How many uploads one owner may have open at a time."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an upload is: its size and what is there of it in bytes, and when it is removed unless completed."""

    upload_id: str
    size_bytes: int
    received_bytes: int
    expires_at: datetime


class ResumableUploads:
    """Takes files of clients piece by piece."""

    def __init__(
        self,
        storage: Storage,
        spool: Spool,
        locks: UploadLocks,
        unbroken: Unbroken,
        removal: Removal,
        client_uploads: ClientUploads,
        *,
        upload_ttl: timedelta,
    ) -> None:
        """Let an upload stay for `upload_ttl` after bytes were added to it the last time."""
        self._storage = storage
        self._spool = spool
        self._locks = locks
        self._unbroken = unbroken
        self._removal = removal
        self._client_uploads = client_uploads
        self._upload_ttl = upload_ttl

    async def begin(self, owner: Owner, announced: Announced) -> Progress:
        """Begin an upload.

        Raises:
            InvalidArgument: not a digest, or not a file's name.
            ResourceExhausted: `body_too_large`, or too many are open.
        """
        check_announced(announced)
        if not _SHA256.fullmatch(announced.sha256):
            raise InvalidArgument.field("sha256", "must be 64 lower-case hexadecimal digits")
        self._client_uploads.check_size(announced.size_bytes)
        upload_id = new_id()
        async with self._storage.write() as tx:
            await tx.erased.refuse(owner)
            if await tx.uploads.count_open_of_client(owner) >= MAX_OPEN:
                raise ResourceExhausted(
                    f"At most {MAX_OPEN} uploads of one owner may be open; complete or cancel one of them.",
                    ErrorReason.LIMIT_REACHED,
                )
            deadline = await tx.now() + self._upload_ttl
            upload = Upload(
                upload_id=upload_id,
                asset_id=upload_id,
                owner=owner,
                job_id=None,
                stage=0,
                fence=0,
                asset_index=0,
                rendition=None,
                key=upload_key(owner, upload_id, job_id=None, fence=0, asset_index=0),
                size_bytes=announced.size_bytes,
                sha256=announced.sha256,
                state=UploadState.OPEN,
                deadline_at=deadline,
                filename=announced.filename,
                believed_type=announced.content_type,
            )
            await tx.uploads.add(upload)
        crash.reach("asset.upload.started")
        return Progress(upload_id, announced.size_bytes, 0, deadline)

    async def append(self, owner: Owner, upload_id: str, offset: int, pieces: AsyncIterator[bytes]) -> Progress:
        """Add bytes at the end. Returns how far it is; that much is on the disk then.

        What came before an error or a break stays.

        Raises:
            NotFound: the owner has no such upload.
            FailedPrecondition: `incomplete_upload`; the upload ends at another offset.
            ResourceExhausted: `body_too_large`; more than was announced.
        """
        upload = await self._open(owner, upload_id)
        begun = offset
        async with self._locks.hold(upload_id):
            self._check_offset(offset, await self._spool.open(upload_id))
        async for data in pieces:
            if len(data) > MAX_PIECE_BYTES:
                raise InvalidArgument.field(
                    "data", f"must be at most {MAX_PIECE_BYTES} bytes, got {len(data)}", ErrorReason.OUT_OF_RANGE
                )
            if offset + len(data) > upload.size_bytes:
                raise ResourceExhausted(
                    f"{upload.size_bytes} bytes were announced, and this would be {offset + len(data)}.",
                    ErrorReason.BODY_TOO_LARGE,
                )
            async with self._locks.hold(upload_id):
                offset = await self._spool.write(upload_id, offset, data)
        return await self._progress(owner, upload_id, longer=offset > begun)

    async def get(self, owner: Owner, upload_id: str) -> Progress:
        """Return how far an upload is. Raises NotFound also when it was completed."""
        return await self._progress(owner, upload_id, longer=False)

    async def complete(self, owner: Owner, upload_id: str) -> Asset:
        """Make an upload an asset; a repeat returns the same.

        Raises:
            NotFound: the owner has no such upload.
            FailedPrecondition: `incomplete_upload`; bytes are missing, and it can go on.
            InvalidArgument: the file is refused, and nothing of it is left.
        """
        return await self._unbroken.run(self._complete(owner, upload_id))

    async def cancel(self, owner: Owner, upload_id: str) -> None:
        """Give an upload up. Raises NotFound when the owner has no such upload."""
        await self._open(owner, upload_id)
        await self._unbroken.run(self._removal.give_up(upload_id))

    async def _complete(self, owner: Owner, upload_id: str) -> Asset:
        async with self._locks.hold(upload_id):
            async with self._storage.read() as tx:
                asset = await tx.assets.find(upload_id, owner)
            if asset is not None:
                return asset
            upload = await self._open(owner, upload_id)
            there = await self._spool.open(upload_id)
            if there != upload.size_bytes:
                raise FailedPrecondition(
                    f"The upload has {there} of {upload.size_bytes} bytes; go on from there.",
                    ErrorReason.INCOMPLETE_UPLOAD,
                )
            announced = Announced(upload.filename, upload.believed_type, upload.size_bytes, upload.sha256)
            try:
                return await self._client_uploads.publish(upload, announced)
            except InvalidArgument:
                async with self._storage.write() as tx:
                    await tx.uploads.delete_later(upload_id)
                self._removal.nudge()
                raise

    async def _open(self, owner: Owner, upload_id: str) -> Upload:
        """Return an upload of a client that takes bytes."""
        async with self._storage.read() as tx:
            upload = await tx.uploads.find(upload_id)
        # One that comes in one stream makes an asset of another id.
        if upload is None or (upload.owner, upload.asset_id, upload.state) != (owner, upload_id, UploadState.OPEN):
            raise NotFound.of("upload", upload_id)
        return upload

    async def _progress(self, owner: Owner, upload_id: str, *, longer: bool) -> Progress:
        async with self._locks.hold(upload_id):
            upload = await self._open(owner, upload_id)
            await self._spool.open(upload_id)
            received_bytes = await self._spool.sync(upload_id)
        expires_at = upload.deadline_at
        async with self._storage.write() as tx:
            now = await tx.now()
            if longer or expires_at is None:
                expires_at = now + self._upload_ttl
                await tx.uploads.prolong(upload_id, expires_at)
        return Progress(upload_id, upload.size_bytes, received_bytes, expires_at)

    @staticmethod
    def _check_offset(offset: int, end: int) -> None:
        if offset != end:
            raise FailedPrecondition(
                f"offset must be {end}, where the upload ends, got {offset}", ErrorReason.INCOMPLETE_UPLOAD
            )
