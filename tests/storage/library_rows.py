"""Rows of the library's storage, for tests."""

from __future__ import annotations

from datetime import datetime, timedelta

from library_service.domain import Copying, Item, Media, Place, StoredFile
from library_service.domain.selection import Selection, Sort
from library_service.storage import Storage, Transaction
from library_service.storage.saves import NewItem
from service_kit.clock import ManualClock
from service_kit.identity import Caller, KeyKind, Owner

ANN, BOB, OTHER = Owner("t", "ann"), Owner("t", "bob"), Owner("u", "ann")
MINUTE = timedelta(minutes=1)


def media(sha256: str = "00", content_type: str = "image/png") -> Media:
    return Media(content_type, 2**40, sha256, 640, 480, 0)


def copying(blob_id: str, sha256: str = "00") -> Copying:
    source = StoredFile("", media(sha256), Place("workspace", f"source-{blob_id}", "1"))
    return Copying(blob_id, "library", f"key-{blob_id}", source)


def item(item_id: str, clock: ManualClock, *, owner: Owner = ANN, asset_id: str = "", format: str = "image") -> Item:
    files = (StoredFile("", media(), Place("", "", "")),)
    return Item(item_id, owner, asset_id or f"of-{item_id}", format, b"\0prov", files, clock.now(), None, 1)


async def keep(tx: Transaction, blob_id: str, owner: Owner = ANN, sha256: str = "00") -> str:
    """Copy and publish bytes. Returns the blob that holds them."""
    await tx.blobs.announce(owner, [copying(blob_id, sha256)], writes_for=MINUTE)
    [used] = await tx.blobs.publish(owner, [(copying(blob_id, sha256), "g1")])
    return used


def caller(owner: Owner) -> Caller:
    """Return somebody who saves."""
    return Caller(owner, owner, KeyKind.USER, frozenset(), "k", datetime.max)


async def save(library: Storage, one: Item) -> None:
    async with library.write() as tx:
        blob_ids = [await keep(tx, f"blob-{one.item_id}", one.owner, one.item_id)]
        await tx.saves.add(caller(one.owner), [NewItem(one, blob_ids, None)])


async def listed(tx: Transaction, owner: Owner) -> list[str]:
    """Return the ids of an owner's newest items."""
    found = await tx.search.page(owner, Selection(), sort=Sort.NEWEST, after=None, limit=9)
    return [one.item_id for one in found]
