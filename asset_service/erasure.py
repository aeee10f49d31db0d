"""Erasing an owner: everything of it in the workspace goes, for good, and nothing more is taken for it."""

from __future__ import annotations

from collections.abc import Awaitable

from asset_service.removal import Removal
from asset_service.storage import Storage
from asset_service.watch import Watchers
from service_kit import crash
from service_kit.erasure import Steps, owner_digest
from service_kit.errors import AtelierError
from service_kit.identity import Owner
from service_kit.telemetry import get_logger

log = get_logger(__name__)
_WITH_BYTES = frozenset({"workspace_assets", "uploads"})


class Erasure:
    """Erases owners. May break off anywhere: a repeat goes on."""

    def __init__(self, storage: Storage, removal: Removal, watchers: Watchers) -> None:
        self._storage = storage
        self._removal = removal
        self._watchers = watchers

    async def erase(self, owner: Owner) -> int:
        """Erase an owner, in many small transactions.

        Returns how many rows and blobs are left, because a call lasts so long and no longer, or because something is
        being written: repeat until it is none.
        """
        steps = Steps()
        async with self._storage.write() as tx:
            await tx.erased.mark(owner)
        crash.reach("asset.erase.marked")
        is_over = await self._let_go_all(owner, steps) and await self._delete_bytes(owner, steps)

        async def delete_rows(limit: int) -> int:
            async with self._storage.write() as tx:
                return await tx.erased.delete_rows(owner, keep=() if is_over else _WITH_BYTES, limit=limit)

        await steps.repeat(delete_rows)
        async with self._storage.read() as tx:
            left = await tx.erased.count_rows(owner)
        self._watchers.notify(owner)
        log.info("owner_erased", digest=owner_digest(owner), left=left)
        return left

    async def _let_go_all(self, owner: Owner, steps: Steps) -> bool:
        """Say of all bytes that they go. Tells whether there was time."""

        async def let_go_assets(limit: int) -> int:
            async with self._storage.write() as tx:
                # Whoever holds them: what is held for this owner has nobody any more.
                assets = await tx.assets.of_owner(owner, limit)
                await self._removal.let_go(tx, assets)
            return len(assets)

        async def give_up_uploads(limit: int) -> int:
            async with self._storage.write() as tx:
                return await tx.uploads.delete_later_of_owner(owner, limit)

        # Uploads first: one that is finished becomes an asset. And again: renditions are begun of an asset until it is
        # let go.
        return (
            await steps.repeat(give_up_uploads)
            and await steps.repeat(let_go_assets)
            and await steps.repeat(give_up_uploads)
        )

    async def _delete_bytes(self, owner: Owner, steps: Steps) -> bool:
        """Delete the bytes of all whose rows say so. Tells whether none are left.

        What is being written at this moment stays for the next time.
        """
        after = ""

        async def delete_assets(limit: int) -> int:
            nonlocal after
            async with self._storage.read() as tx:
                assets = await tx.assets.owned_deleting(owner, after=after, limit=limit)
            for asset in assets:
                after = asset.asset_id
                await self._delete(after, self._removal.delete_asset(asset))
            return len(assets)

        async def delete_uploads(limit: int) -> int:
            nonlocal after
            async with self._storage.read() as tx:
                uploads = await tx.uploads.owned_deleting(owner, after=after, limit=limit)
            for upload in uploads:
                after = upload.upload_id
                await self._delete(after, self._removal.delete_upload(upload))
            return len(uploads)

        if not await steps.repeat(delete_assets):
            return False
        after = ""
        if not await steps.repeat(delete_uploads):
            return False
        async with self._storage.read() as tx:
            left = await tx.assets.owned_deleting(owner, limit=1), await tx.uploads.owned_deleting(owner, limit=1)
        return not any(left)

    async def _delete(self, name: str, deletion: Awaitable[None]) -> None:
        try:
            await deletion
        except (AtelierError, OSError) as error:
            log.warning("deletion_failed", id=name, error=str(error))
