"""Copies of items: an item of the library becomes an asset again, so that a new job can use it as a reference."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import timedelta

from asset_service.domain import (
    Asset,
    AssetSource,
    AssetState,
    Blob,
    EventKind,
    Media,
    RenditionFile,
    RenditionKind,
    Upload,
    UploadState,
    part_key,
)
from asset_service.locks import UploadLocks
from asset_service.removal import Removal
from asset_service.storage import Storage
from asset_service.watch import Watchers
from service_kit import crash
from service_kit.blobs import WORKSPACE_BUCKET, BlobStore
from service_kit.errors import Aborted, ErrorReason, FailedPrecondition, Internal, NotFound
from service_kit.finishing import Unbroken
from service_kit.identity import Owner
from service_kit.ids import new_id
from service_kit.telemetry import get_logger

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ItemFile:
    """One file of an item, as the library says: which (None: its own), what it is, and where it lies."""

    rendition: RenditionKind | None
    media: Media
    blob: Blob


@dataclass(frozen=True, slots=True)
class Original:
    """An item as the library says it is. Its own file comes first; `provenance` is opaque here."""

    item_id: str
    owner: Owner
    files: tuple[ItemFile, ...]
    provenance: bytes
    filename: str


class ItemCopies:
    """Copies the files of items inside the store: rows first, then bytes, then the asset."""

    def __init__(
        self,
        storage: Storage,
        store: BlobStore,
        locks: UploadLocks,
        unbroken: Unbroken,
        removal: Removal,
        watchers: Watchers,
        *,
        upload_ttl: timedelta,
        asset_expiry: timedelta,
    ) -> None:
        self._storage = storage
        self._store = store
        self._locks = locks
        self._unbroken = unbroken
        self._removal = removal
        self._watchers = watchers
        self._upload_ttl = upload_ttl
        self._asset_expiry = asset_expiry

    async def copy(self, item: Original) -> Asset:
        """Return the copy of an item that is in the workspace, a new one unless there is one. A failure leaves nothing.

        Raises:
            NotFound: the item's bytes are not there.
            Internal: a copy is not what the library says.
            FailedPrecondition: `owner_erased`.
        """
        known = await self._find(item)
        return known if known is not None else await self._unbroken.run(self._copy(item))

    async def _copy(self, item: Original) -> Asset:
        uploads = _uploads(item)
        try:
            async with AsyncExitStack() as locks:
                # Before the rows: nobody deletes what is being written. New ids are free, and nobody else knows them.
                for upload in uploads:
                    await locks.enter_async_context(self._locks.hold(upload.upload_id))
                await self._begin(uploads)
                crash.reach("asset.copy_item.started")
                pairs = zip(uploads, item.files, strict=True)
                staged = [await self._copy_file(upload, file) for upload, file in pairs]
                crash.reach("asset.copy_item.copied")
                asset = await self._publish(item, staged)
        except BaseException as error:
            for upload in uploads:
                await self._removal.give_up(upload.upload_id)
            # Somebody else may have copied it at the same moment.
            known = await self._find(item) if isinstance(error, Aborted) else None
            if known is None:
                raise
            return known
        self._watchers.notify(asset.owner)
        return asset

    async def _find(self, item: Original) -> Asset | None:
        async with self._storage.read() as tx:
            return await tx.assets.find_copy(item.item_id, item.owner)

    async def _begin(self, uploads: Sequence[Upload]) -> None:
        async with self._storage.write() as tx:
            await tx.erased.refuse(uploads[0].owner)
            deadline_at = await tx.now() + self._upload_ttl
            await tx.uploads.add_many([replace(upload, deadline_at=deadline_at) for upload in uploads])

    async def _copy_file(self, upload: Upload, file: ItemFile) -> Upload:
        source = file.blob
        try:
            await self._store.copy(
                (source.bucket, source.key), (WORKSPACE_BUCKET, upload.key), generation=source.generation
            )
        except NotFound:
            raise NotFound("The bytes of the item are not there; nothing was copied.", ErrorReason.NOT_FOUND) from None
        found = await self._store.stat(WORKSPACE_BUCKET, upload.key)
        if found is None or (found.size_bytes, found.sha256) != (file.media.size_bytes, file.media.sha256):
            log.error("copy_differs", upload_id=upload.upload_id, source_key=source.key)
            raise Internal("The copy is not what the item was; nothing was kept.", ErrorReason.DIGEST_MISMATCH)
        return replace(upload, state=UploadState.STAGED, media=file.media, generation=found.generation)

    async def _publish(self, item: Original, staged: Sequence[Upload]) -> Asset:
        own, *renditions = staged
        async with self._storage.write() as tx:
            for upload in staged:
                if not await tx.uploads.stage(upload):
                    raise FailedPrecondition(
                        "The copy took longer than it may, and was given up.", ErrorReason.INCOMPLETE_UPLOAD
                    )
            now = await tx.now()
            asset = Asset(
                asset_id=own.asset_id,
                owner=item.owner,
                job_id=None,
                asset_index=0,
                source=AssetSource.ITEM,
                state=AssetState.AVAILABLE,
                media=own.media,
                blob=own.blob,
                renditions=tuple(
                    RenditionFile(upload.rendition, upload.blob, upload.media)
                    for upload in renditions
                    if upload.rendition is not None and upload.media is not None
                ),
                provenance=item.provenance,
                filename=item.filename,
                saved_item_id="",
                saved_version=0,
                created_at=now,
                expires_at=now + self._asset_expiry,
                version=1,
                source_item_id=item.item_id,
            )
            await tx.assets.add(asset)
            # The keys belong to the asset from now on.
            await tx.uploads.forget([upload.upload_id for upload in staged])
            tx.events.add(EventKind.PUBLISHED, asset)
            await tx.note("copied_from_item", asset.owner, asset.asset_id)
            crash.reach("asset.copy_item.before_commit")
        return asset


def _uploads(item: Original) -> list[Upload]:
    asset_id = new_id()
    uploads: list[Upload] = []
    for file in item.files:
        upload_id = new_id()
        uploads.append(
            Upload(
                upload_id=upload_id,
                asset_id=asset_id,
                owner=item.owner,
                job_id=None,
                stage=0,
                fence=0,
                asset_index=0,
                rendition=file.rendition,
                key=part_key(item.owner, asset_id, upload_id),
                size_bytes=file.media.size_bytes,
                sha256=file.media.sha256,
                state=UploadState.OPEN,
                output_upload_id=uploads[0].upload_id if uploads else None,
            )
        )
    return uploads
