"""Every query on the queue of assets that lack renditions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from asset_service.domain import Asset, RenditionTask
from asset_service.storage.tables import rendition_tasks as _tasks
from service_kit.bulk import insert_rows, upsert
from service_kit.database import db_now
from service_kit.identity import Owner

_FIRST = timedelta(days=365)


class RenditionTasks:
    """Every query on the queue of assets that lack renditions."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def queue(self, assets: Sequence[Asset]) -> None:
        """Queue those of some assets that lack renditions; one that is queued already stays as it is."""
        rows = _rows(assets)
        if rows:
            new = upsert(self._connection, _tasks).values(due_at=db_now())
            await self._connection.execute(new.on_conflict_do_nothing(), rows)

    async def claim(self, limit: int, lease: timedelta) -> Sequence[RenditionTask]:
        """Take the tasks that are due, the longest first, for a time: then they are due again unless they were ended.

        None that somebody else is taking. Each counts as one more attempt.
        """
        due = (
            select(_tasks.c.asset_id, _tasks.c.tenant_id, _tasks.c.owner_id, _tasks.c.attempts)
            .where(_tasks.c.due_at <= db_now())
            .order_by(_tasks.c.due_at, _tasks.c.asset_id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        rows = (await self._connection.execute(due)).all()
        if rows:
            await self._connection.execute(
                update(_tasks)
                .where(_tasks.c.asset_id.in_([row.asset_id for row in rows]))
                .values(due_at=db_now(plus=lease), attempts=_tasks.c.attempts + 1)
            )
        return [RenditionTask(row.asset_id, Owner(row.tenant_id, row.owner_id), row.attempts + 1) for row in rows]

    async def postpone(self, asset_id: str, pause: timedelta) -> None:
        """Have a task be due again after a pause."""
        later = update(_tasks).where(_tasks.c.asset_id == asset_id).values(due_at=db_now(plus=pause))
        await self._connection.execute(later)

    async def prefer(self, asset_ids: Sequence[str]) -> None:
        """Have the tasks of some assets that nobody has tried yet come before all others."""
        mine = _tasks.c.asset_id.in_(asset_ids), _tasks.c.attempts == 0
        await self._connection.execute(update(_tasks).where(*mine).values(due_at=db_now(plus=-_FIRST)))

    async def waiting_among(self, asset_ids: Sequence[str]) -> set[str]:
        """Return those of some assets that have a task."""
        query = select(_tasks.c.asset_id).where(_tasks.c.asset_id.in_(asset_ids))
        return set((await self._connection.execute(query)).scalars())

    async def end(self, asset_ids: Sequence[str]) -> None:
        """Delete tasks."""
        await self._connection.execute(delete(_tasks).where(_tasks.c.asset_id.in_(asset_ids)))

    async def count(self) -> int:
        """Return how many tasks there are."""
        return len((await self._connection.execute(select(_tasks.c.asset_id))).all())


async def queue_renditions(connection: AsyncConnection, assets: Sequence[Asset]) -> None:
    """Queue those of some new assets that lack renditions."""
    await insert_rows(connection, _tasks, _rows(assets), moment="due_at")


def _rows(assets: Sequence[Asset]) -> list[dict[str, object]]:
    return [
        {
            "asset_id": asset.asset_id,
            "tenant_id": asset.owner.tenant_id,
            "owner_id": asset.owner.owner_id,
            "attempts": 0,
        }
        for asset in assets
        if asset.lacking_renditions
    ]
