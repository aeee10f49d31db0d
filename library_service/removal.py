"""Trashes and deletes items, and deletes the bytes of blobs that nothing uses: rows first, bytes, the blob's row."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from library_service import moves
from library_service.domain import Item
from library_service.outbox import Deliveries
from library_service.storage import Storage, Transaction
from library_service.storage.blob_rows import Doomed
from service_kit import crash
from service_kit.blobs import LIBRARY_BUCKET, BlobStore, erase
from service_kit.errors import AtelierError, NotFound, Unavailable
from service_kit.events.followers import Changes
from service_kit.identity import Caller, Owner
from service_kit.telemetry import get_logger

_BATCH = 100
_AFTERMATH_LIMIT_S = 2.0
# How late the write of a process that stood still may arrive.
_LINGER = timedelta(minutes=10)
_DRAFT_AGE = timedelta(days=1)

log = get_logger(__name__)


class Removal:
    """Trashes and deletes items, and sweeps blobs."""

    def __init__(self, storage: Storage, store: BlobStore, deliveries: Deliveries, changes: Changes) -> None:
        self._storage = storage
        self._store = store
        self._deliveries = deliveries
        self._changes = changes
        self._turn = asyncio.Lock()

    async def trash_item(self, caller: Caller, item_id: str) -> None:
        """Put an item into the trash; one that is there, or gone, is answered again.

        Raises:
            NotFound: there never was such an item, or somebody else owns it.
            FailedPrecondition: `owner_erased`.
        """
        async with self._storage.write() as tx:
            await tx.erased.refuse(caller.owner)
            item = await _known(tx, caller.owner, item_id)
            if not await moves.trash(tx, caller, item):
                return
        log.info("item_trashed", item_id=item_id)
        await self.follow_up(caller.owner)

    async def delete_item(self, caller: Caller, item_id: str) -> None:
        """Delete an item for good, wherever it is; one that is gone is answered again.

        Raises:
            NotFound: there never was such an item, or somebody else owns it.
            FailedPrecondition: `owner_erased`.
        """
        async with self._storage.write() as tx:
            await tx.erased.refuse(caller.owner)
            item = await _known(tx, caller.owner, item_id)
            if not await moves.delete(tx, caller, item):
                return
        crash.reach("library.delete.committed")
        log.info("item_deleted", item_id=item_id)
        await self.follow_up(caller.owner, sweeping=True)

    async def empty_trash(self, older_than: timedelta) -> int:
        """Delete some of the items that have been in the trash for too long. Returns how many were found."""
        async with self._storage.read() as tx:
            overdue = await tx.items.find_overdue(trashed_for=older_than, limit=_BATCH)
        for owner, item_id in overdue:
            async with self._storage.write() as tx:
                # Of an erased owner everything goes anyway, and without a trace.
                item = None if await tx.erased.among([owner]) else await tx.items.find(owner, item_id)
                if item is None or not await moves.expire(tx, item, trashed_for=older_than):
                    continue
            log.info("item_expired", item_id=item_id)
            self._changes.tell(owner)
        return len(overdue)

    async def sweep(self) -> int:
        """Delete the bytes of every blob that is to be deleted. Returns how many are gone; may break off anywhere."""
        gone = 0
        async with self._turn:
            async with self._storage.write() as tx:
                overdue = await tx.blobs.give_up_overdue(linger=_LINGER)
            if overdue:
                log.warning("copies_given_up", count=overdue)
            after = ""
            while True:
                async with self._storage.read() as tx:
                    doomed = await tx.blobs.find_doomed(after=after, limit=_BATCH)
                for blob in doomed:
                    gone += await self._remove(blob)
                    after = blob.blob_id
                if len(doomed) < _BATCH:
                    return gone

    async def clear_drafts(self) -> None:
        """Remove what copies have left whose process died long ago."""
        await self._store.clear_drafts(LIBRARY_BUCKET, older_than=_DRAFT_AGE)

    async def clean_up_after_crash(self) -> None:
        """Give up the copies and claims that the last run of this process left, where no other one can have them."""
        if not self._storage.is_ours_alone:
            return
        async with self._storage.write() as tx:
            left = await tx.blobs.give_up_all()
            await tx.outbox.unclaim_all()
        if left:
            log.warning("copies_given_up", count=left)

    async def _remove(self, blob: Doomed) -> bool:
        try:
            await erase(self._store, blob.bucket, blob.key)
        except Unavailable as error:
            # A backup is running: the next sweep deletes it.
            log.info("deletion_postponed", blob_id=blob.blob_id, error=error.message)
            return False
        except OSError:
            log.exception("blob_not_deleted", blob_id=blob.blob_id)
            return False
        if blob.may_be_written:
            return False
        async with self._storage.write() as tx:
            await tx.blobs.forget(blob.blob_id)
        return True

    async def follow_up(self, owner: Owner, *, sweeping: bool = False) -> None:
        """Do now what the loops would do in a moment, so that who looks next sees neither mark nor, if so, bytes."""
        self._changes.tell(owner)
        try:
            async with asyncio.timeout(_AFTERMATH_LIMIT_S):
                if sweeping:
                    await self.sweep()
                await self._deliveries.deliver_due()
        except (TimeoutError, AtelierError) as error:
            log.info("removal_goes_on", error=repr(error))


async def _known(tx: Transaction, owner: Owner, item_id: str) -> Item:
    item = await tx.items.find(owner, item_id)
    if item is None:
        raise NotFound.of("item", item_id)
    return item
