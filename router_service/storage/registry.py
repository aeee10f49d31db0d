"""Every query on the routing table and on connected workers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, func, select, union_all, update
from sqlalchemy.ext.asyncio import AsyncConnection

from router_service.domain import StageKind
from router_service.registry_domain import ConnectedWorker, LoadedModel, ModelRow
from router_service.storage import codec
from router_service.storage.tables import chat_models, leases, models, workers
from service_kit.bulk import among, upsert
from service_kit.database import db_now


class Registry:
    """The routing table and the connected workers."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def list_models(self) -> list[ModelRow]:
        """Return the routing table, in the order in which patterns are tried."""
        both = union_all(select(models), select(chat_models)).subquery()
        rows = await self._connection.execute(select(both.c.document).order_by(both.c.position, both.c.name))
        return [codec.from_json(ModelRow, document) for (document,) in rows]

    async def put_model(self, row: ModelRow) -> None:
        """Add a row, or replace the row of that name."""
        table, other = (chat_models, models) if row.stage is StageKind.CHAT else (models, chat_models)
        await self._connection.execute(delete(other).where(other.c.name == row.name))
        values = {"position": row.position, "document": codec.to_json(row)}
        new = upsert(self._connection, table).values(name=row.name, **values)
        await self._connection.execute(new.on_conflict_do_update(index_elements=["name"], set_=values))

    async def delete_model(self, name: str) -> bool:
        """Remove a row. Returns whether there was one."""
        tables = (models, chat_models)
        gone = [await self._connection.execute(delete(table).where(table.c.name == name)) for table in tables]
        return any(result.rowcount for result in gone)

    async def worker_connected(self, worker: ConnectedWorker) -> None:
        """Note that a worker is connected; a later session of the same worker takes the place of an earlier one."""
        values = _values(worker)
        new = upsert(self._connection, workers).values(holder=worker.holder, **values)
        await self._connection.execute(new.on_conflict_do_update(index_elements=["holder"], set_=values))

    async def worker_still_connected(self, worker: ConnectedWorker) -> None:
        """Note that a worker is connected which was forgotten meanwhile; if there is a session of it, that stays."""
        new = upsert(self._connection, workers).values(holder=worker.holder, **_values(worker))
        await self._connection.execute(new.on_conflict_do_nothing(index_elements=["holder"]))

    async def workers_seen(self, sessions: Collection[str]) -> None:
        """Note that the workers of these sessions live."""
        alive = update(workers).where(among(workers.c.session, sessions))
        await self._connection.execute(alive.values(seen_at=db_now()))

    async def worker_loaded(self, session: str, loaded: Sequence[LoadedModel]) -> None:
        """Note what the worker of a session keeps in memory."""
        values = {"loaded": [codec.to_json(model) for model in loaded]}
        await self._connection.execute(update(workers).where(workers.c.session == session).values(values))

    async def session_of(self, holder: str) -> str | None:
        """Return the session of a worker, on whichever replica it is; None when it is not connected."""
        found: str | None = (
            await self._connection.execute(select(workers.c.session).where(workers.c.holder == holder))
        ).scalar_one_or_none()
        return found

    async def worker_gone(self, session: str) -> None:
        """Forget a session. A later session of the same worker stays."""
        await self._connection.execute(delete(workers).where(workers.c.session == session))

    async def list_workers(self, *, seen_within: timedelta) -> list[ConnectedWorker]:
        """Return the workers that were seen lately, with the number of leases that each holds."""
        held = select(leases.c.holder, func.count().label("held")).group_by(leases.c.holder).subquery()
        rows = await self._connection.execute(
            select(workers, held.c.held)
            .outerjoin(held, held.c.holder == workers.c.holder)
            .where(workers.c.seen_at > db_now(plus=-seen_within))
            .order_by(workers.c.holder)
        )
        return [
            ConnectedWorker(
                holder=row.holder,
                session=row.session,
                worker_types=tuple(row.worker_types),
                models=tuple(row.models),
                slots=row.slots,
                labels=tuple(row.labels.items()),
                version=row.version,
                leases=row.held or 0,
                chats=bool(row.chats),
                steers=bool(row.steers),
                enhances=row.enhances is not False,
                loaded=codec.from_json(tuple[LoadedModel, ...], row.loaded or []),
            )
            for row in rows
        ]

    async def remove_unseen(self, older_than: timedelta) -> int:
        """Forget workers that were not seen for this long. Returns how many."""
        result = await self._connection.execute(delete(workers).where(workers.c.seen_at < db_now(plus=-older_than)))
        return result.rowcount


def _values(worker: ConnectedWorker) -> dict[str, Any]:
    return {
        "session": worker.session,
        "worker_types": list(worker.worker_types),
        "models": list(worker.models),
        "slots": worker.slots,
        "labels": dict(worker.labels),
        "version": worker.version,
        "chats": worker.chats,
        "steers": worker.steers,
        "enhances": worker.enhances,
        "loaded": [codec.to_json(model) for model in worker.loaded],
        "seen_at": db_now(),
    }
