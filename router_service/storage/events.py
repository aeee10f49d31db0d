"""Every query on what watchers are told."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from router_service.domain import Job
from router_service.storage import codec
from router_service.storage.tables import event_log
from service_kit.events.cursor import encode_cursor
from service_kit.identity import Owner


@dataclass(frozen=True, slots=True)
class JobEvent:
    """A job as it was after one change, and where that stands in the log."""

    position: int
    job: Job


class Events:
    """The event log."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def find_after(
        self, position: int, *, owner: Owner, job_id: str | None = None, limit: int = 200
    ) -> list[JobEvent]:
        """Return an owner's events after a position, in order; those of one job if it is named. May be empty."""
        stored = await event_log.after(self._connection, position, owner=owner, subject_id=job_id, limit=limit)
        return [JobEvent(event.position, codec.from_bytes(Job, event.payload)) for event in stored]

    async def resume(self, cursor: str) -> int | None:
        """Return the position of a cursor, or None when it is unknown or too old."""
        return await event_log.resume(self._connection, cursor)

    async def last(self, owner: Owner) -> int:
        """Return the position of an owner's newest event; 0 when there is none."""
        return await event_log.last(self._connection, owner=owner)

    async def epoch(self) -> str:
        """Return the random id that was made with the database."""
        return await event_log.epoch(self._connection)

    async def cursor(self, position: int) -> str:
        """Return the cursor that names a position."""
        return encode_cursor(await event_log.epoch(self._connection), position)

    async def trim(self, older_than: timedelta) -> int:
        """Forget events. Returns how many."""
        return await event_log.trim(self._connection, older_than=older_than)
