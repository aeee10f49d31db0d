"""Every query on jobs. An event tells of each change that grows the version."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, exists, func, literal, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from router_service.domain import FINAL, Job, JobState
from router_service.storage import codec
from router_service.storage.events import Events
from router_service.storage.moment import Moment
from router_service.storage.tables import jobs, outbox, outcomes
from router_service.storage.webhooks import Deliveries
from service_kit.bulk import among, insert_rows, update_rows
from service_kit.database import db_now
from service_kit.errors import Aborted, NotFound
from service_kit.identity import Owner

_MANY = select(jobs.c.job_id, jobs.c.document).where(among(jobs.c.job_id, "job_ids"))
# In the order of their ids, so that two transactions never wait for each other.
_IN_ORDER = select(jobs.c.document, db_now()).where(among(jobs.c.job_id, "job_ids")).order_by(jobs.c.job_id)
_LOCKED = _IN_ORDER.with_for_update()
_LOCKED_OR_SKIPPED = _IN_ORDER.with_for_update(skip_locked=True)
_EXPECTED = ("job_id", "state", "version", "fence", "stage")


class Jobs:
    """The jobs table."""

    def __init__(self, connection: AsyncConnection, events: Events, moment: Moment, deliveries: Deliveries) -> None:
        self._connection = connection
        self._events = events
        self._deliveries = deliveries
        self._moment = moment

    async def add(self, new: Sequence[Job], then: Mapping[str, Job] | None = None) -> None:
        """Write new jobs and their first events.

        Args:
            new: the jobs as they begin.
            then: what some of them become in the same transaction, by id; an event tells of each of the two.
        """
        rows = []
        for job in new:
            document = codec.to_text(job)
            self._events.add(job, document.encode())
            after = (then or {}).get(job.job_id)
            if after is not None:
                document = codec.to_text(after)
                self._events.add(after, document.encode())
                self._deliveries.add(job, after, document.encode())
            rows.append({"job_id": job.job_id, **_columns(after or job), "document": document})
        await insert_rows(self._connection, jobs, rows)

    async def get(self, job_id: str) -> Job | None:
        """Return a job as it is now, or None when there is none."""
        return (await self.find([job_id])).get(job_id)

    async def get_owned(self, job_id: str, owner: Owner) -> Job:
        """Return one job of one owner. Raises NotFound when there is none."""
        row = await self._connection.execute(select(jobs.c.document).where(jobs.c.job_id == job_id, *_of(owner)))
        document = row.scalar_one_or_none()
        if document is None:
            raise NotFound.of("job", job_id)
        return codec.from_json(Job, document)

    async def find(self, job_ids: Iterable[str]) -> dict[str, Job]:
        """Return the jobs of these ids that exist, by id, as they are now."""
        rows = await self._connection.execute(_MANY, {"job_ids": list(job_ids)})
        return {job_id: codec.from_json(Job, document) for job_id, document in rows}

    async def lock(self, job_ids: Iterable[str], *, skip_locked: bool = False) -> dict[str, Job]:
        """Lock the jobs of these ids that exist and return them by id. Whoever changes a job has locked it before.

        Args:
            job_ids: in any order.
            skip_locked: leave out those that another transaction has locked, instead of waiting for it.
        """
        ids = list(job_ids)
        if not ids:
            return {}
        query = _LOCKED_OR_SKIPPED if skip_locked else _LOCKED
        found = {}
        for document, now in await self._connection.execute(query, {"job_ids": ids}):
            self._moment.now = now
            job = codec.from_json(Job, document)
            found[job.job_id] = job
        return found

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

    async def save(self, transitions: Sequence[tuple[Job, Job]]) -> None:
        """Write transitions (before, after), one a job, and an event for each version that has grown.

        Raises:
            Aborted: a row is no longer the job that its transition began with.
        """
        rows = []
        for before, after in transitions:
            document = codec.to_text(after)
            if after.version != before.version:
                self._events.add(after, document.encode())
                self._deliveries.add(before, after, document.encode())
            rows.append(
                {
                    **{"job_id": before.job_id, "state": before.state.value, "version": before.version},
                    **{"fence": before.fence, "stage": before.stage},
                    **{"new_state": after.state.value, "new_version": after.version},
                    **{"new_fence": after.fence, "new_stage": after.stage},
                    "finished_at": after.finished_at,
                    "document": document,
                }
            )
        changed = await update_rows(self._connection, jobs, rows, match=_EXPECTED)
        if changed != len(rows):
            raise Aborted(f"{len(rows) - changed} of {len(rows)} jobs changed at the same moment; repeat.")

    async def remove_ended(self, older_than: timedelta, *, limit: int) -> int:
        """Remove jobs that ended longer ago than this, with their outcomes. Returns how many.

        One whose end the asset service has not been told yet stays, or its uploads would never be released.
        """
        ended = (
            select(jobs.c.job_id)
            .where(jobs.c.finished_at < db_now(plus=-older_than))
            .where(~exists().where(outbox.c.job_id == jobs.c.job_id))
            .order_by(jobs.c.job_id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        ids = list((await self._connection.execute(ended)).scalars())
        if ids:
            await self._connection.execute(delete(outcomes).where(among(outcomes.c.job_id, ids)))
            await self._connection.execute(delete(jobs).where(among(jobs.c.job_id, ids)))
        return len(ids)

    async def erase_settled(self, owner: Owner, *, limit: int) -> int:
        """Remove an owner's jobs that have ended and are settled, with their outcomes. Returns how many."""
        ended = (
            select(jobs.c.job_id)
            .where(jobs.c.tenant_id == owner.tenant_id, jobs.c.owner_id == owner.owner_id)
            .where(jobs.c.finished_at.is_not(None))
            .where(~exists().where(outbox.c.job_id == jobs.c.job_id))
            .order_by(jobs.c.job_id)
            .limit(limit)
            .with_for_update()
        )
        ids = list((await self._connection.execute(ended)).scalars())
        if ids:
            await self._connection.execute(delete(outcomes).where(among(outcomes.c.job_id, ids)))
            await self._connection.execute(delete(jobs).where(among(jobs.c.job_id, ids)))
        return len(ids)

    async def count_of(self, owner: Owner) -> int:
        """Return how many jobs an owner has."""
        mine = select(func.count()).select_from(jobs).where(jobs.c.tenant_id == owner.tenant_id)
        return (await self._connection.execute(mine.where(jobs.c.owner_id == owner.owner_id))).scalar_one()


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
    }


def _of(owner: Owner) -> tuple[ColumnElement[bool], ...]:
    return (jobs.c.tenant_id == owner.tenant_id, jobs.c.owner_id == owner.owner_id)


def _bound(before: tuple[datetime, str]) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    return literal(before[0], jobs.c.created_at.type), literal(before[1], jobs.c.job_id.type)
