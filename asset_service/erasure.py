"""Erasing an owner: everything of it in the workspace goes, for good, and nothing more is taken for it."""

from __future__ import annotations

from asset_service.removal import Removal
from asset_service.storage import Storage
from asset_service.watch import Watchers
from service_kit import crash
from service_kit.erasure import owner_digest
from service_kit.errors import AtelierError
from service_kit.identity import Owner
from service_kit.telemetry import get_logger

log = get_logger(__name__)
_BATCH = 200
_WITH_BYTES = frozenset({"workspace_assets", "uploads"})


class Erasure:
    """Erases owners. May break off anywhere: a repeat goes on."""

    def __init__(self, storage: Storage, removal: Removal, watchers: Watchers) -> None:
        self._storage = storage
        self._removal = removal
        self._watchers = watchers

    async def erase(self, owner: Owner) -> int:
        """Erase an owner. Returns how many rows and blobs wait for what is being written: repeat until it is none."""
        async with self._storage.write() as tx:
            await tx.erased.mark(owner)
            await tx.uploads.delete_later_of_owner(owner)
        while True:
            async with self._storage.write() as tx:
                # Whoever holds them: what is held for this owner has nobody any more.
                assets = await tx.assets.of_owner(owner, _BATCH)
                await self._removal.let_go(tx, assets)
                # Renditions of them that were begun since the first look; none are begun of what is let go.
                await tx.uploads.delete_later_of_owner(owner)
            if len(assets) < _BATCH:
                break
        crash.reach("asset.erase.marked")
        await self._delete_bytes(owner)
        async with self._storage.write() as tx:
            left = len(await tx.assets.owned_deleting(owner)) + len(await tx.uploads.owned_deleting(owner))
            await tx.erased.delete_rows(owner, keep=_WITH_BYTES if left else ())
        self._watchers.notify(owner)
        log.info("owner_erased", digest=owner_digest(owner), left=left)
        return left

    async def _delete_bytes(self, owner: Owner) -> None:
        """Delete the bytes of all whose rows say so. What is being written at this moment stays for the next time."""
        async with self._storage.read() as tx:
            assets = await tx.assets.owned_deleting(owner)
            uploads = await tx.uploads.owned_deleting(owner)
        for asset in assets:
            try:
                await self._removal.delete_asset(asset)
            except (AtelierError, OSError) as error:
                log.warning("deletion_failed", id=asset.asset_id, error=str(error))
        for upload in uploads:
            try:
                await self._removal.delete_upload(upload)
            except (AtelierError, OSError) as error:
                log.warning("deletion_failed", id=upload.upload_id, error=str(error))
