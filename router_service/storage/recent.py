"""The newest events of jobs that this process has written, in memory: watchers of what runs read no database.

Only where nobody else writes, as on SQLite: there the positions of events are known before they are committed, and
what is here is all there is. Of each owner it knows everything after one position, or nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from router_service.domain import FINAL, Job
from service_kit.identity import Owner

MOST_EVENTS = 512


@dataclass(frozen=True, slots=True)
class JobEvent:
    """A job as it was after one change, and where that stands in the log."""

    position: int
    job: Job


@dataclass(slots=True)
class _Tail:
    """All events of one owner after `start`, up to `end`."""

    start: int
    end: int
    of_jobs: dict[str, deque[JobEvent]] = field(default_factory=dict)


class RecentEvents:
    """What was written last, of all owners together at most so many events; the oldest are forgotten."""

    def __init__(self, most: int = MOST_EVENTS) -> None:
        self._most = most
        self._order: deque[tuple[_Tail, JobEvent]] = deque()
        self._tails: dict[Owner, _Tail] = {}

    def add(self, written: Iterable[JobEvent]) -> None:
        """Take events that were committed, in the order of their commits."""
        for event in written:
            tail = self._tails.get(event.job.owner)
            if tail is None or event.position != tail.end + 1:
                # Somebody else has written in between, or this process did and never learned that it had.
                tail = self._tails[event.job.owner] = _Tail(event.position - 1, event.position)
            tail.end = event.position
            tail.of_jobs.setdefault(event.job.job_id, deque()).append(event)
            self._order.append((tail, event))
        while len(self._order) > self._most:
            self._forget(*self._order.popleft())

    def running(self, owner: Owner, job_id: str) -> tuple[int, Job] | None:
        """Return an owner's job that has not ended, and the position of their newest event; None if it is not known."""
        tail = self._tails.get(owner)
        events = tail.of_jobs.get(job_id) if tail is not None else None
        if tail is None or not events or events[-1].job.state in FINAL:
            return None
        return tail.end, events[-1].job

    def after(self, position: int, owner: Owner, job_id: str) -> list[JobEvent] | None:
        """Return the events of an owner's job after a position, in order; None if some may not be known."""
        tail = self._tails.get(owner)
        if tail is None or position < tail.start:
            return None
        return [event for event in tail.of_jobs.get(job_id, ()) if event.position > position]

    def heard(self, owner: Owner, position: int) -> None:
        """Learn that the database has an event of an owner; one that is not known was written by somebody else."""
        tail = self._tails.get(owner)
        if tail is not None and position > tail.end:
            del self._tails[owner]

    def _forget(self, tail: _Tail, event: JobEvent) -> None:
        """Forget the oldest event; that of a tail which was left has no meaning any more."""
        tail.start = event.position
        events = tail.of_jobs[event.job.job_id]
        events.popleft()
        if not events:
            del tail.of_jobs[event.job.job_id]
        if not tail.of_jobs and self._tails.get(event.job.owner) is tail:
            del self._tails[event.job.owner]
