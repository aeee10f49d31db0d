"""Every query on items that were saved before their renditions were made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from library_service.domain import StoredFile
from library_service.storage.tables import item_files, late_items, user_library
from service_kit.bulk import among, upsert
from service_kit.database import db_now
from service_kit.identity import Owner


@dataclass(frozen=True, slots=True)
class LateItem:
    """An item that may lack renditions, the asset that it was made of, and how often that one was asked for them."""

    item_id: str
    owner: Owner
    asset_id: str
    attempts: int


class LateItems:
    """Late items within one transaction."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def add(self, owner: Owner, asset_by_item: dict[str, str], *, wait: timedelta) -> None:
        """Remember new items whose assets have no renditions yet."""
        rows = [
            {"item_id": item_id, "tenant_id": owner.tenant_id, "owner_id": owner.owner_id, "asset_id": asset_id}
            for item_id, asset_id in asset_by_item.items()
        ]
        if rows:
            new = upsert(self._tx, late_items).values(attempts=0, due_at=db_now(plus=wait))
            await self._tx.execute(new.on_conflict_do_nothing(), rows)

    async def claim(self, *, limit: int, claim: timedelta) -> list[LateItem]:
        """Take those that are due, for a time: then they are due again. None that somebody else is taking."""
        due = (
            select(late_items.c.item_id)
            .where(late_items.c.due_at <= db_now())
            .order_by(late_items.c.due_at, late_items.c.item_id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        claimed = await self._tx.execute(
            update(late_items)
            .where(late_items.c.item_id.in_(due))
            .values(due_at=db_now(plus=claim), attempts=late_items.c.attempts + 1)
            .returning(late_items)
        )
        found = [
            LateItem(row.item_id, Owner(row.tenant_id, row.owner_id), row.asset_id, row.attempts) for row in claimed
        ]
        return sorted(found, key=lambda late: late.item_id)

    async def postpone(self, item_ids: Sequence[str], *, wait: timedelta) -> None:
        """Ask again after a time."""
        await self._tx.execute(
            update(late_items).where(among(late_items.c.item_id, item_ids)).values(due_at=db_now(plus=wait))
        )

    async def end(self, item_ids: Sequence[str]) -> None:
        """Forget items that need nothing any more."""
        await self._tx.execute(delete(late_items).where(among(late_items.c.item_id, item_ids)))

    async def lock(self, late: LateItem) -> set[str] | None:
        """Keep an item as it is until the transaction ends. Returns its renditions; None when it is deleted."""
        mine = (user_library.c.item_id == late.item_id, user_library.c.deleted_at.is_(None))
        whose = (user_library.c.tenant_id == late.owner.tenant_id, user_library.c.owner_id == late.owner.owner_id)
        there = select(user_library.c.item_id).where(*mine, *whose).with_for_update()
        if (await self._tx.execute(there)).one_or_none() is None:
            return None
        known = select(item_files.c.rendition).where(item_files.c.item_id == late.item_id)
        return set((await self._tx.execute(known)).scalars())

    async def renditions_of(self, item_ids: Sequence[str]) -> dict[str, set[str]]:
        """Return which renditions items have, with the file itself, by item; a deleted one is left out."""
        found: dict[str, set[str]] = {}
        query = select(item_files.c.item_id, item_files.c.rendition).where(among(item_files.c.item_id, item_ids))
        for row in await self._tx.execute(query):
            found.setdefault(row.item_id, set()).add(row.rendition)
        return found

    async def add_files(self, late: LateItem, files: Sequence[tuple[StoredFile, str]]) -> None:
        """Give a locked item further files, each with its blob, behind those that it has."""
        last = select(func.max(item_files.c.position)).where(item_files.c.item_id == late.item_id)
        first = ((await self._tx.execute(last)).scalar_one() or 0) + 1
        await self._tx.execute(
            insert(item_files),
            [
                {"item_id": late.item_id, "position": first + place, "rendition": file.rendition, "blob_id": blob_id}
                for place, (file, blob_id) in enumerate(files)
            ],
        )
        await self._tx.execute(
            update(user_library)
            .where(user_library.c.item_id == late.item_id)
            .values(version=user_library.c.version + 1)
        )
