"""Files that clients bring in pieces: begun, filled, resumed after a break, and at the end an asset of the same id."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from asset_service.client_uploads import Announced, ClientUploads, check_announced
from asset_service.domain import MAX_PIECE_BYTES, Asset, Upload, UploadState
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

    async def begin(self, owner: Owner, announced: Announced, *, open_ended: bool = False) -> Progress:
        """Begin an upload; of one that is open-ended, size and digest are said when it is completed.

        Raises:
            InvalidArgument: not a digest, not a file's name, or a size where none is known.
            ResourceExhausted: `body_too_large`, or too many are open.
        """
        check_announced(announced)
        _check_known(announced, open_ended=open_ended)
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
            upload = replace(
                announced.upload(upload_id, upload_id, owner, deadline_at=deadline),
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
            if not upload.size_bytes:
                self._client_uploads.check_size(offset + len(data))
            elif offset + len(data) > upload.size_bytes:
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

    async def complete(self, owner: Owner, upload_id: str, *, size_bytes: int = 0, sha256: str = "") -> Asset:
        """Make an upload an asset; a repeat returns the same.

        Raises:
            NotFound: the owner has no such upload.
            FailedPrecondition: `incomplete_upload`; it has not the size that was said, and can go on.
            InvalidArgument: no size was said, neither before nor now; or the file is refused, and nothing is left.
        """
        return await self._unbroken.run(self._complete(owner, upload_id, size_bytes, sha256))

    async def cancel(self, owner: Owner, upload_id: str) -> None:
        """Give an upload up. Raises NotFound when the owner has no such upload."""
        await self._open(owner, upload_id)
        await self._unbroken.run(self._removal.give_up(upload_id))

    async def _complete(self, owner: Owner, upload_id: str, size_bytes: int, sha256: str) -> Asset:
        async with self._locks.hold(upload_id):
            async with self._storage.read() as tx:
                asset = await tx.assets.find(upload_id, owner)
            if asset is not None:
                return asset
            upload = await self._open(owner, upload_id)
            upload = await self._sized(upload, size_bytes, sha256)
            announced = Announced(upload.filename, upload.believed_type, upload.size_bytes, upload.sha256)
            try:
                return await self._client_uploads.publish(upload, announced)
            except InvalidArgument:
                async with self._storage.write() as tx:
                    await tx.uploads.delete_later(upload_id)
                self._removal.nudge()
                raise

    async def _sized(self, upload: Upload, size_bytes: int, sha256: str) -> Upload:
        """Return an upload that is all there, with its size and its digest."""
        wanted = upload.size_bytes or size_bytes
        if not wanted:
            raise InvalidArgument.field(
                "size_bytes", "must be said: the upload was begun without it", ErrorReason.MISSING_FIELD
            )
        there = await self._spool.open(upload.upload_id)
        if there != wanted or size_bytes not in (0, wanted):
            raise FailedPrecondition(
                f"The upload has {there} of {size_bytes or wanted} bytes; go on from there.",
                ErrorReason.INCOMPLETE_UPLOAD,
            )
        if upload.sha256 and sha256 not in ("", upload.sha256):
            raise InvalidArgument.field("sha256", f"must be {upload.sha256}, as was announced, or be left out")
        digest = upload.sha256 or sha256 or await self._spool.digest(upload.upload_id)
        return replace(upload, size_bytes=wanted, sha256=digest)

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
        if longer or expires_at is None:
            async with self._storage.write() as tx:
                expires_at = await tx.now() + self._upload_ttl
                await tx.uploads.prolong(upload_id, expires_at)
        return Progress(upload_id, upload.size_bytes, received_bytes, expires_at)

    @staticmethod
    def _check_offset(offset: int, end: int) -> None:
        if offset != end:
            raise FailedPrecondition(
                f"offset must be {end}, where the upload ends, got {offset}", ErrorReason.INCOMPLETE_UPLOAD
            )


def _check_known(announced: Announced, *, open_ended: bool) -> None:
    """Raise InvalidArgument unless size and digest are both said, or neither of what is open-ended."""
    if open_ended:
        for name in ("size_bytes", "sha256"):
            if getattr(announced, name):
                message = "means nothing together with open_ended: leave it out"
                raise InvalidArgument.field(name, message, ErrorReason.CONFLICTING_FIELDS)
        return
    if announced.size_bytes < 1:
        raise InvalidArgument.field(
            "size_bytes", f"must be 1 or more, got {announced.size_bytes}", ErrorReason.OUT_OF_RANGE
        )
    if not announced.sha256:
        raise InvalidArgument.field("sha256", "must be given", ErrorReason.MISSING_FIELD)
