"""Every query on waiting and running stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, bindparam, delete, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from router_service.domain import Job, Lease, LeaseRef
from router_service.storage.tables import leases, queue
from service_kit.database import db_now
from service_kit.identity import Owner


@dataclass(frozen=True, slots=True)
class Candidate:
    """A waiting stage that could be leased; `place` counts from 0 among those of its owner."""

    job_id: str
    owner: Owner
    worker_type: str
    model: str
    tier: int
    order_key: datetime
    place: int


@dataclass(frozen=True, slots=True)
class QueueKey:
    """What a worker session takes from the queue. Without models it takes every model of the worker type."""

    worker_type: str
    models: tuple[str, ...] = ()


class Queue:
    """The queue and the leases."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    # --- waiting ----------------------------------------------------------------------------------------------------

    async def enter(self, job: Job, *, confirmed: bool, delay: timedelta = timedelta(0)) -> None:
        """Let the current stage of a job wait; it can be leased when confirmed and after the delay."""
        await self._connection.execute(
            insert(queue).values(
                job_id=job.job_id,
                stage=job.stage,
                tenant_id=job.owner.tenant_id,
                owner_id=job.owner.owner_id,
                worker_type=job.current.worker_type,
                model=job.settings.model,
                tier=0,
                priority=job.priority,
                order_key=job.created_at,
                available_at=db_now(plus=delay),
                confirmed=confirmed,
                deadline_at=job.deadline_at,
            )
        )

    async def confirm(self, job_id: str) -> bool:
        """Let a job be leased, now that its references are held. Returns whether it waited."""
        result = await self._connection.execute(update(queue).where(queue.c.job_id == job_id).values(confirmed=True))
        return result.rowcount == 1

    async def leave(self, job_id: str) -> bool:
        """Take a job out of the queue. Returns whether it was there."""
        return (await self._connection.execute(delete(queue).where(queue.c.job_id == job_id))).rowcount == 1

    async def find_candidates(self, keys: Sequence[QueueKey], *, per_owner: int) -> list[Candidate]:
        """Return, for each owner, the first `per_owner` stages that a worker with these keys could take now."""
        rows = await self._connection.execute(_candidates(tuple(keys)), {"per_owner": per_owner})
        return [
            Candidate(
                job_id=row.job_id,
                owner=Owner(row.tenant_id, row.owner_id),
                worker_type=row.worker_type,
                model=row.model,
                tier=row.tier,
                order_key=row.order_key,
                place=row.place,
            )
            for row in rows
        ]

    async def next_available(self) -> datetime | None:
        """Return when the next stage that waits for its moment may be leased, or None when none does."""
        query = select(func.min(queue.c.available_at)).where(queue.c.available_at > db_now())
        moment: datetime | None = (await self._connection.execute(query)).scalar_one()
        return moment

    async def count_waiting(self) -> dict[str, int]:
        """Return how many stages wait, by worker type."""
        rows = await self._connection.execute(select(queue.c.worker_type, func.count()).group_by(queue.c.worker_type))
        return {row.worker_type: row[1] for row in rows}

    async def find_overdue(self, *, limit: int) -> list[str]:
        """Return jobs whose deadline has passed while a stage waits or runs."""
        waiting = select(queue.c.job_id).where(queue.c.deadline_at < db_now())
        running = select(leases.c.job_id).where(leases.c.deadline_at < db_now())
        return list((await self._connection.execute(waiting.union(running).limit(limit))).scalars())

    # --- running ----------------------------------------------------------------------------------------------------

    async def count_running(self) -> dict[Owner, int]:
        """Return how many stages run, by owner."""
        rows = await self._connection.execute(
            select(leases.c.tenant_id, leases.c.owner_id, func.count()).group_by(leases.c.tenant_id, leases.c.owner_id)
        )
        return {Owner(tenant_id, owner_id): count for tenant_id, owner_id, count in rows}

    async def lease(self, job: Job, *, session: str, attempt: int, acknowledged: bool) -> Lease:
        """Move the current stage of a job from the queue to the leases."""
        await self.leave(job.job_id)
        await self._connection.execute(
            insert(leases).values(
                job_id=job.job_id,
                stage=job.stage,
                fence=job.fence,
                tenant_id=job.owner.tenant_id,
                owner_id=job.owner.owner_id,
                worker_type=job.current.worker_type,
                holder=job.holder,
                session=session,
                attempt=attempt,
                acknowledged=acknowledged,
                renewed_at=db_now(),
                deadline_at=job.deadline_at,
            )
        )
        return Lease(job.ref, job.holder, session, attempt, acknowledged)

    async def get_lease(self, job_id: str) -> Lease | None:
        """Return the lease of a job, or None when no stage of it runs."""
        row = (await self._connection.execute(select(leases).where(leases.c.job_id == job_id))).one_or_none()
        if row is None:
            return None
        return _to_lease(row)

    async def acknowledge(self, ref: LeaseRef, session: str) -> bool:
        """Note that a worker has its lease. Returns False when it is no longer its."""
        result = await self._connection.execute(
            update(leases).where(_is(ref), leases.c.session == session).values(acknowledged=True, renewed_at=db_now())
        )
        return result.rowcount == 1

    async def adopt(self, ref: LeaseRef, session: str) -> bool:
        """Bind a lease to a new session of its holder. Returns False when there is no such lease."""
        result = await self._connection.execute(
            update(leases).where(_is(ref)).values(session=session, acknowledged=True, renewed_at=db_now())
        )
        return result.rowcount == 1

    async def renew(self, refs: Sequence[LeaseRef], session: str) -> set[LeaseRef]:
        """Renew exactly these leases of a session. Returns those that are still its."""
        return {ref for ref in refs if await self._renew_one(ref, session)}

    async def end_lease(self, job_id: str) -> bool:
        """End the lease of a job. Returns whether there was one."""
        return (await self._connection.execute(delete(leases).where(leases.c.job_id == job_id))).rowcount == 1

    async def find_expired(self, *, lease_ttl: timedelta, ack_timeout: timedelta, limit: int) -> list[Lease]:
        """Return leases that were not renewed for their time, or not acknowledged for theirs."""
        lost = and_(leases.c.acknowledged, leases.c.renewed_at < db_now(plus=-lease_ttl))
        silent = and_(~leases.c.acknowledged, leases.c.renewed_at < db_now(plus=-ack_timeout))
        rows = await self._connection.execute(select(leases).where(or_(lost, silent)).limit(limit))
        return [_to_lease(row) for row in rows]

    async def find_held(self, holder: str) -> list[Lease]:
        """Return the leases of a worker. May be empty."""
        rows = await self._connection.execute(select(leases).where(leases.c.holder == holder))
        return [_to_lease(row) for row in rows]

    async def _renew_one(self, ref: LeaseRef, session: str) -> bool:
        result = await self._connection.execute(
            update(leases).where(_is(ref), leases.c.session == session).values(renewed_at=db_now())
        )
        return result.rowcount == 1


@lru_cache(maxsize=256)
def _candidates(keys: tuple[QueueKey, ...]) -> Select[Any]:
    """Return the query of `find_candidates`. It runs at every submission; building it took longer than running it."""
    place = func.row_number().over(
        partition_by=(queue.c.tenant_id, queue.c.owner_id),
        order_by=(queue.c.tier.desc(), queue.c.priority.desc(), queue.c.order_key, queue.c.job_id),
    )
    ready = (
        select(queue, (place - 1).label("place"))
        .where(or_(*(_fits(key) for key in keys)), queue.c.confirmed, queue.c.available_at <= db_now())
        .subquery()
    )
    return select(ready).where(ready.c.place < bindparam("per_owner"))


def _fits(key: QueueKey) -> ColumnElement[bool]:
    fits = queue.c.worker_type == key.worker_type
    return and_(fits, queue.c.model.in_(key.models)) if key.models else fits


def _is(ref: LeaseRef) -> ColumnElement[bool]:
    return and_(leases.c.job_id == ref.job_id, leases.c.stage == ref.stage, leases.c.fence == ref.fence)


def _to_lease(row: Row[Any]) -> Lease:
    ref = LeaseRef(row.job_id, row.stage, row.fence)
    return Lease(ref, row.holder, row.session, row.attempt, row.acknowledged)
