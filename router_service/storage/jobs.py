"""Every query on jobs. An event tells of each change that grows the version."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, delete, exists, func, literal, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from router_service.domain import FINAL, Job, JobState
from router_service.generation_domain import Format
from router_service.storage import documents
from router_service.storage.events import Events
from router_service.storage.moment import Moment
from router_service.storage.tables import jobs, outbox, outcomes
from router_service.storage.webhooks import Deliveries
from service_kit.bulk import among, change_rows, insert_rows
from service_kit.database import db_now
from service_kit.errors import Aborted, NotFound
from service_kit.identity import Owner

_MANY = select(jobs.c.job_id, jobs.c.document).where(among(jobs.c.job_id, "job_ids"))
# In the order of their ids, so that two transactions never wait for each other.
_IN_ORDER = select(jobs.c.document, db_now()).where(among(jobs.c.job_id, "job_ids")).order_by(jobs.c.job_id)
_LOCKED = _IN_ORDER.with_for_update()
_LOCKED_OR_SKIPPED = _IN_ORDER.with_for_update(skip_locked=True)
_EXPECTED = ("job_id", "state", "version", "fence", "stage")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a list goes on: after the job of this moment and id. `within`: how exactly the moment is known."""

    created_at: datetime
    job_id: str
    within: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which jobs a list has, newest first unless `oldest_first`; None for all of them."""

    state: JobState | None = None
    format: Format | None = None
    oldest_first: bool = False
    after: Place | None = None


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
            told = documents.told_of(job)
            self._events.add(job, told.encode())
            after = (then or {}).get(job.job_id)
            if after is not None:
                told = documents.told_of(after)
                self._events.add(after, told.encode())
                self._deliveries.add(job, after, told)
            written = after or job
            document = documents.document_of(written, told)
            rows.append({"job_id": job.job_id, **_columns(written), "document": document})
        await insert_rows(self._connection, jobs, rows)

    async def get(self, job_id: str) -> Job | None:
        """Return a job as it is now, or None when there is none."""
        return (await self.find([job_id])).get(job_id)

    async def get_owned(self, job_id: str, owner: Owner) -> Job:
        """Return one job of one owner. Raises NotFound when there is none."""
        row = await self._connection.execute(select(jobs.c.document).where(jobs.c.job_id == job_id, *_of(owner)))
        job: Job | None = row.scalar_one_or_none()
        if job is None:
            raise NotFound.of("job", job_id)
        return job

    async def find(self, job_ids: Iterable[str]) -> dict[str, Job]:
        """Return the jobs of these ids that exist, by id, as they are now."""
        rows = await self._connection.execute(_MANY, {"job_ids": list(job_ids)})
        return dict(rows.all())

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
        for job, now in await self._connection.execute(query, {"job_ids": ids}):
            self._moment.now = now
            found[job.job_id] = job
        return found

    async def find_page(self, owner: Owner, wanted: Wanted, *, limit: int) -> list[Job]:
        """Return an owner's jobs that are wanted, in order. May be empty."""
        query = select(jobs.c.document).where(*_of(owner))
        if wanted.state is not None:
            query = query.where(jobs.c.state == wanted.state.value)
        if wanted.format is not None:
            query = query.where(jobs.c.format == wanted.format.value)
        if wanted.after is not None:
            query = query.where(*_after(wanted.after, oldest_first=wanted.oldest_first))
        order = (jobs.c.created_at, jobs.c.job_id)
        query = query.order_by(*(order if wanted.oldest_first else [column.desc() for column in order])).limit(limit)
        return list((await self._connection.execute(query)).scalars())

    async def find_unfinished(self, owner: Owner, *, limit: int) -> list[Job]:
        """Return an owner's jobs that have not ended, newest first."""
        query = (
            select(jobs.c.document)
            .where(*_of(owner), jobs.c.state.not_in([state.value for state in FINAL]))
            .order_by(jobs.c.created_at.desc(), jobs.c.job_id.desc())
            .limit(limit)
        )
        return list((await self._connection.execute(query)).scalars())

    async def save(self, transitions: Sequence[tuple[Job, Job]]) -> None:
        """Write transitions (before, after), one a job, and an event for each version that has grown.

        Raises:
            Aborted: a row is no longer the job that its transition began with. On SQLite the next statement raises it,
                or the commit.
        """
        rows = []
        for before, after in transitions:
            told = documents.told_of(after)
            if after.version != before.version:
                self._events.add(after, told.encode())
                self._deliveries.add(before, after, told)
            rows.append(
                {
                    **{"job_id": before.job_id, "state": before.state.value, "version": before.version},
                    **{"fence": before.fence, "stage": before.stage},
                    **{"new_state": after.state.value, "new_version": after.version},
                    **{"new_fence": after.fence, "new_stage": after.stage},
                    "finished_at": after.finished_at,
                    "document": documents.document_of(after, told),
                }
            )
        await change_rows(
            self._connection,
            jobs,
            rows,
            match=_EXPECTED,
            refuse=lambda changed: Aborted(
                f"{len(rows) - changed} of {len(rows)} jobs changed at the same moment; repeat."
            ),
        )

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
        return await self._remove(ended)

    async def remove(self, job_id: str) -> bool:
        """Remove a job that has ended, with its outcomes. Returns False when its end is not told everywhere yet."""
        told = select(jobs.c.job_id).where(jobs.c.job_id == job_id, jobs.c.finished_at.is_not(None))
        return await self._remove(told.where(~exists().where(outbox.c.job_id == jobs.c.job_id))) == 1

    async def _remove(self, which: Select[Any]) -> int:
        ids: list[str] = list((await self._connection.execute(which)).scalars())
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
        return await self._remove(ended)

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
        "format": job.settings.format.value if job.settings.format else None,
    }


def _of(owner: Owner) -> tuple[ColumnElement[bool], ...]:
    return (jobs.c.tenant_id == owner.tenant_id, jobs.c.owner_id == owner.owner_id)


def _after(place: Place, *, oldest_first: bool) -> list[ColumnElement[bool]]:
    moment, job_id = literal(place.created_at, jobs.c.created_at.type), literal(place.job_id, jobs.c.job_id.type)
    if place.within:
        # The ids say what comes first, and the moment only where to look.
        near = literal(place.created_at + (-place.within if oldest_first else place.within), jobs.c.created_at.type)
        if oldest_first:
            return [jobs.c.created_at >= near, jobs.c.job_id > job_id]
        return [jobs.c.created_at <= near, jobs.c.job_id < job_id]
    here, there = tuple_(jobs.c.created_at, jobs.c.job_id), tuple_(moment, job_id)
    return [here > there if oldest_first else here < there]
