"""Every query on what watchers are told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from router_service.domain import Job
from router_service.storage import codec
from router_service.storage.recent import JobEvent
from router_service.storage.tables import event_log
from service_kit.events.log import NewEvent, Place
from service_kit.identity import Owner

_KIND = "job"


class Events:
    """The event log. What is added is written as the last step of the transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._new: list[NewEvent] = []
        self._jobs: list[Job] = []
        self._written: list[tuple[list[int], list[Job]]] = []

    def add(self, job: Job, document: bytes) -> None:
        """Tell of a job as it is after a change; `document` is the job as JSON."""
        self._new.append(NewEvent(job.owner, job.job_id, job.version, _KIND, document))
        self._jobs.append(job)

    async def write(self) -> None:
        """Write what was added."""
        new, jobs, self._new, self._jobs = self._new, self._jobs, [], []
        self._written.append((await event_log.write(self._connection, new), jobs))

    @property
    def written(self) -> list[JobEvent]:
        """What was written, as far as its positions are known when the transaction has committed."""
        return [
            JobEvent(position, job)
            for positions, jobs in self._written
            for position, job in zip(positions, jobs, strict=False)
        ]

    async def find_after(
        self, position: int, *, owner: Owner, job_id: str | None = None, limit: int = 200
    ) -> list[JobEvent]:
        """Return an owner's events after a position, in order; those of one job if it is named. May be empty."""
        stored = await event_log.after(self._connection, position, owner=owner, subject_id=job_id, limit=limit)
        return [JobEvent(event.position, codec.from_bytes(Job, event.payload)) for event in stored]

    async def find_of_jobs(self, after: Mapping[tuple[Owner, str], int], *, limit: int) -> list[tuple[Owner, JobEvent]]:
        """Return events of jobs by (owner, job_id), each with its owner: those after the job's position, in order."""
        watched = [(owner, job_id, position) for (owner, job_id), position in after.items()]
        stored = await event_log.of_subjects(self._connection, watched, limit=limit)
        return [(owner, JobEvent(position, codec.from_bytes(Job, payload))) for owner, _, position, payload in stored]

    async def changed(self, since: Iterable[tuple[Owner, int]]) -> list[tuple[Owner, str, int]]:
        """Return which jobs of these owners have events after the positions: (owner, job_id, position), in order."""
        return await event_log.changed(self._connection, since)

    async def place(self, owner: Owner) -> Place:
        """Return where an owner's events stand; in a snapshot it is read before what it shows."""
        return await event_log.place(self._connection, owner)

    async def trim(self, older_than: timedelta) -> int:
        """Forget some thousand events. Returns how many; when it is none, no old one is left."""
        return await event_log.trim(self._connection, older_than=older_than)
