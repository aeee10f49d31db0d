"""Every query on items, their files, and what the asset service is to know about them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, delete, insert, literal, null, select, true, union_all, update
from sqlalchemy.ext.asyncio import AsyncConnection

from library_service.domain import Item, Media, Place, StoredFile
from library_service.domain.words import VERSION, Facts, Labels, tokens_of
from library_service.storage.tables import (
    audit,
    blobs,
    collection_items,
    item_files,
    item_tags,
    saved_marks,
    user_library,
)
from service_kit.bulk import among, delete_some, upsert
from service_kit.database import UtcDateTime, db_now
from service_kit.identity import Caller, Owner
from service_kit.ids import new_id


class Items:
    """Items within one transaction."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def find(self, owner: Owner, item_id: str) -> Item | None:
        """Return an item, deleted or not; None when there never was one, or somebody else owns it."""
        return await self._one(select(user_library).where(of_owner(owner), user_library.c.item_id == item_id))

    async def trash(self, owner: Owner, item_id: str) -> bool:
        """Put an item into the trash. Tells whether it was outside."""
        return await self._change(owner, item_id, _not_trashed(), trashed_at=db_now())

    async def restore(self, owner: Owner, item_id: str, *, trashed_by: datetime | None = None) -> bool:
        """Take an item out of the trash; with a moment only if it was there by then. Tells whether it was taken out."""
        condition: ColumnElement[bool] = user_library.c.trashed_at.is_not(None)
        if trashed_by is not None:
            condition = user_library.c.trashed_at <= literal(trashed_by, UtcDateTime)
        return await self._change(owner, item_id, condition, trashed_at=None)

    async def find_overdue(self, *, trashed_for: timedelta, limit: int) -> list[tuple[Owner, str]]:
        """Return items that have been in the trash for so long, and their owners."""
        query = select(user_library.c.tenant_id, user_library.c.owner_id, user_library.c.item_id).where(
            _not_deleted(), _trashed_for(trashed_for)
        )
        rows = await self._tx.execute(query.order_by(user_library.c.trashed_at).limit(limit))
        return [(Owner(row.tenant_id, row.owner_id), row.item_id) for row in rows]

    async def bury(self, owner: Owner, item_id: str, *, trashed_for: timedelta | None = None) -> list[str] | None:
        """Turn an item into a tombstone of ids and times; with a duration only if it is in the trash for so long.

        Returns:
            The blobs that it had, one id for each file; None when somebody else buried or restored it meanwhile.
        """
        condition = true() if trashed_for is None else _trashed_for(trashed_for)
        nothing = {"provenance": b"", "title": "", "title_key": "", "notes": "", "model": "", "words": None}
        if not await self._change(owner, item_id, condition, deleted_at=db_now(), **nothing):
            return None
        for labels in (item_tags, collection_items):
            await self._tx.execute(delete(labels).where(labels.c.item_id == item_id))
        return list(
            (
                await self._tx.execute(
                    delete(item_files).where(item_files.c.item_id == item_id).returning(item_files.c.blob_id)
                )
            ).scalars()
        )

    async def mark(self, owner: Owner, asset_id: str, item_id: str) -> int:
        """Remember as which item an asset is saved (empty: it is not). Returns the version of this mark."""
        first = upsert(self._tx, saved_marks).values(
            tenant_id=owner.tenant_id, owner_id=owner.owner_id, asset_id=asset_id, item_id=item_id, version=1
        )
        marked = await self._tx.execute(
            first.on_conflict_do_update(
                index_elements=["tenant_id", "owner_id", "asset_id"],
                set_={"item_id": item_id, "version": saved_marks.c.version + 1},
            ).returning(saved_marks.c.version)
        )
        version: int = marked.scalar_one()
        return version

    async def trim_deleted(self, older_than: timedelta) -> int:
        """Delete some old tombstones of deleted items. Returns how many; when it is none, no old one is left."""
        return await delete_some(self._tx, user_library, user_library.c.deleted_at <= db_now(plus=-older_than))

    async def trim_audit(self, older_than: timedelta) -> int:
        """Delete some old lines of the audit. Returns how many; when it is none, no old one is left."""
        return await delete_some(self._tx, audit, audit.c.at <= db_now(plus=-older_than))

    async def note(self, caller: Caller, action: str, item_id: str) -> None:
        """Write to the audit what a caller did to an item."""
        await self._note(caller.owner, caller.key_id, action, item_id)

    async def note_expiry(self, owner: Owner, action: str, item_id: str) -> None:
        """Write to the audit what happened to an item by itself: nobody did it, so no key is named."""
        await self._note(owner, "", action, item_id)

    async def _note(self, owner: Owner, key_id: str, action: str, item_id: str) -> None:
        await self._tx.execute(
            insert(audit).values(
                id=new_id(),
                at=db_now(),
                actor_key_id=key_id,
                tenant_id=owner.tenant_id,
                owner_id=owner.owner_id,
                action=action,
                subject_id=item_id,
            )
        )

    async def _change(self, owner: Owner, item_id: str, condition: ColumnElement[bool], **values: Any) -> bool:
        changed = await self._tx.execute(
            update(user_library)
            .where(of_owner(owner), user_library.c.item_id == item_id, _not_deleted(), condition)
            .values(version=user_library.c.version + 1, **values)
        )
        return changed.rowcount > 0

    async def _one(self, query: Any) -> Item | None:
        row = (await self._tx.execute(query)).one_or_none()
        return None if row is None else (await with_files(self._tx, [row]))[0]


async def with_files(tx: AsyncConnection, rows: Sequence[Row[Any]]) -> list[Item]:
    """Return the items of rows, in their order, each with its files, tags and collections."""
    item_ids = [row.item_id for row in rows]
    if not item_ids:
        return []
    files: dict[str, list[StoredFile]] = {item_id: [] for item_id in item_ids}
    query = (
        select(item_files.c.item_id, item_files.c.rendition, blobs)
        .join(blobs, blobs.c.blob_id == item_files.c.blob_id)
        .where(among(item_files.c.item_id, item_ids))
        .order_by(item_files.c.item_id, item_files.c.position)
    )
    for found in await tx.execute(query):
        files[found.item_id].append(_to_file(found))
    tags, collection_ids = await _labels(tx, item_ids)
    return [_to_item(row, files[row.item_id], tags[row.item_id], collection_ids[row.item_id]) for row in rows]


async def _labels(tx: AsyncConnection, item_ids: Sequence[str]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return the tags and the collections of items, with one statement."""
    found: dict[str, list[tuple[str, str]]] = {item_id: [] for item_id in item_ids}
    collection_ids: dict[str, list[str]] = {item_id: [] for item_id in item_ids}
    tagged = select(item_tags.c.item_id, item_tags.c.tag_key, item_tags.c.tag).where(
        among(item_tags.c.item_id, item_ids)
    )
    member = collection_items.c
    collected = select(member.item_id, member.collection_id, null().label("tag")).where(among(member.item_id, item_ids))
    for item_id, key, tag in await tx.execute(union_all(tagged, collected)):
        if tag is None:
            collection_ids[item_id].append(key)
        else:
            found[item_id].append((key, tag))
    # Sorted here, byte by byte: a database would compare by its own rules.
    tags = {item_id: [tag for _, tag in sorted(pairs)] for item_id, pairs in found.items()}
    return tags, {item_id: sorted(ids) for item_id, ids in collection_ids.items()}


def of_owner(owner: Owner) -> ColumnElement[bool]:
    """Return the condition that an item is an owner's."""
    return and_(user_library.c.tenant_id == owner.tenant_id, user_library.c.owner_id == owner.owner_id)


def _not_deleted() -> ColumnElement[bool]:
    return user_library.c.deleted_at.is_(None)


def _not_trashed() -> ColumnElement[bool]:
    return user_library.c.trashed_at.is_(None)


def _trashed_for(duration: timedelta) -> ColumnElement[bool]:
    return user_library.c.trashed_at <= db_now(plus=-duration)


def _to_file(row: Row[Any]) -> StoredFile:
    return StoredFile(
        rendition=row.rendition,
        media=Media(row.content_type, row.size_bytes, row.sha256, row.width, row.height, row.duration_ms),
        place=Place(row.bucket, row.key, row.generation),
    )


def found_by(item: Item, facts: Facts | None) -> dict[str, Any]:
    """Return the columns by which an item is found; without facts nobody finds it until upkeep has read them."""
    if facts is None:
        return {}
    words = tokens_of(item.owner, facts, item.labels)
    return {"model": facts.model, "words": words, "words_version": VERSION}


def _to_item(row: Row[Any], files: Sequence[StoredFile], tags: Sequence[str], collection_ids: Sequence[str]) -> Item:
    return Item(
        item_id=row.item_id,
        owner=Owner(row.tenant_id, row.owner_id),
        asset_id=row.asset_id,
        format=row.format,
        provenance=row.provenance,
        files=tuple(files),
        created_at=row.created_at,
        deleted_at=row.deleted_at,
        version=row.version,
        trashed_at=row.trashed_at,
        labels=Labels(row.title, tuple(tags), row.is_favourite, tuple(collection_ids)),
        notes=row.notes,
        title_key=row.title_key,
    )
