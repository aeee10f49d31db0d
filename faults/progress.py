"""How far a schedule has come, as the harness sees it from outside; faults wait here for their points."""

from __future__ import annotations

import asyncio
from collections import Counter

from faults.schedule import Measure, Point

_KIB = 1024


class Progress:
    """Counts what was accepted, leased, recorded, finished and uploaded. Counts only grow."""

    def __init__(self) -> None:
        """Begin at nothing."""
        self._counts: Counter[Measure] = Counter()
        self._uploaded_bytes = 0
        self._leases: set[tuple[str, int]] = set()
        self._recorded: set[str] = set()
        self._finished: dict[str, str] = {}
        self._running: set[str] = set()
        self._moved = asyncio.Event()

    def count(self, measure: Measure) -> int:
        """Return how much of a measure there was."""
        return self._counts[measure]

    def accepted(self) -> None:
        """A job was accepted."""
        self._add(Measure.ACCEPTED)

    def uploaded(self, size_bytes: int) -> None:
        """So many bytes went up to the asset services."""
        before = self._uploaded_bytes // _KIB
        self._uploaded_bytes += size_bytes
        self._add(Measure.UPLOADED, self._uploaded_bytes // _KIB - before)

    def saw(self, job_id: str, version: int, state: str) -> None:
        """Some watcher saw a job in a state; the first sight of each counts."""
        if state == "running" and (job_id, version) not in self._leases:
            self._leases.add((job_id, version))
            self._running.add(job_id)
            self._add(Measure.LEASED)
        if state in {"publishing", "succeeded", "failed"} and job_id not in self._recorded:
            self._recorded.add(job_id)
            self._add(Measure.RECORDED)
        if state in {"succeeded", "failed", "cancelled"} and job_id not in self._finished:
            self._finished[job_id] = state
            self._add(Measure.FINISHED)

    def has_run(self, job_id: str) -> bool:
        """Whether the job was seen running or at its end."""
        return job_id in self._running or job_id in self._finished

    def is_finished(self, job_id: str) -> bool:
        """Whether the job was seen at its end."""
        return job_id in self._finished

    async def reach(self, point: Point) -> None:
        """Wait until a point is reached."""
        while self._counts[point.measure] < point.count:
            await self.moved()

    async def moved(self) -> None:
        """Wait until something counts more than now."""
        await self._moved.wait()

    def _add(self, measure: Measure, count: int = 1) -> None:
        if count:
            self._counts[measure] += count
            self._moved.set()
            self._moved = asyncio.Event()
