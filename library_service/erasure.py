"""Erasing an owner: everything of it in the library goes, for good, and nothing more is taken for it."""

from __future__ import annotations

from library_service.removal import Removal
from library_service.storage import Storage
from service_kit import crash
from service_kit.erasure import owner_digest
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
        """Erase an owner. Returns how many blobs wait for a copy that may still be written: repeat until it is none."""
        async with self._storage.write() as tx:
            await tx.erased.mark(owner)
            # Nothing uses its blobs any more; their rows stay until the bytes are gone.
            await tx.erased.delete_rows(owner, keep={"blobs"})
            await tx.search.forget_deleted()
            await tx.outbox.forget_owner(owner)
            await tx.blobs.give_up_owner(owner)
        crash.reach("library.erase.marked")
        await self._removal.sweep()
        async with self._storage.read() as tx:
            left = await tx.blobs.count_of(owner)
        self._changes.tell(owner)
        log.info("owner_erased", digest=owner_digest(owner), left=left)
        return left
