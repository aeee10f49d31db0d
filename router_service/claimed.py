"""Settlements that this replica has recorded a moment ago, on their way to what sends them.

Whoever records them claims their entries in the outbox with the same transaction, so nothing has to read them again.
What is here may be lost at any time: the entries in the outbox are the truth, and are due again when the claim lapses.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from datetime import timedelta

from router_service.domain import FINAL, Job
from service_kit.clock import Clock

CLAIM_FOR = timedelta(seconds=3)
"""How long an entry is claimed: short, so that what a dead replica claimed is soon sent by another."""

GATHER_FOR = timedelta(milliseconds=100)
"""How long what nobody waits for gathers, so that one call and three transactions serve a dozen that have failed."""

_MOST_WAITING = 2048
_ENOUGH = 64


class Claimed:
    """Jobs whose settlement is claimed and not sent yet, oldest first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: deque[tuple[float, Job]] = deque()
        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()
        self._is_open = False

    def claim_for(self, count: int) -> timedelta:
        """Return for how long so many entries may be claimed here: not at all when nobody would send them soon."""
        takes = self._is_open and len(self._waiting) + count <= _MOST_WAITING
        return CLAIM_FOR if takes else timedelta(0)

    def put(self, jobs: Sequence[Job]) -> None:
        """Hand over jobs whose entries were claimed right now."""
        now_s = self._clock.monotonic()
        self._waiting.extend((now_s, job) for job in jobs)
        self._wake.set()
        if len(self._waiting) >= _ENOUGH or any(_is_waited_for(job) for job in jobs):
            self._hurry.set()

    def open(self) -> None:
        """Say that somebody takes what is put here."""
        self._is_open = True

    def close(self) -> None:
        """Say that nobody does any more, and forget what waits: it becomes due."""
        self._is_open = False
        self._waiting.clear()

    async def wait(self) -> None:
        """Wait until something is here that somebody waits for, or has gathered for a moment."""
        while not self._waiting:
            self._wake.clear()
            await self._wake.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GATHER_FOR.total_seconds()):
                await self._hurry.wait()

    def take(self, *, most: int) -> list[Job]:
        """Return the oldest jobs. Those whose claim is half over are left to whoever finds them due."""
        fresh_s = self._clock.monotonic() - CLAIM_FOR.total_seconds() / 2
        taken = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
        if not self._waiting:
            self._hurry.clear()
        return [job for put_s, job in taken if put_s >= fresh_s]


def _is_waited_for(job: Job) -> bool:
    """Tell whether a settlement changes what anybody sees: the job ends with it, or its references are held."""
    return job.state not in FINAL or bool(job.references)
