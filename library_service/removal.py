"""Trashes, restores and deletes items, and deletes the bytes that nothing uses: rows first, bytes, the blob's row."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta

from library_service.domain import Item
from library_service.outbox import Deliveries
from library_service.storage import DELETED, SAVED, Storage, Transaction
from library_service.storage.blob_rows import Doomed
from service_kit import crash
from service_kit.blobs import LIBRARY_BUCKET, BlobStore
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


async def erase(store: BlobStore, bucket: str, key: str) -> None:
    """Delete what lies at a key of the library. A key belongs to one blob for ever, so any generation is its own."""
    found = await store.stat(bucket, key)
    if found is not None:
        await store.delete(bucket, key, found.generation)


class Removal:
    """Trashes, restores and deletes items, and sweeps blobs."""

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
        """
        async with self._storage.write() as tx:
            item = await _known(tx, caller.owner, item_id)
            if not await tx.items.trash(caller.owner, item_id):
                return
            tx.tell(replace(item, version=item.version + 1), DELETED)
            await tx.items.note(caller, "item_trashed", item_id)
            await _mark(tx, item, "")
        log.info("item_trashed", item_id=item_id)
        await self._tell(item)

    async def restore_item(self, caller: Caller, item_id: str) -> None:
        """Take an item out of the trash; one that is not there is answered again.

        Raises:
            NotFound: there is no such item, it was deleted, or somebody else owns it.
        """
        async with self._storage.write() as tx:
            item = await _known(tx, caller.owner, item_id)
            if item.deleted_at is not None:
                raise NotFound.of("item", item_id)
            if not await restore(tx, caller, item):
                return
        log.info("item_restored", item_id=item_id)
        await self._tell(item)

    async def delete_item(self, caller: Caller, item_id: str) -> None:
        """Delete an item for good, wherever it is; one that is gone is answered again.

        Raises:
            NotFound: there never was such an item, or somebody else owns it.
        """
        async with self._storage.write() as tx:
            item = await _known(tx, caller.owner, item_id)
            blob_ids = None if item.deleted_at is not None else await tx.items.bury(caller.owner, item_id)
            if blob_ids is None:
                return
            await _forget(tx, item, blob_ids)
            await tx.items.note(caller, "item_deleted", item_id)
        crash.reach("library.delete.committed")
        log.info("item_deleted", item_id=item_id)
        self._changes.tell(caller.owner)
        await self._finish(item)

    async def empty_trash(self, older_than: timedelta) -> int:
        """Delete some of the items that have been in the trash for too long. Returns how many were found."""
        async with self._storage.read() as tx:
            overdue = await tx.items.find_overdue(trashed_for=older_than, limit=_BATCH)
        for owner, item_id in overdue:
            async with self._storage.write() as tx:
                item = await _known(tx, owner, item_id)
                blob_ids = await tx.items.bury(owner, item_id, trashed_for=older_than)
                if blob_ids is None:
                    continue
                await _forget(tx, item, blob_ids)
                await tx.items.note_expiry(owner, "item_expired", item_id)
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

    async def _tell(self, item: Item) -> None:
        """Tell watchers, and the asset service: who looks at the workspace next sees the mark."""
        self._changes.tell(item.owner)
        try:
            async with asyncio.timeout(_AFTERMATH_LIMIT_S):
                await self._deliveries.deliver_due()
        except (TimeoutError, AtelierError) as error:
            log.info("delivery_postponed", error=repr(error))

    async def _finish(self, item: Item) -> None:
        """Do now what the loops would do in a moment, so that who looks next sees neither bytes nor mark."""
        try:
            async with asyncio.timeout(_AFTERMATH_LIMIT_S):
                await self.sweep()
                await self._deliveries.deliver_due()
        except (TimeoutError, AtelierError) as error:
            log.info("deletion_goes_on", item_id=item.item_id, error=repr(error))


async def restore(tx: Transaction, caller: Caller, item: Item, *, trashed_by: datetime | None = None) -> bool:
    """Take an item out of the trash, in a transaction; with a moment only if it was there by then.

    Watchers and the asset service are told. Tells whether it was taken out.
    """
    if not await tx.items.restore(item.owner, item.item_id, trashed_by=trashed_by):
        return False
    tx.tell(replace(item, version=item.version + 1), SAVED)
    await tx.items.note(caller, "item_restored", item.item_id)
    await _mark(tx, item, item.item_id)
    return True


async def _known(tx: Transaction, owner: Owner, item_id: str) -> Item:
    item = await tx.items.find(owner, item_id)
    if item is None:
        raise NotFound.of("item", item_id)
    return item


async def _forget(tx: Transaction, item: Item, blob_ids: list[str]) -> None:
    """Do what follows when an item was buried."""
    await tx.blobs.release(blob_ids)
    buried = await tx.items.find(item.owner, item.item_id)
    tx.tell(buried or item, DELETED)
    await _mark(tx, item, "")


async def _mark(tx: Transaction, item: Item, item_id: str) -> None:
    """Owe the asset service the news as which item an asset is saved; empty: it is not."""
    version = await tx.items.mark(item.owner, item.asset_id, item_id)
    await tx.outbox.owe_mark(item.owner, asset_id=item.asset_id, item_id=item_id, version=version)
