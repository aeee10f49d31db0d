"""Every query on waiting stages: who waits, who is next, who was served."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import TextClause, delete, exists, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from router_service.domain import Job
from router_service.storage.moment import Moment
from router_service.storage.tables import NEVER, leases, pools, queue, served
from service_kit.bulk import among, delete_rows, insert_new_rows, insert_rows, put_rows
from service_kit.database import db_now, json_list
from service_kit.identity import Owner

_COUNT_AT_MOST = 1000
_MAKE_READY_AT_ONCE = 1000

# Hops through the index `queue_next`: from model to model, in each from owner to owner, and there from key to key, as
# one key may run no more while the owner's next one may. A scalar subquery finds the next one, so what lies in between
# costs nothing, however deep the queue is. It compares column by column: SQLite would walk through all stages of an
# owner to find a row that is greater as a whole.
_HOP = """
WITH RECURSIVE
wanted AS ({wanted}),
models AS (
    SELECT types.worker_type, (
        SELECT min(q.model) FROM queue q WHERE q.ready AND q.worker_type = types.worker_type
    ) AS model
    FROM (SELECT DISTINCT worker_type FROM wanted) AS types
    UNION ALL
    SELECT models.worker_type, (
        SELECT min(q.model) FROM queue q
        WHERE q.ready AND q.worker_type = models.worker_type AND q.model > models.model
    )
    FROM models WHERE models.model IS NOT NULL
),
heads AS (
    SELECT (
        SELECT q.job_id FROM queue q
        WHERE q.ready AND q.worker_type = models.worker_type AND q.model = models.model
        ORDER BY q.tier, q.tenant_id, q.owner_id, q.key_id LIMIT 1
    ) AS job_id
    FROM models WHERE EXISTS (
        SELECT 1 FROM wanted WHERE wanted.worker_type = models.worker_type
            AND (wanted.model = models.model OR wanted.model = '*' AND models.model <> '')
    )
    UNION ALL
    SELECT coalesce(
        (SELECT q.job_id FROM queue q WHERE {same} AND q.tier = head.tier AND q.tenant_id = head.tenant_id
            AND q.owner_id = head.owner_id AND q.key_id > head.key_id ORDER BY q.key_id LIMIT 1),
        (SELECT q.job_id FROM queue q WHERE {same} AND q.tier = head.tier AND q.tenant_id = head.tenant_id
            AND q.owner_id > head.owner_id ORDER BY q.owner_id, q.key_id LIMIT 1),
        (SELECT q.job_id FROM queue q WHERE {same} AND q.tier = head.tier
            AND q.tenant_id > head.tenant_id ORDER BY q.tenant_id, q.owner_id, q.key_id LIMIT 1),
        (SELECT q.job_id FROM queue q WHERE {same}
            AND q.tier > head.tier ORDER BY q.tier, q.tenant_id, q.owner_id, q.key_id LIMIT 1)
    )
    FROM heads JOIN queue head ON head.job_id = heads.job_id
)
SELECT first.job_id, first.tenant_id, first.owner_id, first.worker_type, first.model, first.tier, first.precedence,
    first.order_key, first.key_id
FROM heads JOIN queue head ON head.job_id = heads.job_id {joined}
"""
_FIRST = """(
    SELECT {columns} FROM queue q
    WHERE {same} AND q.tier = head.tier AND q.tenant_id = head.tenant_id AND q.owner_id = head.owner_id
        AND q.key_id = head.key_id
    ORDER BY q.precedence, q.order_key, q.job_id LIMIT :each
)"""
_SAME = "q.ready AND q.worker_type = head.worker_type AND q.model = head.model"
_CANDIDATES = {
    "postgresql": text(
        _HOP.format(
            same=_SAME,
            wanted="SELECT * FROM unnest(CAST(:types AS text[]), CAST(:models AS text[])) AS sent (worker_type, model)",
            joined=f"CROSS JOIN LATERAL {_FIRST.format(same=_SAME, columns='q.*')} AS first",
        )
    ).columns(order_key=queue.c.order_key.type),
    # There is no LATERAL.
    "sqlite": text(
        _HOP.format(
            same=_SAME,
            wanted="SELECT json_extract(value, '$[0]') AS worker_type, json_extract(value, '$[1]') AS model "
            "FROM json_each(:keys)",
            joined=f"JOIN queue first ON first.job_id IN {_FIRST.format(same=_SAME, columns='q.job_id')}",
        )
    ).columns(order_key=queue.c.order_key.type),
}

_IS_READY = select(
    db_now(), exists().where(among(queue.c.worker_type, "worker_types"), queue.c.ready).label("is_ready")
)
_TAKE = delete(queue).where(among(queue.c.job_id, "job_ids"), queue.c.ready).returning(queue.c.job_id)
_LOCK_POOLS = (
    select(pools.c.worker_type)
    .where(among(pools.c.worker_type, "worker_types"))
    .order_by(pools.c.worker_type)
    .with_for_update()
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A waiting stage that could be leased now."""

    job_id: str
    owner: Owner
    worker_type: str
    model: str
    tier: int
    precedence: int
    order_key: datetime
    key_id: str = ""


@dataclass(frozen=True, slots=True, order=True)
class QueueKey:
    """What a worker session takes from a pool: stages that run these models, or any where there are none of them.

    `enhances`: and enhancements, which run none and wait without one.
    """

    worker_type: str
    models: tuple[str, ...] = ()
    enhances: bool = True

    @property
    def wanted(self) -> tuple[str, ...]:
        """The models of rows that it takes; `*` is every model, and the empty one that of an enhancement."""
        return (*(self.models or ("*",)), *("",) * self.enhances)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A stage that begins to wait: the current one of a job. It is ready at once, after a pause, or when confirmed."""

    job: Job
    pause: timedelta = timedelta(0)
    confirmed: bool = True


class Queue:
    """The queue and its pools."""

    def __init__(self, connection: AsyncConnection, moment: Moment) -> None:
        self._connection = connection
        self._moment = moment

    async def enter(self, entries: Sequence[Waiting], now: datetime) -> None:
        """Let stages wait."""
        await insert_rows(self._connection, queue, [_row(entry, now) for entry in entries])

    async def leave(self, job_ids: Collection[str]) -> None:
        """Take jobs out of the queue; those that are not there are passed over."""
        await delete_rows(self._connection, queue, "job_id", job_ids)

    async def take(self, job_ids: Collection[str]) -> set[str]:
        """Take those of some jobs out of the queue that are ready. Returns which."""
        if not job_ids:
            return set()
        return set((await self._connection.execute(_TAKE, {"job_ids": list(job_ids)})).scalars())

    async def confirm(self, job_ids: Collection[str]) -> None:
        """Let jobs be leased whose references are held now."""
        if job_ids:
            held = update(queue).where(among(queue.c.job_id, job_ids), queue.c.available_at == NEVER)
            await self._connection.execute(held.values(ready=True, available_at=db_now()))

    async def make_ready(self) -> int:
        """Let stages be leased whose pause is over. Returns how many. For a transaction of its own."""
        over = (
            select(queue.c.job_id)
            .where(~queue.c.ready, queue.c.available_at <= db_now())
            .limit(_MAKE_READY_AT_ONCE)
            .with_for_update(skip_locked=True)
        )
        return (
            await self._connection.execute(update(queue).where(queue.c.job_id.in_(over)).values(ready=True))
        ).rowcount

    async def next_ready_at(self) -> datetime | None:
        """Return when the next pause is over, or None when no stage pauses."""
        query = select(func.min(queue.c.available_at)).where(~queue.c.ready, queue.c.available_at < NEVER)
        moment: datetime | None = (await self._connection.execute(query)).scalar_one()
        return moment

    async def raise_tiers(self, *, waited: timedelta, highest: int, limit: int) -> int:
        """Raise stages by a tier that have waited this long in theirs. Returns how many."""
        since = func.coalesce(queue.c.tier_since, queue.c.order_key)
        old = (
            select(queue.c.job_id)
            .where(queue.c.tier < highest, since < db_now(plus=-waited))
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        raised = update(queue).where(queue.c.job_id.in_(old)).values(tier=queue.c.tier + 1, tier_since=db_now())
        return (await self._connection.execute(raised)).rowcount

    async def is_empty(self, worker_types: Collection[str]) -> bool:
        """Tell whether nothing waits in some pools that could be leased now."""
        row = (await self._connection.execute(_IS_READY, {"worker_types": sorted(worker_types)})).one()
        self._moment.now = row[0]
        return not row.is_ready

    # --- who is next ------------------------------------------------------------------------------------------------

    async def lock_pools(self, worker_types: Iterable[str]) -> None:
        """Lock pools until the transaction ends, in the order of their names; a pool that is new is made."""
        wanted = sorted(set(worker_types))
        locked = set((await self._connection.execute(_LOCK_POOLS, {"worker_types": wanted})).scalars())
        if len(locked) < len(wanted):
            rows = [{"worker_type": worker_type} for worker_type in wanted if worker_type not in locked]
            unique, key = ("worker_type",), "worker_type"
            await insert_new_rows(self._connection, pools, rows, unique=unique, returning=key)
            await self._connection.execute(_LOCK_POOLS, {"worker_types": wanted})

    async def find_candidates(self, keys: Collection[QueueKey], *, each: int) -> list[Candidate]:
        """Return what a worker with these keys could take now: of each model, tier and API key the first `each` stages.

        The cost grows with the models, owners and API keys that wait, not with the depth of the queue.
        """
        pairs = sorted({(key.worker_type, model) for key in keys for model in key.wanted})
        statement: TextClause | Any = _CANDIDATES[self._connection.dialect.name]
        if self._connection.dialect.name == "sqlite":
            values: dict[str, Any] = {"keys": json_list(pairs)}
        else:
            values = {"types": [pair[0] for pair in pairs], "models": [pair[1] for pair in pairs]}
        rows = await self._connection.execute(statement, {**values, "each": each})
        return [
            Candidate(
                job_id=row.job_id,
                owner=Owner(row.tenant_id, row.owner_id),
                worker_type=row.worker_type,
                model=row.model,
                tier=row.tier,
                precedence=row.precedence,
                order_key=row.order_key,
                key_id=row.key_id,
            )
            for row in rows
        ]

    async def count_running(self, worker_types: Collection[str]) -> dict[Owner, int]:
        """Return how many stages of each owner run in some pools."""
        query = (
            select(leases.c.tenant_id, leases.c.owner_id, func.count())
            .where(among(leases.c.worker_type, worker_types))
            .group_by(leases.c.tenant_id, leases.c.owner_id)
        )
        rows = await self._connection.execute(query)
        return {Owner(tenant_id, owner_id): count for tenant_id, owner_id, count in rows}

    async def last_served(self, worker_types: Collection[str], owners: Collection[Owner]) -> dict[Owner, datetime]:
        """Return when these owners were last served in some pools; one that never was is absent."""
        query = (
            select(served.c.tenant_id, served.c.owner_id, func.max(served.c.served_at))
            .where(among(served.c.worker_type, worker_types))
            .where(among(served.c.owner_id, {owner.owner_id for owner in owners}))
            .group_by(served.c.tenant_id, served.c.owner_id)
        )
        rows = await self._connection.execute(query)
        return {Owner(tenant_id, owner_id): moment for tenant_id, owner_id, moment in rows}

    async def note_served(self, moments: Collection[tuple[str, Owner, datetime]]) -> None:
        """Note when owners were served in a pool: (worker type, owner, moment)."""
        rows = [
            {
                "worker_type": worker_type,
                "tenant_id": owner.tenant_id,
                "owner_id": owner.owner_id,
                "served_at": moment,
            }
            for worker_type, owner, moment in moments
        ]
        rows.sort(key=lambda row: (row["worker_type"], row["tenant_id"], row["owner_id"]))
        await put_rows(self._connection, served, rows, key=("worker_type", "tenant_id", "owner_id"))

    async def forget_served(self, older_than: timedelta) -> int:
        """Forget owners that were not served for this long. Returns how many rows that were."""
        old = delete(served).where(served.c.served_at < db_now(plus=-older_than))
        return (await self._connection.execute(old)).rowcount

    # --- looking ----------------------------------------------------------------------------------------------------

    async def count_waiting(self) -> dict[str, int]:
        """Return how many stages wait, by worker type; it counts no further than a thousand."""
        waiting = select(queue.c.job_id).where(queue.c.worker_type == pools.c.worker_type).limit(_COUNT_AT_MOST)
        count = select(func.count()).select_from(waiting.correlate(pools).subquery()).scalar_subquery()
        rows = await self._connection.execute(select(pools.c.worker_type, count))
        return {row.worker_type: row[1] for row in rows if row[1]}

    async def find_overdue(self, *, limit: int) -> list[str]:
        """Return jobs whose deadline has passed while a stage waits or runs."""
        waiting = select(queue.c.job_id).where(queue.c.deadline_at < db_now())
        running = select(leases.c.job_id).where(leases.c.deadline_at < db_now())
        return list((await self._connection.execute(waiting.union(running).limit(limit))).scalars())


def _row(entry: Waiting, now: datetime) -> dict[str, Any]:
    job = entry.job
    return {
        "job_id": job.job_id,
        "stage": job.stage,
        "tenant_id": job.owner.tenant_id,
        "owner_id": job.owner.owner_id,
        "worker_type": job.current.pool,
        "model": job.runs_model,
        "tier": job.tier,
        "precedence": -job.priority,
        "order_key": job.created_at,
        "available_at": now + entry.pause if entry.confirmed else NEVER,
        "ready": entry.confirmed and not entry.pause,
        "deadline_at": job.deadline_at,
        "key_id": job.key_id,
    }
