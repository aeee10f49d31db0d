"""Every query on what owners say of their items: titles, notes, favourites, tags, collections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Table, and_, delete, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from library_service.domain import Item
from library_service.domain.selection import Collection
from library_service.domain.words import fold_label
from library_service.storage.items import of_owner, with_files
from library_service.storage.tables import collection_items, collections, item_tags, user_library
from service_kit.bulk import among, upsert
from service_kit.database import db_now
from service_kit.errors import AlreadyExists
from service_kit.identity import Owner
from service_kit.ids import new_id

TITLE_KEY_LENGTH = 64


class Shelves:
    """Labels and collections within one transaction."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def lock(self, owner: Owner, item_ids: Sequence[str]) -> dict[str, Item]:
        """Return those of some items that an owner has or had, by id; nobody else changes them meanwhile."""
        query = select(user_library).where(of_owner(owner), among(user_library.c.item_id, item_ids))
        rows = (await self._tx.execute(query.order_by(user_library.c.item_id).with_for_update())).all()
        return {item.item_id: item for item in await with_files(self._tx, rows)}

    async def write(self, item: Item, *, title: str | None, notes: str | None, is_favourite: bool | None) -> None:
        """Write what is not None, and count the version up."""
        values: dict[str, Any] = {"version": user_library.c.version + 1}
        if title is not None:
            values |= {"title": title, "title_key": fold_label(title)[:TITLE_KEY_LENGTH]}
        if notes is not None:
            values["notes"] = notes
        if is_favourite is not None:
            values["is_favourite"] = is_favourite
        await self._tx.execute(
            update(user_library).where(of_owner(item.owner), user_library.c.item_id == item.item_id).values(**values)
        )

    async def tag(self, item: Item, *, add: Mapping[str, str], remove: Sequence[str]) -> None:
        """Add tags, by their keys, and remove others by theirs; one that is there keeps its spelling."""
        if remove:
            await self._tx.execute(
                delete(item_tags).where(item_tags.c.item_id == item.item_id, among(item_tags.c.tag_key, remove))
            )
        rows = [_of(item) | {"tag_key": key, "tag": tag} for key, tag in add.items()]
        await self._add(item_tags, rows)

    async def put_in(self, item: Item, collection_id: str) -> None:
        """Put an item into a collection, where it may be already."""
        await self._add(collection_items, [_of(item) | {"collection_id": collection_id, "added_at": db_now()}])

    async def take_out(self, item: Item, collection_id: str) -> None:
        """Take an item out of a collection, where it may not be."""
        rows = collection_items.c
        await self._tx.execute(
            delete(collection_items).where(rows.item_id == item.item_id, rows.collection_id == collection_id)
        )

    async def add_collection(self, owner: Owner, name: str) -> str:
        """Make a collection, or find the one of this name. Returns its id."""
        made = (
            upsert(self._tx, collections)
            .values(
                collection_id=new_id(),
                tenant_id=owner.tenant_id,
                owner_id=owner.owner_id,
                name=name,
                name_key=fold_label(name),
                created_at=db_now(),
                version=1,
            )
            .on_conflict_do_nothing(index_elements=["tenant_id", "owner_id", "name_key"])
        )
        await self._tx.execute(made)
        query = select(collections.c.collection_id).where(_owns(owner), collections.c.name_key == fold_label(name))
        collection_id: str = (await self._tx.execute(query)).scalar_one()
        return collection_id

    async def rename_collection(self, owner: Owner, collection_id: str, name: str) -> bool:
        """Rename a collection. Tells whether there is one.

        Raises:
            AlreadyExists: another one has the name.
        """
        try:
            changed = await self._tx.execute(
                update(collections)
                .where(_owns(owner), collections.c.collection_id == collection_id)
                .values(name=name, name_key=fold_label(name), version=collections.c.version + 1)
            )
        except IntegrityError:
            raise AlreadyExists(f"There is another collection with the name {name}.") from None
        return changed.rowcount > 0

    async def drop_collection(self, owner: Owner, collection_id: str) -> None:
        """Remove a collection that has no items any more; one that is gone is none."""
        await self._tx.execute(delete(collections).where(_owns(owner), collections.c.collection_id == collection_id))

    async def items_in(self, owner: Owner, collection_id: str, *, limit: int) -> list[str]:
        """Return the ids of some items of a collection, also of those in the trash."""
        rows = collection_items.c
        mine = and_(rows.tenant_id == owner.tenant_id, rows.owner_id == owner.owner_id)
        query = select(rows.item_id).where(mine, rows.collection_id == collection_id)
        return list((await self._tx.execute(query.order_by(rows.item_id).limit(limit))).scalars())

    async def count_collections(self, owner: Owner) -> int:
        """Return how many collections an owner has."""
        query = select(func.count()).select_from(collections).where(_owns(owner))
        count: int = (await self._tx.execute(query)).scalar_one()
        return count

    async def find_collections(self, owner: Owner, collection_id: str | None = None) -> list[Collection]:
        """Return an owner's collections by name, or the one with an id; none when there is none."""
        outside = and_(user_library.c.trashed_at.is_(None), user_library.c.deleted_at.is_(None))
        sizes = (
            select(collection_items.c.collection_id, func.count().label("size"))
            .join(user_library, user_library.c.item_id == collection_items.c.item_id)
            .where(
                collection_items.c.tenant_id == owner.tenant_id, collection_items.c.owner_id == owner.owner_id, outside
            )
            .group_by(collection_items.c.collection_id)
        )
        if collection_id is not None:
            sizes = sizes.where(collection_items.c.collection_id == collection_id)
        counted = sizes.subquery()
        query = (
            select(collections, func.coalesce(counted.c.size, 0).label("size"))
            .outerjoin(counted, counted.c.collection_id == collections.c.collection_id)
            .where(_owns(owner))
            .order_by(collections.c.name_key)
        )
        if collection_id is not None:
            query = query.where(collections.c.collection_id == collection_id)
        return [
            Collection(row.collection_id, row.name, row.created_at, row.version, row.size)
            for row in await self._tx.execute(query)
        ]

    async def _add(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            await self._tx.execute(upsert(self._tx, table).values(**row).on_conflict_do_nothing())


def _owns(owner: Owner) -> ColumnElement[bool]:
    return and_(collections.c.tenant_id == owner.tenant_id, collections.c.owner_id == owner.owner_id)


def _of(item: Item) -> dict[str, Any]:
    return {"item_id": item.item_id, "tenant_id": item.owner.tenant_id, "owner_id": item.owner.owner_id}
