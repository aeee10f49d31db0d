"""How things go: hidden at once, their bytes deleted after the commit that says so, a tombstone left."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from asset_service.domain import Asset, AssetState, Blob, EventKind, Upload
from asset_service.locks import UploadLocks
from asset_service.spool import Spool
from asset_service.storage import Storage, Transaction
from service_kit import crash
from service_kit.blobs import WORKSPACE_BUCKET, BlobStore, erase
from service_kit.errors import Unavailable
from service_kit.telemetry import get_logger

log = get_logger(__name__)
# Far longer than the pause between two pieces of a write.
_DRAFT_AGE = timedelta(days=1)


class Removal:
    """Takes assets and uploads away, so that a crash between any two steps leaves nothing behind."""

    def __init__(self, storage: Storage, store: BlobStore, spool: Spool, locks: UploadLocks) -> None:
        self._storage = storage
        self._store = store
        self._spool = spool
        self._locks = locks
        self._wanted = asyncio.Event()

    def nudge(self) -> None:
        """Say that there may be bytes to delete."""
        self._wanted.set()

    async def wanted(self) -> None:
        """Wait until there may be bytes to delete."""
        await self._wanted.wait()
        self._wanted.clear()

    async def hide(self, tx: Transaction, assets: Sequence[Asset], action: str) -> list[Asset]:
        """Take locked assets from their owners, and those bytes that nobody holds. Returns what is left of each."""
        held = await tx.holds.held_among([asset.asset_id for asset in assets])
        gone = [
            replace(
                asset,
                state=AssetState.HIDDEN if asset.asset_id in held else AssetState.DELETING,
                version=asset.version + 1,
            )
            for asset in assets
        ]
        gone = await self._write(tx, gone)
        for asset in gone:
            tx.events.add(EventKind.REMOVED, asset)
        await tx.note_all((action, asset.owner, asset.asset_id, {}) for asset in gone)
        return gone

    async def let_go(self, tx: Transaction, assets: Sequence[Asset]) -> None:
        """Have the bytes of locked assets deleted, whoever holds them: nobody may any more."""
        await self._write(
            tx, [replace(asset, state=AssetState.DELETING, version=asset.version + 1) for asset in assets]
        )

    async def _write(self, tx: Transaction, changed: Sequence[Asset]) -> list[Asset]:
        # From here on only ids and times are kept of what is deleted, and where the bytes are until they are gone.
        after = [
            replace(asset, provenance=b"", filename="") if asset.state is AssetState.DELETING else asset
            for asset in changed
        ]
        await tx.holds.forget([asset.asset_id for asset in after if asset.state is AssetState.DELETING])
        if await tx.assets.take_away(after) != len(after):
            raise RuntimeError("an asset changed although its row was locked")
        return after

    async def delete_asset(self, asset: Asset) -> None:
        """Delete the bytes of an asset whose row says DELETING, and leave its tombstone."""
        crash.reach("asset.remove.committed")
        blobs = [rendition.blob for rendition in asset.renditions] + ([asset.blob] if asset.blob else [])
        for blob in blobs:
            await self._delete(blob)
        crash.reach("asset.remove.blob_deleted")
        tombstone = replace(
            asset, state=AssetState.REMOVED, media=None, blob=None, renditions=(), version=asset.version + 1
        )
        async with self._storage.write() as tx:
            await tx.assets.replace(tombstone, expected_version=asset.version)

    async def delete_upload(self, upload: Upload) -> None:
        """Delete the bytes of an upload whose row says DELETING, and then the row.

        Raises:
            Unavailable: another replica is still working on it.
        """
        # Under the lock no write to the key can be in flight, so that a key that is empty stays empty.
        async with self._locks.hold(upload.upload_id, patient=False):
            crash.reach("asset.remove.committed")
            await erase(self._store, WORKSPACE_BUCKET, upload.key)
            await self._spool.remove(upload.upload_id)
            crash.reach("asset.remove.blob_deleted")
            async with self._storage.write() as tx:
                await tx.uploads.forget([upload.upload_id])

    async def give_up(self, upload_id: str) -> None:
        """Take back an upload that failed, unless it has become an asset."""
        async with self._storage.write() as tx:
            if not await tx.uploads.delete_later(upload_id):
                return
            upload = await tx.uploads.find(upload_id)
        if upload is not None:
            try:
                await self.delete_upload(upload)
            except Unavailable as error:
                # Why the upload failed is the news; the row says DELETING, and the next look goes on.
                log.info("deletion_postponed", id=upload_id, error=error.message)

    async def clear_drafts(self) -> None:
        """Remove what writes to the bucket have left whose process died long ago."""
        await self._store.clear_drafts(WORKSPACE_BUCKET, older_than=_DRAFT_AGE)

    async def _delete(self, blob: Blob) -> None:
        await self._store.delete(blob.bucket, blob.key, blob.generation)
