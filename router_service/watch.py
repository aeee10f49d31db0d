"""Events out to watchers: the durable changes of jobs in order, and what running stages report in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from router_service.domain import FINAL, Job
from router_service.looks import MOST_EVENTS, Looks
from router_service.relay import Relay
from router_service.reports import Pending, Report
from router_service.signals import Signals, job_topic, owner_topic, reports_topic
from router_service.storage import Storage
from router_service.storage.recent import JobEvent
from service_kit.events import encode_cursor
from service_kit.events.followers import Follower, Followers
from service_kit.identity import Owner

_MOST_JOBS = 200
# So long another replica may take to say what is reported of a job there, to one who does not stay.
_ASK_S = 0.1


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The jobs as they are now: one, or the newest of an owner that have not ended; `more` says there are others."""

    jobs: tuple[Job, ...]
    cursor: str
    more: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """A job after one durable change."""

    job: Job
    cursor: str


Told = Snapshot | Change | Report


@dataclass(frozen=True, slots=True)
class Opening:
    """Where a watch begins. With a snapshot it does not resume; `ended` says that nothing more will come."""

    epoch: str
    position: int
    snapshot: Snapshot | None
    ended: bool


class Watch:
    """Follows jobs for their owners."""

    def __init__(self, storage: Storage, signals: Signals, relay: Relay) -> None:
        self._storage = storage
        self._relay = relay
        self._looks = Looks(storage)
        self.followers = Followers(signals.watchers, self._find_changed)

    async def close(self) -> None:
        """Let what is read at this moment end."""
        await self._looks.close()

    async def open_job(self, job_id: str, owner: Owner, after: str) -> Opening:
        """Find out where to begin with one job.

        Raises:
            NotFound: no such job, or somebody else owns it.
        """
        place, job = await (self._looks.job(job_id, owner) if after else self._looks.begin(job_id, owner))
        position = place.after(after)
        if position is None:
            return Opening(place.epoch, place.position, Snapshot((job,), place.cursor), ended=False)
        is_over = job.state in FINAL
        missed = is_over and await self._looks.events(position, owner, job_id)
        return Opening(place.epoch, position, None, ended=is_over and not missed)

    async def follow_job(
        self, job_id: str, owner: Owner, opening: Opening, *, once: bool = False
    ) -> AsyncIterator[Told]:
        """Yield what happens to a job, from the opening to its last event, or to now where `once` is set."""
        if opening.snapshot is not None:
            yield opening.snapshot
            if opening.snapshot.jobs[0].state in FINAL:
                return
        if opening.ended:
            return
        with self._relay.watch_job(job_id) as pending:
            # Closed here: what is collected is closed by a task of its own.
            following = self._follow(job_topic(job_id), owner, job_id, opening, pending, once=once)
            async with aclosing(following):
                async for told in following:
                    yield told
                    if isinstance(told, Change) and told.job.state in FINAL:
                        return

    async def open_owner(self, owner: Owner, after: str) -> Opening:
        """Find out where to begin with all jobs of an owner."""
        async with self._storage.read() as tx:
            place = await tx.events.place(owner)
            position = place.after(after)
            if position is not None:
                return Opening(place.epoch, position, None, ended=False)
            jobs = await tx.jobs.find_unfinished(owner, limit=_MOST_JOBS + 1)
            snapshot = Snapshot(tuple(jobs[:_MOST_JOBS]), place.cursor, more=len(jobs) > _MOST_JOBS)
            return Opening(place.epoch, place.position, snapshot, ended=False)

    async def follow_owner(self, owner: Owner, opening: Opening, *, once: bool = False) -> AsyncIterator[Told]:
        """Yield what happens to an owner's jobs, without end, or to now where `once` is set."""
        if opening.snapshot is not None:
            yield opening.snapshot
        with self._relay.watch_owner(owner) as pending:
            async for told in self._follow(owner_topic(owner), owner, None, opening, pending, once=once):
                yield told

    async def _follow(
        self,
        topic: tuple[str, ...],
        owner: Owner,
        job_id: str | None,
        opening: Opening,
        pending: Pending,
        *,
        once: bool,
    ) -> AsyncGenerator[Change | Report, None]:
        """Yield changes after a position and reports in between, without end, or once what there is of both.

        A report alone is no reason to read the database: there may be many, and the first one is waited for.
        """
        look = True
        reports = reports_topic(topic)
        with self.followers.follow(owner, opening.position, reports, subject_id=job_id) as follower:
            if once and job_id is not None and not self._relay.knows(job_id):
                await _wait_a_moment(follower)
            while True:
                events = await self._events(follower.position, owner, job_id) if look else []
                for event in events:
                    yield Change(event.job, encode_cursor(opening.epoch, event.position))
                    follower.position = event.position
                for report in pending.take():
                    yield report
                if len(events) < MOST_EVENTS:
                    if once:
                        return
                    heard = await follower.wait()
                    look = heard != {reports}

    async def _find_changed(self, since: Sequence[tuple[Owner, int]]) -> list[tuple[Owner, str, int]]:
        async with self._storage.read() as tx:
            changed = await tx.events.changed(since)
        for owner, _, position in changed:
            self._storage.recent.heard(owner, position)
        return changed

    async def _events(self, position: int, owner: Owner, job_id: str | None) -> list[JobEvent]:
        if job_id is not None:
            return await self._looks.events(position, owner, job_id)
        async with self._storage.read() as tx:
            return await tx.events.find_after(position, owner=owner, limit=MOST_EVENTS)


async def _wait_a_moment(follower: Follower) -> None:
    """Wait until another replica has said what is reported there, or has had the time to."""
    try:
        async with asyncio.timeout(_ASK_S):
            await follower.wait()
    except TimeoutError:
        return
