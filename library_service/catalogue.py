"""What an owner sees of the library: lists, counts, single items, and what happens to them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from library_service.domain import (
    EmptyState,
    Item,
    ItemChanged,
    ItemDeleted,
    ItemEvent,
    ItemSaved,
    ItemsSnapshot,
    Page,
)
from library_service.domain.selection import Counts, Place, Selection, Sort, decode_place, encode_place
from library_service.storage import DELETED, SAVED, Storage, Transaction
from service_kit.errors import NotFound
from service_kit.events import WakeUps, encode_cursor
from service_kit.events.followers import Followers
from service_kit.identity import Owner

DEFAULT_PAGE_SIZE = 50
SNAPSHOT_SIZE = 200
COUNT_AT_MOST = 10_000
"""Beyond it a count is said to be a bound."""

_BATCH = 100


class Catalogue:
    """Reads an owner's items."""

    def __init__(self, storage: Storage, wake_ups: WakeUps) -> None:
        self._storage = storage
        self.followers = Followers(wake_ups, self._find_changed)

    async def list_items(
        self, owner: Owner, selection: Selection, *, sort: Sort, page_size: int | None, page_token: str
    ) -> Page:
        """Return a page of a selection, and if it is empty why.

        Raises:
            InvalidArgument: the page token is not one of this order.
        """
        limit = page_size or DEFAULT_PAGE_SIZE
        after = decode_place(sort, page_token) if page_token else None
        async with self._storage.read() as tx:
            found = await tx.search.page(owner, selection, sort=sort, after=after, limit=limit + 1)
            empty_state = None if found else await _why_empty(tx, owner, selection, is_first=after is None)
        items = tuple(found[:limit])
        is_last = len(found) <= limit
        token = "" if is_last else encode_place(sort, _place(items[-1], sort))
        return Page(items, token, empty_state)

    async def count_items(self, owner: Owner, selection: Selection) -> Counts:
        """Count a selection, and what it has of each format, model and tag, up to `COUNT_AT_MOST`."""
        async with self._storage.read() as tx:
            return await tx.search.count(owner, selection, at_most=COUNT_AT_MOST)

    async def get_item(self, owner: Owner, item_id: str) -> Item:
        """Return one item.

        Raises:
            NotFound: there is no such item, it was trashed or deleted, or somebody else owns it.
        """
        async with self._storage.read() as tx:
            item = await tx.items.find(owner, item_id)
        if item is None or item.deleted_at is not None or item.trashed_at is not None:
            raise NotFound.of("item", item_id)
        return item

    async def watch_items(self, owner: Owner, after: str, *, once: bool = False) -> AsyncGenerator[ItemEvent, None]:
        """Give what happens to an owner's items after a cursor, or after a snapshot that comes first.

        It never ends, or with what there is until now where `once` is set.
        """
        async with self._storage.read() as tx:
            place = await tx.place(owner)
            position = place.after(after)
            snapshot = None
            if position is None:
                position = place.position
                newest = await tx.search.page(owner, Selection(), sort=Sort.NEWEST, after=None, limit=SNAPSHOT_SIZE)
                snapshot = ItemsSnapshot(place.cursor, tuple(newest))
        with self.followers.follow(owner, position) as follower:
            if snapshot is not None:
                yield snapshot
            while True:
                async with self._storage.read() as tx:
                    events, seen = await _events_after(tx, owner, place.epoch, follower.position)
                for event in events:
                    yield event
                is_all = seen == follower.position
                follower.position = seen
                if is_all:
                    if once:
                        return
                    await follower.wait()

    async def _find_changed(self, since: Sequence[tuple[Owner, int]]) -> list[tuple[Owner, str, int]]:
        async with self._storage.read() as tx:
            return await tx.changed(since)


async def _events_after(tx: Transaction, owner: Owner, epoch: str, position: int) -> tuple[list[ItemEvent], int]:
    """Return what happened after a position, and the place after it. A saved item that is gone by now is left out."""
    events: list[ItemEvent] = []
    for stored in await tx.events_after(position, owner, limit=_BATCH):
        position = stored.position
        item = await tx.items.find(owner, stored.subject_id)
        if item is None:
            continue
        cursor = encode_cursor(epoch, position)
        if stored.kind == DELETED:
            events.append(ItemDeleted(cursor, item))
        elif item.deleted_at is None and item.trashed_at is None:
            events.append(ItemSaved(cursor, item) if stored.kind == SAVED else ItemChanged(cursor, item))
    return events, position


async def _why_empty(tx: Transaction, owner: Owner, selection: Selection, *, is_first: bool) -> EmptyState | None:
    """Return why a page is empty; None for a page behind the last item."""
    if not await tx.search.has_any(owner, Selection(in_trash=selection.in_trash)):
        return EmptyState.NOTHING_SAVED
    matches = not is_first and await tx.search.has_any(owner, selection)
    return None if matches else EmptyState.NOTHING_MATCHES


def _place(item: Item, sort: Sort) -> Place:
    key = item.title_key if sort is Sort.TITLE else item.created_at
    return key, item.item_id
