"""Files that clients bring: one stream each, an asset at its end, or nothing."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from asset_service.domain import (
    MAX_PIECE_BYTES,
    Asset,
    AssetSource,
    AssetState,
    Blob,
    EventKind,
    Media,
    Upload,
    UploadState,
    upload_key,
)
from asset_service.imports import Imports, take_provenance
from asset_service.intake import Begun, Intake
from asset_service.locks import UploadLocks
from asset_service.removal import Removal
from asset_service.spool import Spool
from asset_service.storage import Storage
from asset_service.uploads import Nudge
from asset_service.watch import Watchers
from service_kit import crash
from service_kit.blobs import WORKSPACE_BUCKET
from service_kit.errors import DeadlineExceeded, ErrorReason, FailedPrecondition, InvalidArgument, ResourceExhausted
from service_kit.finishing import Unbroken
from service_kit.identity import Owner
from service_kit.ids import new_id

ProvenanceOf = Callable[[Mapping[str, Any], str], bytes]
"""Writes down how a file of some type says that it was made."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
# What programs say when they do not know; `application/x-www-form-urlencoded` is what curl says unless told otherwise.
_UNKNOWN_TYPES = frozenset({"", "application/octet-stream", "binary/octet-stream", "application/x-www-form-urlencoded"})
_ALIASES = {"image/jpg": "image/jpeg", "image/pjpeg": "image/jpeg", "image/x-png": "image/png"}


@dataclass(frozen=True, slots=True)
class Announced:
    """What a client says about its file; a size of 0 and empty texts say nothing."""

    filename: str
    content_type: str
    size_bytes: int
    sha256: str
    import_key: str = ""

    def upload(self, upload_id: str, asset_id: str, owner: Owner, *, deadline_at: datetime) -> Upload:
        """Return the upload that takes the file in, which is of no job and has nothing yet."""
        return Upload(
            upload_id=upload_id,
            asset_id=asset_id,
            owner=owner,
            job_id=None,
            stage=0,
            fence=0,
            asset_index=0,
            rendition=None,
            key=upload_key(owner, upload_id, job_id=None, fence=0, asset_index=0),
            size_bytes=self.size_bytes,
            sha256=self.sha256,
            state=UploadState.OPEN,
            deadline_at=deadline_at,
        )


class _BroughtInMeanwhile(Exception):
    def __init__(self, asset: Asset) -> None:
        super().__init__(asset.asset_id)
        self.asset = asset


class ClientUploads:
    """Makes assets of files that clients bring."""

    def __init__(
        self,
        storage: Storage,
        spool: Spool,
        intake: Intake,
        locks: UploadLocks,
        unbroken: Unbroken,
        removal: Removal,
        watchers: Watchers,
        imports: Imports,
        *,
        provenance_of: ProvenanceOf,
        nudge: Nudge,
        max_upload_bytes: int,
        upload_ttl: timedelta,
        asset_expiry: timedelta,
    ) -> None:
        """Call `nudge` when there is a new asset, which lacks renditions; `provenance_of` writes what a file says."""
        self._storage = storage
        self._spool = spool
        self._intake = intake
        self._locks = locks
        self._unbroken = unbroken
        self._removal = removal
        self._watchers = watchers
        self._imports = imports
        self._provenance_of = provenance_of
        self._nudge = nudge
        self._max_upload_bytes = max_upload_bytes
        self._upload_ttl = upload_ttl
        self._asset_expiry = asset_expiry

    async def create(self, owner: Owner, announced: Announced, pieces: AsyncIterator[tuple[bytes, int]]) -> Asset:
        """Take a file in. Returns the new asset; when anything is raised, nothing is left.

        A piece is its bytes and the size of the whole file, or 0 where the client does not say it. It must say it
        once: a client that breaks off can look like one that has come to its end.

        Raises:
            InvalidArgument: `unsupported_media`, `digest_mismatch` or `incomplete_upload`.
            ResourceExhausted: `body_too_large`.
            DeadlineExceeded: the file took too long to arrive.
        """
        check_announced(announced)
        self.check_size(announced.size_bytes)
        upload_id, asset_id = new_id(), new_id()
        if announced.import_key:
            asset_id, there = await self._imports.find(owner, announced.import_key)
            if there is not None:
                return there
        try:
            upload = await self._begin(upload_id, asset_id, owner, announced)
            async with asyncio.timeout(self._upload_ttl.total_seconds()):
                received, told_bytes = await self._receive(upload, pieces)
            _check_arrived(announced, received, told_bytes)
            return await self._unbroken.run(self._publish_locked(received, announced))
        except BaseException as error:
            await self._unbroken.run(self._removal.give_up(upload_id))
            if isinstance(error, _BroughtInMeanwhile):
                return error.asset
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded("The file took too long to arrive.") from None
            raise

    async def _begin(self, upload_id: str, asset_id: str, owner: Owner, announced: Announced) -> Upload:
        async with self._storage.write() as tx:
            await tx.erased.refuse(owner)
            upload = announced.upload(upload_id, asset_id, owner, deadline_at=await tx.now() + self._upload_ttl)
            await tx.uploads.add(upload)
        crash.reach("asset.upload.started")
        await self._spool.open(upload_id)
        return upload

    async def _receive(self, upload: Upload, pieces: AsyncIterator[tuple[bytes, int]]) -> tuple[Upload, int]:
        """Return the upload with the size and the digest of what arrived, and the size that the client told."""
        digest, size_bytes, told_bytes = hashlib.sha256(), 0, 0
        async for data, told in pieces:
            told_bytes = told or told_bytes
            if len(data) > MAX_PIECE_BYTES:
                raise InvalidArgument.field(
                    "data", f"must be at most {MAX_PIECE_BYTES} bytes, got {len(data)}", ErrorReason.OUT_OF_RANGE
                )
            self.check_size(size_bytes + len(data))
            digest.update(data)
            size_bytes = await self._spool.write(upload.upload_id, size_bytes, data)
        return replace(upload, size_bytes=size_bytes, sha256=digest.hexdigest()), told_bytes

    def check_size(self, size_bytes: int) -> None:
        """Raise ResourceExhausted, `body_too_large`, for a file that is larger than clients may bring."""
        if size_bytes > self._max_upload_bytes:
            raise ResourceExhausted(
                f"A file may have at most {self._max_upload_bytes} bytes; this one has {size_bytes} or more.",
                ErrorReason.BODY_TOO_LARGE,
            )

    async def _publish_locked(self, upload: Upload, announced: Announced) -> Asset:
        async with self._locks.hold(upload.upload_id):
            return await self.publish(upload, announced)

    async def publish(self, upload: Upload, announced: Announced) -> Asset:
        """Measure a file that has arrived whole and make it an asset. Whoever calls holds the lock of the upload.

        Raises:
            InvalidArgument: it is not what was announced, or not a picture or video that is taken.
            FailedPrecondition: the upload was given up.
        """
        begins = [partial(self._intake.begin, upload)]
        (media, said), (generation,) = await self._intake.write_checked(begins, partial(self._checked, announced))
        crash.reach("asset.upload.finished.blob")
        async with self._storage.write() as tx:
            if not await tx.uploads.stage(replace(upload, state=UploadState.STAGED)):
                raise FailedPrecondition(
                    "The upload took longer than it may, and was given up.", ErrorReason.INCOMPLETE_UPLOAD
                )
            now = await tx.now()
            source, provenance = AssetSource.UPLOAD, self._provenance_of(said, media.content_type)
            if announced.import_key:
                source = AssetSource.IMPORT
                provenance = await take_provenance(tx, upload.owner, announced.import_key)
                there = await tx.assets.find(upload.asset_id, upload.owner)
                if there is not None:
                    # Another upload of the same file was quicker; this one is given up.
                    raise _BroughtInMeanwhile(there)
            asset = Asset(
                asset_id=upload.asset_id,
                owner=upload.owner,
                job_id=None,
                asset_index=0,
                source=source,
                state=AssetState.AVAILABLE,
                media=media,
                blob=Blob(WORKSPACE_BUCKET, upload.key, generation),
                renditions=(),
                provenance=provenance,
                filename=announced.filename,
                saved_item_id="",
                saved_version=0,
                created_at=now,
                expires_at=now + self._asset_expiry,
                version=1,
            )
            await tx.assets.add(asset)
            await tx.uploads.forget([upload.upload_id])
            tx.events.add(EventKind.PUBLISHED, asset)
            await tx.note("uploaded", asset.owner, asset.asset_id, size_bytes=media.size_bytes)
        crash.reach("asset.upload.finished")
        await self._spool.remove(upload.upload_id)
        self._watchers.notify(asset.owner)
        self._nudge()
        return asset

    async def _checked(self, announced: Announced, begun: Sequence[Begun]) -> tuple[Media, Mapping[str, Any]]:
        """Wait for what a file is. Returns that, and how it says that it was made."""
        [one] = begun
        media = await one.media
        _check_type(announced.content_type, media)
        return media, {} if announced.import_key else await self._intake.described(one.upload)


def check_announced(announced: Announced) -> None:
    """Raise InvalidArgument for a digest that is none, and a name that is none."""
    if announced.sha256 and not _SHA256.fullmatch(announced.sha256):
        raise InvalidArgument.field("sha256", "must be 64 lower-case hexadecimal digits, or absent")
    if any(ord(character) < 0x20 for character in announced.filename):
        raise InvalidArgument.field("filename", "must not contain control characters")


def _check_arrived(announced: Announced, received: Upload, told_bytes: int) -> None:
    if not received.size_bytes:
        raise InvalidArgument("The file is empty.", ErrorReason.UNSUPPORTED_MEDIA)
    if received.size_bytes != told_bytes:
        told = f"{told_bytes} were announced" if told_bytes else "no size was: say size_bytes, at the latest at the end"
        raise InvalidArgument(f"{received.size_bytes} bytes arrived, and {told}.", ErrorReason.INCOMPLETE_UPLOAD)
    if announced.sha256 and received.sha256 != announced.sha256:
        raise InvalidArgument(
            f"The bytes that arrived have the SHA-256 {received.sha256}, and {announced.sha256} was announced.",
            ErrorReason.DIGEST_MISMATCH,
        )


def _check_type(believed: str, media: Media) -> None:
    plain = believed.partition(";")[0].strip().lower()
    if plain not in _UNKNOWN_TYPES and _ALIASES.get(plain, plain) != media.content_type:
        raise InvalidArgument(
            f"The file was announced as {plain}, and its bytes are {media.content_type}; send the right type, or none.",
            ErrorReason.MEDIA_DISGUISED,
        )
