"""Every query on a service's events table. An event is written in the transaction of the change that it tells.

On SQLite there is one writer, so that positions grow in commit order and no reader can skip a late commit.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from service_kit.database import UtcDateTime, db_now
from service_kit.events.cursor import decode_cursor
from service_kit.identity import Owner

_Position = BigInteger().with_variant(Integer, "sqlite")


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One durable thing that happened to a subject: a job, an asset, an item."""

    position: int
    owner: Owner
    subject_id: str
    version: int
    kind: str
    payload: bytes
    created_at: datetime


def event_columns() -> list[Column[Any]]:
    """Return the columns of the table `events`; for tables and migrations alike."""
    return [
        Column("id", _Position, primary_key=True, autoincrement=True),
        Column("tenant_id", String, nullable=False),
        Column("owner_id", String, nullable=False),
        Column("subject_id", String, nullable=False),
        Column("version", BigInteger, nullable=False),
        Column("kind", String, nullable=False),
        Column("payload", LargeBinary, nullable=False),
        Column("created_at", UtcDateTime, nullable=False),
    ]


def event_source_columns() -> list[Column[Any]]:
    """Return the columns of the table `event_source`, one row: who this database is, and how far it was trimmed."""
    return [
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("epoch", String, nullable=False),
        Column("trimmed_to", BigInteger, nullable=False),
    ]


def create_event_tables(op: Any) -> None:
    """Create both tables in a migration: `create_event_tables(op)`."""
    op.create_table("events", *event_columns(), sqlite_autoincrement=True)
    op.create_index("events_of_owner", "events", ["tenant_id", "owner_id", "id"])
    op.create_index("events_of_subject", "events", ["subject_id", "id"])
    source = op.create_table("event_source", *event_source_columns())
    op.bulk_insert(source, [{"id": 1, "epoch": secrets.token_hex(8), "trimmed_to": 0}])


class EventLog:
    """The events of one service."""

    def __init__(self, metadata: MetaData) -> None:
        """Add the tables `events` and `event_source` to a service's tables."""
        # Without AUTOINCREMENT SQLite would use the id of a trimmed last row again, and a cursor skip the new event.
        self._events = Table("events", metadata, *event_columns(), sqlite_autoincrement=True)
        self._source = Table("event_source", metadata, *event_source_columns())
        Index("events_of_owner", self._events.c.tenant_id, self._events.c.owner_id, self._events.c.id)
        Index("events_of_subject", self._events.c.subject_id, self._events.c.id)

    async def append(
        self, tx: AsyncConnection, *, owner: Owner, subject_id: str, version: int, kind: str, payload: bytes
    ) -> int:
        """Add an event. Returns its position."""
        values = {
            "tenant_id": owner.tenant_id,
            "owner_id": owner.owner_id,
            "subject_id": subject_id,
            "version": version,
            "kind": kind,
            "payload": payload,
            "created_at": db_now(),
        }
        result = await tx.execute(insert(self._events).values(values).returning(self._events.c.id))
        return int(result.scalar_one())

    async def after(
        self,
        tx: AsyncConnection,
        position: int,
        *,
        owner: Owner | None = None,
        subject_id: str | None = None,
        limit: int = 500,
    ) -> list[StoredEvent]:
        """Return at most `limit` events after a position, oldest first, of an owner, of a subject, or of both."""
        events = self._events
        query = select(events).where(events.c.id > position).order_by(events.c.id).limit(limit)
        rows = await tx.execute(query.where(*self._of(owner, subject_id)))
        return [_to_event(row) for row in rows]

    async def last(self, tx: AsyncConnection, *, owner: Owner | None = None, subject_id: str | None = None) -> int:
        """Return the position of the newest event, or how far events were trimmed when there is none."""
        query = select(func.max(self._events.c.id)).where(*self._of(owner, subject_id))
        newest: int | None = (await tx.execute(query)).scalar_one()
        return newest if newest is not None else await self.trimmed_to(tx)

    async def epoch(self, tx: AsyncConnection) -> str:
        """Return the random id that was made with the database."""
        return str((await tx.execute(select(self._source.c.epoch))).scalar_one())

    async def trimmed_to(self, tx: AsyncConnection) -> int:
        """Return the position up to which events may be missing; 0 when nothing was trimmed."""
        return int((await tx.execute(select(self._source.c.trimmed_to))).scalar_one())

    async def resume(self, tx: AsyncConnection, cursor_text: str) -> int | None:
        """Return the position to go on after; None when a snapshot must come first.

        That is so for no cursor, and for one that is unreadable, of another database, older than what is kept, or
        from the future.
        """
        cursor = decode_cursor(cursor_text)
        if cursor is None or cursor.epoch != await self.epoch(tx):
            return None
        if not await self.trimmed_to(tx) <= cursor.position <= await self.last(tx):
            return None
        return cursor.position

    async def trim(self, tx: AsyncConnection, *, older_than: timedelta) -> int:
        """Remove events that are older than retention. Returns how many."""
        events = self._events
        old = events.c.created_at < db_now(plus=-older_than)
        newest: int | None = (await tx.execute(select(func.max(events.c.id)).where(old))).scalar_one()
        if newest is None:
            return 0
        await tx.execute(update(self._source).values(trimmed_to=newest))
        return (await tx.execute(delete(events).where(events.c.id <= newest))).rowcount

    def _of(self, owner: Owner | None, subject_id: str | None) -> list[Any]:
        events = self._events
        conditions: list[Any] = []
        if owner is not None:
            conditions += [events.c.tenant_id == owner.tenant_id, events.c.owner_id == owner.owner_id]
        if subject_id is not None:
            conditions.append(events.c.subject_id == subject_id)
        return conditions


def _to_event(row: Any) -> StoredEvent:
    owner = Owner(row.tenant_id, row.owner_id)
    return StoredEvent(row.id, owner, row.subject_id, row.version, row.kind, row.payload, row.created_at)
