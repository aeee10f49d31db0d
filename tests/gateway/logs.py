"""A stand-in for what a watch RPC reads: events with positions, told after a cursor, once or for as long as asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from atelier.router.v1 import job_pb2, router_service_pb2
from service_kit.events import decode_cursor, encode_cursor
from service_kit.events.watching import ends_when_told

EPOCH = "0123456789abcdef"


def at(position: int) -> str:
    """Return the cursor of an event."""
    return encode_cursor(EPOCH, position)


class JobLog:
    """The events of one job. Each stays; a report is told to those who are there."""

    def __init__(self) -> None:
        self.versions = 0
        self.ended = False
        self.followed = 0
        """How many calls go on at this moment without being asked to end."""
        self.once = 0
        """How many calls were to end when all was told."""
        self._changed = asyncio.Condition()
        self.broken: Exception | None = None

    async def add(self, count: int = 1, *, last: bool = False) -> None:
        """Let the job change."""
        async with self._changed:
            self.versions += count
            self.ended = last
            self._changed.notify_all()

    async def fail(self, error: Exception) -> None:
        """End every call that goes on."""
        async with self._changed:
            self.broken = error
            self._changed.notify_all()

    async def quiet(self) -> None:
        """Return when nobody follows any more."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.followed == 0)

    async def watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Be the RPC WatchJob."""
        cursor, once = decode_cursor(request.after), ends_when_told(context.invocation_metadata())
        if cursor is not None and cursor.position > self.versions:
            cursor = None
        position = 0 if cursor is None else cursor.position
        is_over = self.ended and cursor is not None and position == self.versions
        await context.send_initial_metadata((("atelier-stream", "ended" if is_over else "open"),))
        # Counted before anything is told: whoever has read it may ask.
        self.once += once
        self.followed += not once
        try:
            if cursor is None:
                position = self.versions
                snapshot = job_pb2.Job(job_id=request.job_id, version=position)
                yield router_service_pb2.WatchJobResponse(cursor=at(position), snapshot=snapshot)
            while True:
                while position < self.versions:
                    position += 1
                    yield _changed(request.job_id, position)
                if once or self.ended:
                    return
                async with self._changed:
                    while self.versions == position and self.broken is None:
                        await self._changed.wait()
                    if self.broken is not None:
                        raise self.broken
        finally:
            self.followed -= not once
            if not once:
                await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def _changed(job_id: str, position: int) -> router_service_pb2.WatchJobResponse:
    return router_service_pb2.WatchJobResponse(cursor=at(position), state=job_pb2.Job(job_id=job_id, version=position))
