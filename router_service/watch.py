"""Events out to watchers: the durable changes of jobs in order, and what running stages report in between."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta

from router_service.domain import FINAL, Job
from router_service.relay import Relay, Report
from router_service.signals import Signals, job_topic, owner_topic
from router_service.storage import Storage
from service_kit.identity import Owner

# A watcher is woken at once; the poll only finds what another replica wrote.
_POLL = timedelta(seconds=1)
_MOST_JOBS = 200
_PAGE = 200


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The jobs as they are now: one, or those of an owner that have not ended."""

    jobs: tuple[Job, ...]
    cursor: str


@dataclass(frozen=True, slots=True)
class Change:
    """A job after one durable change."""

    job: Job
    cursor: str


Told = Snapshot | Change | Report


@dataclass(frozen=True, slots=True)
class Opening:
    """Where a watch begins. With a snapshot it does not resume; `ended` says that nothing more will come."""

    position: int
    snapshot: Snapshot | None
    ended: bool


class Watch:
    """Follows jobs for their owners."""

    def __init__(self, storage: Storage, signals: Signals, relay: Relay) -> None:
        self._storage = storage
        self._signals = signals
        self._relay = relay

    async def open_job(self, job_id: str, owner: Owner, after: str) -> Opening:
        """Find out where to begin with one job.

        Raises:
            NotFound: no such job, or somebody else owns it.
        """
        async with self._storage.read() as tx:
            job = await tx.jobs.get_owned(job_id, owner)
            position = await tx.events.resume(after) if after else None
            if position is None:
                last = await tx.events.last(owner)
                snapshot = Snapshot((job,), await tx.events.cursor(last))
                return Opening(last, snapshot, ended=False)
            is_over = job.state in FINAL
            missed = is_over and await tx.events.find_after(position, owner=owner, job_id=job_id, limit=1)
            return Opening(position, None, ended=is_over and not missed)

    async def follow_job(self, job_id: str, owner: Owner, opening: Opening) -> AsyncIterator[Told]:
        """Yield what happens to a job, from the opening to its last event."""
        if opening.snapshot is not None:
            yield opening.snapshot
            if opening.snapshot.jobs[0].state in FINAL:
                return
        if opening.ended:
            return
        position = opening.position
        with self._relay.watch_job(job_id) as pending, self._signals.watchers.subscribe(job_topic(job_id)) as waker:
            while True:
                changes, position = await self._changes(position, owner, job_id)
                for change in changes:
                    yield change
                    if change.job.state in FINAL:
                        return
                for report in pending.take():
                    yield report
                if not changes:
                    await waker.wait(_POLL)

    async def open_owner(self, owner: Owner, after: str) -> Opening:
        """Find out where to begin with all jobs of an owner."""
        async with self._storage.read() as tx:
            position = await tx.events.resume(after) if after else None
            if position is not None:
                return Opening(position, None, ended=False)
            last = await tx.events.last(owner)
            jobs = await tx.jobs.find_unfinished(owner, limit=_MOST_JOBS)
            return Opening(last, Snapshot(tuple(jobs), await tx.events.cursor(last)), ended=False)

    async def follow_owner(self, owner: Owner, opening: Opening) -> AsyncIterator[Told]:
        """Yield what happens to an owner's jobs, without end."""
        if opening.snapshot is not None:
            yield opening.snapshot
        position = opening.position
        with self._relay.watch_owner(owner) as pending, self._signals.watchers.subscribe(owner_topic(owner)) as waker:
            while True:
                changes, position = await self._changes(position, owner, None)
                for change in changes:
                    yield change
                for report in pending.take():
                    yield report
                if not changes:
                    await waker.wait(_POLL)

    async def _changes(self, position: int, owner: Owner, job_id: str | None) -> tuple[list[Change], int]:
        async with self._storage.read() as tx:
            events = await tx.events.find_after(position, owner=owner, job_id=job_id, limit=_PAGE)
            changes = [Change(event.job, await tx.events.cursor(event.position)) for event in events]
        return changes, events[-1].position if events else position
