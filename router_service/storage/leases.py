"""Every query on running stages. A lease counts only with its fence, and for the session that has it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from router_service.domain import Job, Lease, LeaseRef
from router_service.storage.moment import Moment
from router_service.storage.tables import leases
from service_kit.bulk import among, delete_rows, insert_rows, update_rows
from service_kit.database import db_now

_LOCKED = (
    select(leases, db_now().label("moment"))
    .where(among(leases.c.job_id, "job_ids"))
    .order_by(leases.c.job_id)
    .with_for_update()
)
_THIS = ("job_id", "stage", "fence")


class Leases:
    """The leases table."""

    def __init__(self, connection: AsyncConnection, moment: Moment) -> None:
        self._connection = connection
        self._moment = moment

    async def add(self, jobs: Sequence[tuple[Job, str]], now: datetime, *, acknowledged: bool) -> dict[str, Lease]:
        """Let the current stages of jobs run, each for a session. Returns their leases by job."""
        rows = [
            {
                "job_id": job.job_id,
                "stage": job.stage,
                "fence": job.fence,
                "tenant_id": job.owner.tenant_id,
                "owner_id": job.owner.owner_id,
                "worker_type": job.current.pool,
                "holder": job.holder,
                "session": session,
                "attempt": job.current.attempt,
                "acknowledged": acknowledged,
                "renewed_at": now,
                "deadline_at": job.deadline_at,
                "key_id": job.key_id,
            }
            for job, session in jobs
        ]
        await insert_rows(self._connection, leases, rows)
        return {
            job.job_id: Lease(job.ref, job.holder, session, job.current.attempt, acknowledged) for job, session in jobs
        }

    async def lock(self, job_ids: Iterable[str]) -> dict[str, Lease]:
        """Lock the leases of these jobs that exist and return them by job."""
        ids = list(job_ids)
        rows = (await self._connection.execute(_LOCKED, {"job_ids": ids})).all() if ids else ()
        if rows:
            self._moment.now = rows[0].moment
        return {row.job_id: _to_lease(row) for row in rows}

    async def acknowledge(self, refs: Collection[tuple[LeaseRef, str]]) -> None:
        """Note that workers have begun: (lease, session). Others' leases stay as they are."""
        live = await self._live(refs)
        rows = [
            {**_row(ref), "session": session, "acknowledged": True, "renewed_at": self._moment.now}
            for ref, session in live
        ]
        await update_rows(self._connection, leases, rows, match=(*_THIS, "session"))

    async def renew(self, refs: Collection[tuple[LeaseRef, str]]) -> set[tuple[LeaseRef, str]]:
        """Renew exactly these leases, each for its session. Returns those that still are its."""
        live = await self._live(refs)
        rows = [{**_row(ref), "session": session, "renewed_at": self._moment.now} for ref, session in live]
        await update_rows(self._connection, leases, rows, match=(*_THIS, "session"))
        return live

    async def _live(self, refs: Collection[tuple[LeaseRef, str]]) -> set[tuple[LeaseRef, str]]:
        """Lock leases. Returns those that still are their session's; then the transaction's moment is known."""
        held = await self.lock(ref.job_id for ref, _ in refs)
        return {(lease.ref, lease.session) for lease in held.values()}.intersection(refs)

    async def adopt(self, refs: Collection[LeaseRef], session: str, now: datetime) -> None:
        """Bind leases to a new session of their holder, which has locked them."""
        rows = [{**_row(ref), "session": session, "acknowledged": True, "renewed_at": now} for ref in refs]
        await update_rows(self._connection, leases, rows, match=_THIS)

    async def end(self, job_ids: Collection[str]) -> None:
        """End the leases of jobs, whoever has them."""
        await delete_rows(self._connection, leases, "job_id", job_ids)

    async def find_expired(self, *, lease_ttl: timedelta, ack_timeout: timedelta, limit: int) -> list[str]:
        """Return jobs whose lease was not renewed for its time, or not acknowledged for its."""
        query = select(leases.c.job_id).where(_is_expired(lease_ttl, ack_timeout)).limit(limit)
        return list((await self._connection.execute(query)).scalars())

    async def lock_expired(
        self, job_ids: Collection[str], *, lease_ttl: timedelta, ack_timeout: timedelta
    ) -> dict[str, Lease]:
        """Lock those leases of these jobs that are expired still, and return them by job."""
        query = _LOCKED.where(_is_expired(lease_ttl, ack_timeout))
        rows = await self._connection.execute(query, {"job_ids": list(job_ids)}) if job_ids else ()
        return {row.job_id: _to_lease(row) for row in rows}

    async def find_held(self, holder: str) -> list[Lease]:
        """Return the leases of a worker. May be empty."""
        rows = await self._connection.execute(select(leases).where(leases.c.holder == holder))
        return [_to_lease(row) for row in rows]


def _is_expired(lease_ttl: timedelta, ack_timeout: timedelta) -> ColumnElement[bool]:
    lost = and_(leases.c.acknowledged, leases.c.renewed_at < db_now(plus=-lease_ttl))
    silent = and_(~leases.c.acknowledged, leases.c.renewed_at < db_now(plus=-ack_timeout))
    # The clock was set back; a worker that lives has renewed its leases since.
    future = leases.c.renewed_at > db_now(plus=lease_ttl)
    return or_(lost, silent, future)


def _row(ref: LeaseRef) -> dict[str, Any]:
    return {"job_id": ref.job_id, "stage": ref.stage, "fence": ref.fence}


def _to_lease(row: Row[Any]) -> Lease:
    ref = LeaseRef(row.job_id, row.stage, row.fence)
    return Lease(ref, row.holder, row.session, row.attempt, row.acknowledged)
