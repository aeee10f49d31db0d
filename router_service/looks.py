"""What watchers read of the database, many of them at a time: one transaction for all who look at the same moment."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from router_service.domain import Job
from router_service.storage import Storage, Transaction
from router_service.storage.recent import JobEvent
from service_kit.batching import MOST_WAITING, Batcher
from service_kit.errors import AtelierError, NotFound
from service_kit.events.log import Place
from service_kit.identity import Owner

MOST_EVENTS = 200
"""How many events one look gives at most; a full one is followed by another."""

_MOST_TOGETHER = 64
_MOST_EPOCHS = 1024


@dataclass(frozen=True, slots=True)
class _JobOf:
    job_id: str
    owner: Owner


@dataclass(frozen=True, slots=True)
class _After:
    position: int
    owner: Owner
    job_id: str


class Looks:
    """Reads one job, or what happened to it, for everybody who asks for that at one time."""

    def __init__(self, storage: Storage, *, most_events: int = MOST_EVENTS, most_waiting: int = MOST_WAITING) -> None:
        """Read from `storage`; give at most `most_events` events in one look. So many looks of a kind may wait."""
        self._storage = storage
        self._most_events = most_events
        self._epochs: dict[Owner, str] = {}
        self._jobs: Batcher[_JobOf, tuple[Place, Job]] = Batcher(
            "router.watched_jobs", self._find_jobs, most=_MOST_TOGETHER, most_waiting=most_waiting
        )
        self._events: Batcher[_After, list[JobEvent]] = Batcher(
            "router.watched_events", self._find_events, most=_MOST_TOGETHER, most_waiting=most_waiting
        )

    async def close(self) -> None:
        """Let what runs end."""
        await asyncio.gather(self._jobs.close(), self._events.close())

    async def begin(self, job_id: str, owner: Owner) -> tuple[Place, Job]:
        """Return a job, and where its owner's events stand, for who has no cursor. Raises as `job`."""
        known, epoch = self._storage.recent.running(owner, job_id), self._epochs.get(owner)
        if known is not None and epoch is not None:
            position, job = known
            return Place(epoch, position, trimmed_to=position), job
        return await self.job(job_id, owner)

    async def job(self, job_id: str, owner: Owner) -> tuple[Place, Job]:
        """Return a job, and where its owner's events stood before it was read.

        Raises:
            NotFound: no such job, or somebody else owns it.
            ResourceExhausted: too many look at this moment; whoever watches comes back with its cursor.
        """
        place, job = await self._jobs.submit(_JobOf(job_id, owner))
        if len(self._epochs) >= _MOST_EPOCHS:
            self._epochs.clear()
        self._epochs[owner] = place.epoch
        return place, job

    async def events(self, position: int, owner: Owner, job_id: str) -> list[JobEvent]:
        """Return the events of an owner's job after a position, in order. May be empty. Raises ResourceExhausted."""
        known = self._storage.recent.after(position, owner, job_id)
        if known is not None:
            return known[: self._most_events]
        return await self._events.submit(_After(position, owner, job_id))

    async def _find_jobs(self, asked: Sequence[_JobOf]) -> list[tuple[Place, Job] | AtelierError]:
        async with self._storage.read() as tx:
            # Before the jobs: what is read later is never older.
            places = {owner: await tx.events.place(owner) for owner in {each.owner for each in asked}}
            jobs = await tx.jobs.find({each.job_id for each in asked})
        return [
            (places[each.owner], job)
            if (job := jobs.get(each.job_id)) is not None and job.owner == each.owner
            else NotFound.of("job", each.job_id)
            for each in asked
        ]

    async def _find_events(self, asked: Sequence[_After]) -> list[list[JobEvent]]:
        since: dict[tuple[Owner, str], int] = {}
        for each in asked:
            since[each.owner, each.job_id] = min(each.position, since.get((each.owner, each.job_id), each.position))
        async with self._storage.read() as tx:
            found = await tx.events.find_of_jobs(since, limit=self._most_events)
            if len(found) == self._most_events:
                # Some may be missing, and who lacks which is not known.
                return [await self._find_alone(tx, each) for each in asked]
        told: defaultdict[tuple[Owner, str], list[JobEvent]] = defaultdict(list)
        for owner, event in found:
            told[owner, event.job.job_id].append(event)
        return [[event for event in told[each.owner, each.job_id] if event.position > each.position] for each in asked]

    async def _find_alone(self, tx: Transaction, asked: _After) -> list[JobEvent]:
        return await tx.events.find_after(
            asked.position, owner=asked.owner, job_id=asked.job_id, limit=self._most_events
        )
