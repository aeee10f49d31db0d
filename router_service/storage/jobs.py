"""Every query on jobs, and the events that tell of their changes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, insert, literal, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from router_service.domain import FINAL, Job, JobState
from router_service.storage import codec
from router_service.storage.events import Events
from router_service.storage.tables import jobs, outbox, outcomes
from service_kit.database import db_now
from service_kit.errors import Aborted, NotFound
from service_kit.identity import Owner


class Jobs:
    """The jobs table."""

    def __init__(self, connection: AsyncConnection, events: Events) -> None:
        self._connection = connection
        self._events = events

    async def add(self, job: Job) -> None:
        """Write a new job and its first event."""
        await self._connection.execute(insert(jobs).values(job_id=job.job_id, **_columns(job)))
        self._events.add(job, codec.to_bytes(job))

    async def get(self, job_id: str) -> Job | None:
        """Return a job and lock its row, or None when there is none."""
        row = await self._connection.execute(select(jobs.c.document).where(jobs.c.job_id == job_id).with_for_update())
        document = row.scalar_one_or_none()
        return None if document is None else codec.from_json(Job, document)

    async def get_owned(self, job_id: str, owner: Owner, *, lock: bool = False) -> Job:
        """Return one job of one owner. Raises NotFound when there is none."""
        query = select(jobs.c.document).where(jobs.c.job_id == job_id, *_of(owner))
        row = await self._connection.execute(query.with_for_update() if lock else query)
        document = row.scalar_one_or_none()
        if document is None:
            raise NotFound.of("job", job_id)
        return codec.from_json(Job, document)

    async def find_many(self, job_ids: Sequence[str]) -> dict[str, Job]:
        """Return the jobs of these ids that exist, by id."""
        rows = await self._connection.execute(select(jobs.c.job_id, jobs.c.document).where(jobs.c.job_id.in_(job_ids)))
        return {job_id: codec.from_json(Job, document) for job_id, document in rows}

    async def find_page(
        self, owner: Owner, *, state: JobState | None, before: tuple[datetime, str] | None, limit: int
    ) -> list[Job]:
        """Return an owner's jobs, newest first, older than `before` (created_at, job_id). May be empty."""
        query = select(jobs.c.document).where(*_of(owner))
        if state is not None:
            query = query.where(jobs.c.state == state.value)
        if before is not None:
            query = query.where(tuple_(jobs.c.created_at, jobs.c.job_id) < tuple_(*_bound(before)))
        query = query.order_by(jobs.c.created_at.desc(), jobs.c.job_id.desc()).limit(limit)
        return [codec.from_json(Job, document) for (document,) in await self._connection.execute(query)]

    async def find_unfinished(self, owner: Owner, *, limit: int) -> list[Job]:
        """Return an owner's jobs that have not ended, newest first."""
        query = (
            select(jobs.c.document)
            .where(*_of(owner), jobs.c.state.not_in([state.value for state in FINAL]))
            .order_by(jobs.c.created_at.desc(), jobs.c.job_id.desc())
            .limit(limit)
        )
        return [codec.from_json(Job, document) for (document,) in await self._connection.execute(query)]

    async def save(self, before: Job, after: Job) -> None:
        """Write a transition, and its event if the version has grown.

        Raises:
            Aborted: the row is no longer the job that the transition began with.
        """
        result = await self._connection.execute(
            update(jobs)
            .where(
                jobs.c.job_id == before.job_id,
                jobs.c.state == before.state.value,
                jobs.c.version == before.version,
                jobs.c.fence == before.fence,
                jobs.c.stage == before.stage,
            )
            .values(**_columns(after))
        )
        if result.rowcount != 1:
            raise Aborted(f"The job {before.job_id} changed at the same moment.")
        if after.version != before.version:
            self._events.add(after, codec.to_bytes(after))

    async def remove_ended(self, older_than: timedelta, *, limit: int) -> int:
        """Remove jobs that ended longer ago than this, with their outcomes. Returns how many.

        One whose end the asset service has not been told yet stays, or its uploads would never be released.
        """
        ended = (
            select(jobs.c.job_id)
            .where(jobs.c.finished_at.is_not(None), jobs.c.finished_at < db_now(plus=-older_than))
            .where(jobs.c.job_id.not_in(select(outbox.c.job_id)))
            .limit(limit)
        )
        ids = list((await self._connection.execute(ended)).scalars())
        if ids:
            await self._connection.execute(delete(outcomes).where(outcomes.c.job_id.in_(ids)))
            await self._connection.execute(delete(jobs).where(jobs.c.job_id.in_(ids)))
        return len(ids)


def _columns(job: Job) -> dict[str, object]:
    return {
        "tenant_id": job.owner.tenant_id,
        "owner_id": job.owner.owner_id,
        "state": job.state.value,
        "version": job.version,
        "fence": job.fence,
        "stage": job.stage,
        "created_at": job.created_at,
        "finished_at": job.finished_at,
        "document": codec.to_json(job),
    }


def _of(owner: Owner) -> tuple[ColumnElement[bool], ...]:
    return (jobs.c.tenant_id == owner.tenant_id, jobs.c.owner_id == owner.owner_id)


def _bound(before: tuple[datetime, str]) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    return literal(before[0], jobs.c.created_at.type), literal(before[1], jobs.c.job_id.type)
