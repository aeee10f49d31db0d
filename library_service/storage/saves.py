"""Every query with which many assets are saved at once: what is saved already, new items, their files and marks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from library_service.domain import Item
from library_service.domain.words import Facts
from library_service.storage.items import found_by, of_owner, with_files
from library_service.storage.outbox import DebtKind
from library_service.storage.tables import answered_saves, audit, item_files, outbox, saved_marks, user_library
from service_kit.bulk import among, delete_some, upsert
from service_kit.database import db_now
from service_kit.errors import Aborted
from service_kit.identity import Caller, Owner
from service_kit.ids import new_id


@dataclass(frozen=True, slots=True)
class NewItem:
    """An item to be written: its files are the blobs, in the order of `item.files`; `facts` is what it is found by."""

    item: Item
    blob_ids: Sequence[str]
    facts: Facts | None


class Saves:
    """Saves within one transaction."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def find(self, owner: Owner, asset_ids: Sequence[str]) -> dict[str, Item]:
        """Return the items that those of some assets are saved as that are, by asset, also those in the trash."""
        query = select(user_library).where(
            of_owner(owner), user_library.c.deleted_at.is_(None), among(user_library.c.asset_id, asset_ids)
        )
        return {item.asset_id: item for item in await with_files(self._tx, (await self._tx.execute(query)).all())}

    async def find_items(self, owner: Owner, item_ids: Sequence[str]) -> dict[str, Item]:
        """Return those of some items that were not deleted, by id, also those in the trash."""
        query = select(user_library).where(
            of_owner(owner), user_library.c.deleted_at.is_(None), among(user_library.c.item_id, item_ids)
        )
        return {item.item_id: item for item in await with_files(self._tx, (await self._tx.execute(query)).all())}

    async def add(self, caller: Caller, new: Sequence[NewItem]) -> None:
        """Write new items with their files, and that a caller saved them.

        Raises:
            Aborted: one of the assets was saved at the same moment.
        """
        rows = [
            {
                "item_id": one.item.item_id,
                "tenant_id": one.item.owner.tenant_id,
                "owner_id": one.item.owner.owner_id,
                "asset_id": one.item.asset_id,
                "format": one.item.format,
                "provenance": one.item.provenance,
                "created_at": one.item.created_at,
                "deleted_at": None,
                "version": one.item.version,
                **found_by(one.item, one.facts),
            }
            for one in new
        ]
        try:
            await self._tx.execute(insert(user_library), rows)
        except IntegrityError as error:
            raise Aborted from error
        files = [
            {"item_id": one.item.item_id, "position": position, "rendition": file.rendition, "blob_id": blob_id}
            for one in new
            for position, (file, blob_id) in enumerate(zip(one.item.files, one.blob_ids, strict=True))
        ]
        await self._tx.execute(insert(item_files), files)
        await self._note(caller, [one.item.item_id for one in new])

    async def mark(self, owner: Owner, item_by_asset: Mapping[str, str]) -> None:
        """Remember as which items assets are saved, and owe the asset service the news."""
        # Sorted, so that two transactions never wait for each other.
        rows = [
            {
                "tenant_id": owner.tenant_id,
                "owner_id": owner.owner_id,
                "asset_id": asset_id,
                "item_id": item_id,
                "version": 1,
            }
            for asset_id, item_id in sorted(item_by_asset.items())
        ]
        first = upsert(self._tx, saved_marks).values(rows)
        marked = await self._tx.execute(
            first.on_conflict_do_update(
                index_elements=["tenant_id", "owner_id", "asset_id"],
                set_={"item_id": first.excluded.item_id, "version": saved_marks.c.version + 1},
            ).returning(saved_marks.c.asset_id, saved_marks.c.version)
        )
        versions = {row.asset_id: row.version for row in marked}
        debts = [
            {"id": new_id(), "kind": DebtKind.MARK_SAVED.value, "payload": row | {"version": versions[row["asset_id"]]}}
            for row in rows
        ]
        await self._tx.execute(insert(outbox).values(attempts=0, due_at=db_now()), debts)

    async def answered(self, owner: Owner, key: str, asset_ids: Sequence[str]) -> dict[str, str]:
        """Return as which items assets were saved by the call of an idempotency key, by asset."""
        mine = (answered_saves.c.tenant_id == owner.tenant_id, answered_saves.c.owner_id == owner.owner_id)
        query = select(answered_saves.c.asset_id, answered_saves.c.item_id).where(
            *mine, answered_saves.c.idempotency_key == key, among(answered_saves.c.asset_id, asset_ids)
        )
        return {row.asset_id: row.item_id for row in await self._tx.execute(query)}

    async def answer(self, owner: Owner, key: str, item_by_asset: Mapping[str, str]) -> None:
        """Remember as which items the call of an idempotency key saved assets. What is remembered already stays."""
        rows = [
            {
                "tenant_id": owner.tenant_id,
                "owner_id": owner.owner_id,
                "idempotency_key": key,
                "asset_id": asset_id,
                "item_id": item_id,
                "created_at": db_now(),
            }
            for asset_id, item_id in sorted(item_by_asset.items())
        ]
        if rows:
            new = upsert(self._tx, answered_saves).values(rows)
            await self._tx.execute(new.on_conflict_do_nothing())

    async def trim_answers(self, older_than: timedelta) -> int:
        """Forget some old answers. Returns how many; when it is none, no old one is left."""
        return await delete_some(self._tx, answered_saves, answered_saves.c.created_at <= db_now(plus=-older_than))

    async def _note(self, caller: Caller, item_ids: Sequence[str]) -> None:
        rows = [
            {
                "id": new_id(),
                "actor_key_id": caller.key_id,
                "tenant_id": caller.owner.tenant_id,
                "owner_id": caller.owner.owner_id,
                "action": "item_saved",
                "subject_id": item_id,
            }
            for item_id in item_ids
        ]
        await self._tx.execute(insert(audit).values(at=db_now()), rows)
