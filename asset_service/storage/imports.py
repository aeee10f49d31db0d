"""Every query on what is known of files that are brought in from other systems."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import ColumnElement, and_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from asset_service.storage.tables import imports
from service_kit.bulk import delete_some, upsert
from service_kit.database import db_now
from service_kit.identity import Owner


class ImportRows:
    """Descriptions of imports: one per owner and key, which names the asset from before its first byte."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def describe(self, owner: Owner, import_key: str, asset_id: str, provenance: bytes) -> str:
        """Keep a description. Returns the asset's id: the given one, or that of an earlier description of the key."""
        new = upsert(self._connection, imports).values(
            tenant_id=owner.tenant_id,
            owner_id=owner.owner_id,
            import_key=import_key,
            asset_id=asset_id,
            provenance=provenance,
            created_at=db_now(),
        )
        kept = new.on_conflict_do_update(
            index_elements=["tenant_id", "owner_id", "import_key"], set_={"provenance": new.excluded.provenance}
        )
        stored: str = (await self._connection.execute(kept.returning(imports.c.asset_id))).scalar_one()
        return stored

    async def find(self, owner: Owner, import_key: str) -> str | None:
        """Return the id of the asset of an import; None for one that was never described, or long ago."""
        query = select(imports.c.asset_id).where(_is(owner, import_key))
        return (await self._connection.execute(query)).scalar_one_or_none()

    async def take(self, owner: Owner, import_key: str) -> bytes | None:
        """Return the provenance of an import and keep everybody else from it; None for one that is not described.

        Its text is forgotten: from here on the asset has it.
        """
        mine = _is(owner, import_key)
        query = select(imports.c.provenance).where(mine).with_for_update()
        found: bytes | None = (await self._connection.execute(query)).scalar_one_or_none()
        if found is not None:
            await self._connection.execute(update(imports).where(mine).values(provenance=b""))
        return found

    async def trim(self, older_than: timedelta) -> int:
        """Delete some old rows. Returns how many; when it is none, no old one is left."""
        return await delete_some(self._connection, imports, imports.c.created_at <= db_now(plus=-older_than))


def _is(owner: Owner, import_key: str) -> ColumnElement[bool]:
    return and_(
        imports.c.tenant_id == owner.tenant_id,
        imports.c.owner_id == owner.owner_id,
        imports.c.import_key == import_key,
    )
