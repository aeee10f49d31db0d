"""Erasing an owner: everything of it in the library goes, for good, and nothing more is taken for it."""

from __future__ import annotations

from library_service.removal import Removal
from library_service.storage import Storage
from service_kit import crash
from service_kit.erasure import Steps, owner_digest
from service_kit.events.followers import Changes
from service_kit.identity import Owner
from service_kit.telemetry import get_logger

log = get_logger(__name__)


class Erasure:
    """Erases owners. May break off anywhere: a repeat goes on."""

    def __init__(self, storage: Storage, removal: Removal, changes: Changes) -> None:
        self._storage = storage
        self._removal = removal
        self._changes = changes

    async def erase(self, owner: Owner) -> int:
        """Erase an owner, in many small transactions.

        Returns how many rows and blobs are left, because a call lasts so long and no longer, or because a copy may
        still be written: repeat until it is none.
        """
        async with self._storage.write() as tx:
            await tx.erased.mark(owner)
            await tx.outbox.forget_owner(owner)
        crash.reach("library.erase.marked")
        if await self._delete_all(owner):
            async with self._storage.write() as tx:
                await tx.search.forget_deleted()
            await self._removal.sweep()
        async with self._storage.read() as tx:
            left = await tx.erased.count_rows(owner)
        self._changes.tell(owner)
        log.info("owner_erased", digest=owner_digest(owner), left=left)
        return left

    async def _delete_all(self, owner: Owner) -> bool:
        """Delete all rows but those of blobs, which stay until the bytes are gone. Tells whether there was time."""
        steps = Steps()

        async def delete_rows(limit: int) -> int:
            async with self._storage.write() as tx:
                return await tx.erased.delete_rows(owner, keep={"blobs"}, limit=limit)

        async def give_up_blobs(limit: int) -> int:
            async with self._storage.write() as tx:
                return await tx.blobs.give_up_owner(owner, limit=limit)

        # In this order: nothing uses a blob any more whose bytes go.
        return await steps.repeat(delete_rows) and await steps.repeat(give_up_blobs)
