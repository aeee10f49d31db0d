"""Every query on holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

from sqlalchemy import ColumnElement, case, delete, null, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from asset_service.storage.tables import holds
from service_kit.bulk import among, upsert
from service_kit.database import db_now

_RELEASE = delete(holds).where(among(holds.c.holder, "holders"))


class Holds:
    """Every query on holds."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def held_among(self, asset_ids: Sequence[str]) -> set[str]:
        """Return those of some assets that anybody holds at this moment."""
        query = select(holds.c.asset_id).distinct().where(among(holds.c.asset_id, asset_ids), _live())
        return set((await self._connection.execute(query)).scalars())

    async def of_holder(self, holder: str, asset_ids: Sequence[str]) -> set[str]:
        """Return those of the assets that a holder holds, or held until its time was over."""
        query = select(holds.c.asset_id).where(holds.c.holder == holder, holds.c.asset_id.in_(asset_ids))
        return set((await self._connection.execute(query)).scalars())

    async def take(self, holder: str, asset_ids: Iterable[str], ttl: timedelta | None) -> None:
        """Hold assets for a time, or with None until they are released. A confirmed hold is never made shorter."""
        ids = sorted(set(asset_ids))
        if not ids:
            return
        expires_at = db_now(plus=ttl) if ttl is not None else null()
        new = upsert(self._connection, holds).values(holder=holder, expires_at=expires_at, created_at=db_now())
        lasting = case((holds.c.expires_at.is_(None), null()), else_=new.excluded.expires_at)
        await self._connection.execute(
            new.on_conflict_do_update(index_elements=["holder", "asset_id"], set_={"expires_at": lasting}),
            [{"asset_id": asset_id} for asset_id in ids],
        )

    async def release(self, holders: Sequence[str]) -> int:
        """End all holds of some holders. Returns how many there were."""
        return (await self._connection.execute(_RELEASE, {"holders": list(holders)})).rowcount

    async def forget_lapsed(self, older_than: timedelta) -> int:
        """Delete holds that nobody renewed for a while after their end. Returns how many."""
        lapsed = holds.c.expires_at <= db_now(plus=-older_than)
        return (await self._connection.execute(delete(holds).where(lapsed))).rowcount

    async def forget(self, asset_ids: Sequence[str]) -> None:
        """Delete what is left of holds on assets that go for good."""
        await self._connection.execute(delete(holds).where(among(holds.c.asset_id, asset_ids)))


def _live() -> ColumnElement[bool]:
    return or_(holds.c.expires_at.is_(None), holds.c.expires_at > db_now())
