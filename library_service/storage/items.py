"""Every query on items, their files, and what the asset service is to know about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Row,
    and_,
    delete,
    insert,
    literal,
    literal_column,
    null,
    select,
    true,
    union_all,
    update,
)
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

# Where files have their positions.
_MEMBER, _TAG = -2, -1
_FILE_COLUMNS = (
    "bucket",
    "key",
    "generation",
    "content_type",
    "size_bytes",
    "sha256",
    "width",
    "height",
    "duration_ms",
)


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
    parts: dict[str, _Parts] = {item_id: _Parts() for item_id in item_ids}
    for found in await tx.execute(_PARTS, {"item_ids": item_ids}):
        mine = parts[found.item_id]
        if found.position == _MEMBER:
            mine.collection_ids.append(found.name)
        elif found.position == _TAG:
            mine.tags.append((found.name, found.tag))
        else:
            mine.files.append((found.position, _to_file(found)))
    return [_to_item(row, parts[row.item_id]) for row in rows]


@dataclass(slots=True)
class _Parts:
    """What an item has in other tables: files by position, tags by key, and collections, in no order."""

    files: list[tuple[int, StoredFile]] = field(default_factory=list)
    tags: list[tuple[str, str]] = field(default_factory=list)
    collection_ids: list[str] = field(default_factory=list)


def _parts() -> CompoundSelect[Any]:
    """Return the query of what items have in other tables: one for all, since a page waits for each that there is."""
    columns = [blobs.c[name] for name in _FILE_COLUMNS]
    nothing = [null() for _ in columns]
    tags, members = item_tags.c, collection_items.c
    return union_all(
        select(
            item_files.c.item_id,
            item_files.c.position,
            item_files.c.rendition.label("name"),
            null().label("tag"),
            *columns,
        )
        .join(blobs, blobs.c.blob_id == item_files.c.blob_id)
        .where(among(item_files.c.item_id, "item_ids")),
        select(tags.item_id, literal_column(str(_TAG)), tags.tag_key, tags.tag, *nothing).where(
            among(tags.item_id, "item_ids")
        ),
        select(members.item_id, literal_column(str(_MEMBER)), members.collection_id, null(), *nothing).where(
            among(members.item_id, "item_ids")
        ),
    )


_PARTS = _parts()


def of_owner(owner: Owner) -> ColumnElement[bool]:
    """Return the condition that an item is an owner's."""
    return and_(user_library.c.tenant_id == owner.tenant_id, user_library.c.owner_id == owner.owner_id)


def _not_deleted() -> ColumnElement[bool]:
    return user_library.c.deleted_at.is_(None)


def _not_trashed() -> ColumnElement[bool]:
    return user_library.c.trashed_at.is_(None)


def _trashed_for(duration: timedelta) -> ColumnElement[bool]:
    return user_library.c.trashed_at <= db_now(plus=-duration)


def _first(pair: tuple[int, StoredFile]) -> int:
    return pair[0]


def _to_file(row: Row[Any]) -> StoredFile:
    return StoredFile(
        rendition=row.name,
        media=Media(row.content_type, row.size_bytes, row.sha256, row.width, row.height, row.duration_ms),
        place=Place(row.bucket, row.key, row.generation),
    )


def found_by(item: Item, facts: Facts | None) -> dict[str, Any]:
    """Return the columns by which an item is found; without facts nobody finds it until upkeep has read them."""
    if facts is None:
        return {}
    words = tokens_of(item.owner, facts, item.labels)
    return {"model": facts.model, "words": words, "words_version": VERSION}


def _to_item(row: Row[Any], parts: _Parts) -> Item:
    # Sorted here, byte by byte: a database would compare by its own rules.
    tags = tuple(tag for _, tag in sorted(parts.tags)) if parts.tags else ()
    collection_ids = tuple(sorted(parts.collection_ids)) if parts.collection_ids else ()
    files = parts.files if len(parts.files) == 1 else sorted(parts.files, key=_first)
    return Item(
        item_id=row.item_id,
        owner=Owner(row.tenant_id, row.owner_id),
        asset_id=row.asset_id,
        format=row.format,
        provenance=row.provenance,
        files=tuple([file for _, file in files]),
        created_at=row.created_at,
        deleted_at=row.deleted_at,
        version=row.version,
        trashed_at=row.trashed_at,
        labels=Labels(row.title, tags, row.is_favourite, collection_ids),
        notes=row.notes,
        title_key=row.title_key,
    )
