"""What happens to an item as a whole, within a transaction: into the trash, out of it, away.

Each tells the watchers, the audit, and the asset service, by a debt in the outbox.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from library_service.domain import Item
from library_service.storage import DELETED, SAVED, Transaction
from service_kit.identity import Caller


async def trash(tx: Transaction, caller: Caller, item: Item) -> bool:
    """Put an item into the trash. Tells whether it was outside."""
    if not await tx.items.trash(item.owner, item.item_id):
        return False
    tx.tell(replace(item, version=item.version + 1), DELETED)
    await tx.items.note(caller, "item_trashed", item.item_id)
    await _mark(tx, item, "")
    return True


async def restore(tx: Transaction, caller: Caller, item: Item, *, trashed_by: datetime | None = None) -> bool:
    """Take an item out of the trash; with a moment only if it was there by then. Tells whether it was taken out."""
    if not await tx.items.restore(item.owner, item.item_id, trashed_by=trashed_by):
        return False
    tx.tell(replace(item, version=item.version + 1), SAVED)
    await tx.items.note(caller, "item_restored", item.item_id)
    await _mark(tx, item, item.item_id)
    return True


async def delete(tx: Transaction, caller: Caller, item: Item) -> bool:
    """Delete an item for good, wherever it is; its bytes may go. Tells whether there was still anything of it."""
    blob_ids = None if item.deleted_at is not None else await tx.items.bury(item.owner, item.item_id)
    if blob_ids is None:
        return False
    await _forget(tx, item, blob_ids)
    await tx.items.note(caller, "item_deleted", item.item_id)
    return True


async def expire(tx: Transaction, item: Item, *, trashed_for: timedelta) -> bool:
    """Delete an item for good that is in the trash for so long. Tells whether it still was."""
    blob_ids = await tx.items.bury(item.owner, item.item_id, trashed_for=trashed_for)
    if blob_ids is None:
        return False
    await _forget(tx, item, blob_ids)
    await tx.items.note_expiry(item.owner, "item_expired", item.item_id)
    return True


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
