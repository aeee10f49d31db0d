"""What owners do with items that they have: label, collect, and many at once. Every change keeps the words in step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from library_service import moves
from library_service.domain import Item
from library_service.domain.selection import Collection
from library_service.domain.words import Facts, fold_label, tokens_of, words_of
from library_service.removal import Removal
from library_service.storage import CHANGED, Storage, Transaction
from service_kit.errors import (
    AtelierError,
    ErrorReason,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from service_kit.identity import Caller, Owner

MOST_COLLECTIONS = 1000
MOST_TAGS = 100
LONGEST_TAG = 64

_BATCH = 100

FactsOf = Callable[[Item], Facts]
"""Reads what an item's provenance says."""


class Move(StrEnum):
    """Where items go."""

    TRASH = "trash"
    RESTORE = "restore"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Change:
    """What is done to many items; what is empty or None is left as it is."""

    move: Move | None = None
    add_tags: tuple[str, ...] = ()
    remove_tags: tuple[str, ...] = ()
    is_favourite: bool | None = None
    put_in: str = ""
    take_out_of: str = ""


@dataclass(frozen=True, slots=True)
class ChangeResult:
    """What became of one item: nothing to say when it is as it was asked."""

    item_id: str
    failure: AtelierError | None = None


class Shelving:
    """Labels items, keeps collections, changes many items at once."""

    def __init__(self, storage: Storage, removal: Removal, facts_of: FactsOf) -> None:
        self._storage = storage
        self._removal = removal
        self._facts_of = facts_of

    async def update_item(
        self,
        caller: Caller,
        item_id: str,
        *,
        title: str | None,
        notes: str | None,
        is_favourite: bool | None,
        tags: Sequence[str] | None,
    ) -> Item:
        """Write what is not None. Returns the item as it is now.

        Raises:
            NotFound: there is no such item, it is in the trash, or somebody else owns it.
            InvalidArgument: a tag has neither letter nor digit.
            FailedPrecondition: `owner_erased`.
        """
        wanted = None if tags is None else keyed(tags, "tags")
        async with self._storage.write() as tx:
            await tx.erased.refuse(caller.owner)
            item = (await tx.shelves.lock(caller.owner, [item_id])).get(item_id)
            if item is None or item.deleted_at is not None or item.trashed_at is not None:
                raise NotFound.of("item", item_id)
            if wanted is not None:
                gone = [key for tag in item.labels.tags if (key := fold_label(tag)) not in wanted]
                await tx.shelves.tag(item, add=wanted, remove=gone)
            await tx.shelves.write(item, title=title, notes=notes, is_favourite=is_favourite)
            [changed] = await self._reword(tx, caller.owner, [item_id])
        await self._removal.follow_up(caller.owner)
        return changed

    async def change_items(self, caller: Caller, item_ids: Sequence[str], change: Change) -> list[ChangeResult]:
        """Change many items. Returns what became of each, in the order that was asked; safe to repeat.

        Raises:
            NotFound: there is no collection to put them in.
            InvalidArgument: a tag has neither letter nor digit.
            FailedPrecondition: `owner_erased`.
        """
        add, remove = keyed(change.add_tags, "add_tags"), list(keyed(change.remove_tags, "remove_tags"))
        failures: dict[str, AtelierError | None] = {}
        every = list(dict.fromkeys(item_ids))
        for start in range(0, len(every), _BATCH):
            some = sorted(every[start : start + _BATCH])
            async with self._storage.write() as tx:
                await tx.erased.refuse(caller.owner)
                if change.put_in and not await tx.shelves.find_collections(caller.owner, change.put_in):
                    raise NotFound.of("collection", change.put_in)
                items = await tx.shelves.lock(caller.owner, some)
                relabelled = []
                for item_id in some:
                    item = items.get(item_id)
                    failures[item_id] = failure = _refusal(item, item_id, change, add, remove)
                    if item is None or failure is not None:
                        continue
                    if change.move is Move.RESTORE:
                        await moves.restore(tx, caller, item)
                    if item.deleted_at is None and await self._label(tx, item, change, add, remove):
                        relabelled.append(item_id)
                await self._reword(tx, caller.owner, relabelled)
                await self._move(tx, caller, [items[name] for name in some if failures[name] is None], change.move)
        await self._removal.follow_up(caller.owner, sweeping=change.move is Move.DELETE)
        return [ChangeResult(item_id, failures[item_id]) for item_id in item_ids]

    async def create_collection(self, owner: Owner, name: str) -> Collection:
        """Make a collection, or return the one that has the name.

        Raises:
            InvalidArgument: the name has neither letter nor digit.
            ResourceExhausted: the owner has as many as there may be.
            FailedPrecondition: `owner_erased`.
        """
        _check_name(name)
        async with self._storage.write() as tx:
            await tx.erased.refuse(owner)
            collection_id = await tx.shelves.add_collection(owner, name)
            if await tx.shelves.count_collections(owner) > MOST_COLLECTIONS:
                raise ResourceExhausted(f"A library has {MOST_COLLECTIONS} collections at most; delete one.")
            return await _collection(tx, owner, collection_id)

    async def rename_collection(self, owner: Owner, collection_id: str, name: str) -> Collection:
        """Rename a collection.

        Raises:
            NotFound: there is none, or somebody else owns it.
            AlreadyExists: another one has the name.
            FailedPrecondition: `owner_erased`.
        """
        _check_name(name)
        async with self._storage.write() as tx:
            await tx.erased.refuse(owner)
            await tx.shelves.rename_collection(owner, collection_id, name)
            return await _collection(tx, owner, collection_id)

    async def delete_collection(self, owner: Owner, collection_id: str) -> None:
        """Delete a collection, never its items; one that is gone is answered again.

        Raises:
            FailedPrecondition: `owner_erased`.
        """
        while True:
            async with self._storage.write() as tx:
                await tx.erased.refuse(owner)
                item_ids = await tx.shelves.items_in(owner, collection_id, limit=_BATCH)
                items = await tx.shelves.lock(owner, item_ids)
                for item in items.values():
                    await tx.shelves.take_out(item, collection_id)
                    await tx.shelves.write(item, title=None, notes=None, is_favourite=None)
                await self._reword(tx, owner, list(items))
                if len(item_ids) < _BATCH:
                    await tx.shelves.drop_collection(owner, collection_id)
                    break
        await self._removal.follow_up(owner)

    async def list_collections(self, owner: Owner) -> list[Collection]:
        """Return an owner's collections, by name."""
        async with self._storage.read() as tx:
            return await tx.shelves.find_collections(owner)

    async def read_unread(self) -> int:
        """Write the words of some items that have none yet, such as those of an earlier release. Returns how many."""
        async with self._storage.read() as tx:
            items = await tx.search.find_unread(limit=_BATCH)
        # A hundred long prompts take a while: neither the loop nor the database waits. Whatever changes meanwhile
        # is another version, and read again.
        words = await asyncio.to_thread(lambda: [self._words(item) for item in items])
        if not words:
            return 0
        async with self._storage.write() as tx:
            return await tx.search.write_words(words)

    async def _label(
        self, tx: Transaction, item: Item, change: Change, add: dict[str, str], remove: Sequence[str]
    ) -> bool:
        """Do to an item what a change says of labels. Tells whether it changes anything."""
        keys = {fold_label(tag) for tag in item.labels.tags}
        collection_ids = set(item.labels.collection_ids)
        changes = (
            bool(add.keys() - keys),
            bool(keys.intersection(remove)),
            change.is_favourite is not None and change.is_favourite != item.labels.is_favourite,
            bool(change.put_in) and change.put_in not in collection_ids,
            change.take_out_of in collection_ids,
        )
        if not any(changes):
            return False
        await tx.shelves.tag(item, add=add, remove=remove)
        if change.put_in:
            await tx.shelves.put_in(item, change.put_in)
        if change.take_out_of in collection_ids:
            await tx.shelves.take_out(item, change.take_out_of)
        await tx.shelves.write(item, title=None, notes=None, is_favourite=change.is_favourite)
        return True

    async def _move(self, tx: Transaction, caller: Caller, items: Sequence[Item], move: Move | None) -> None:
        if move not in (Move.TRASH, Move.DELETE):
            return
        for item in items:
            # Its labels may have been written meanwhile: what is told of it grows from the version that it has now.
            current = await tx.items.find(caller.owner, item.item_id) or item
            await (moves.trash if move is Move.TRASH else moves.delete)(tx, caller, current)

    async def _reword(self, tx: Transaction, owner: Owner, item_ids: Sequence[str]) -> list[Item]:
        """Write the words of items whose labels were written in this transaction, and tell of them."""
        items = list((await tx.shelves.lock(owner, item_ids)).values()) if item_ids else []
        await tx.search.write_words([self._words(item) for item in items])
        for item in items:
            if item.trashed_at is None:
                tx.tell(item, CHANGED)
        return items

    def _words(self, item: Item) -> tuple[Item, str, str]:
        facts = self._facts_of(item)
        return item, facts.model, tokens_of(item.owner, facts, item.labels)


def keyed(tags: Sequence[str], field: str) -> dict[str, str]:
    """Return tags by what they are compared by; of two that are equal the first.

    Raises:
        InvalidArgument: one is too long, or has no word in it.
    """
    found: dict[str, str] = {}
    for index, tag in enumerate(tags):
        key = fold_label(tag)
        if not words_of(tag):
            raise InvalidArgument.field(f"{field}[{index}]", "must have a letter, a digit or a sign")
        if len(tag) > LONGEST_TAG:
            long = f"must have at most {LONGEST_TAG} characters, got {len(tag)}"
            raise InvalidArgument.field(f"{field}[{index}]", long, ErrorReason.OUT_OF_RANGE)
        found.setdefault(key, " ".join(tag.split()))
    return found


def _check_name(name: str) -> None:
    if not words_of(name):
        raise InvalidArgument.field("name", "must have a letter, a digit or a sign")


def _refusal(
    item: Item | None, item_id: str, change: Change, add: Mapping[str, str], remove: Sequence[str]
) -> AtelierError | None:
    """Return why an item is not changed; None when it is, or is as it was asked."""
    if item is None:
        return NotFound.of("item", item_id)
    if item.deleted_at is not None:
        is_answered = change.move in (Move.TRASH, Move.DELETE)
        return None if is_answered else NotFound.of("item", item_id)
    if item.trashed_at is not None and change.move is None:
        return FailedPrecondition("The item is in the trash; restore it first.")
    keys = {fold_label(tag) for tag in item.labels.tags}
    count = len(keys.difference(remove) | add.keys())
    # One that has them all already is answered again.
    if count > MOST_TAGS and add.keys() - keys:
        return FailedPrecondition(f"An item has {MOST_TAGS} tags at most, and this one would have {count}.")
    return None


async def _collection(tx: Transaction, owner: Owner, collection_id: str) -> Collection:
    found = await tx.shelves.find_collections(owner, collection_id)
    if not found:
        raise NotFound.of("collection", collection_id)
    return found[0]
