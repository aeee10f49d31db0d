"""Every query on a service's events table. An event is written in the transaction of the change that it tells.

The events of one owner are numbered: 1, 2, 3 … A transaction takes its numbers as its last step, under the lock of the
owner's row in `event_heads`, and keeps that lock until it has committed. So an owner's positions grow in the order of
commits, on every database: whoever has read up to a position has missed nothing before it.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Index,
    Integer,
    MetaData,
    Table,
    and_,
    bindparam,
    delete,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from service_kit import sqlite_connections
from service_kit.database import db_now, json_list
from service_kit.events.cursor import Cursor, decode_cursor, encode_cursor
from service_kit.events.tables import EVENT_INDEXES, event_columns, event_head_columns, event_source_columns
from service_kit.identity import Owner
from service_kit.postgres_driver import STATEMENT_CLOCK, send_later

TRIM_AT_ONCE = 2000
_MOST_CHANGED = 10_000

# One statement takes the numbers and writes the events. `unnest` gives the owners in the order of the list: sorted, so
# that two transactions never wait for each other. Arrays travel in binary, which costs a hundredth
# of text.
_WRITE_ON_POSTGRESQL = f"""
WITH heads AS (
    INSERT INTO event_heads AS head (tenant_id, owner_id, position, trimmed_to)
    SELECT tenant_id, owner_id, count, 0
    FROM unnest(%(head_tenants)b::text[], %(head_owners)b::text[], %(head_counts)b::bigint[])
        AS mine (tenant_id, owner_id, count)
    ON CONFLICT (tenant_id, owner_id) DO UPDATE SET position = head.position + excluded.position
    RETURNING tenant_id, owner_id, position
)
INSERT INTO events (tenant_id, owner_id, position, subject_id, version, kind, payload, created_at)
SELECT tenant_id, owner_id, position - before_last, subject_id, version, kind, payload, {STATEMENT_CLOCK}
FROM unnest(
    %(tenants)b::text[], %(owners)b::text[], %(before_last)b::bigint[], %(subjects)b::text[],
    %(versions)b::bigint[], %(kinds)b::text[], %(payloads)b::bytea[]
) AS mine (tenant_id, owner_id, before_last, subject_id, version, kind, payload)
JOIN heads USING (tenant_id, owner_id)
"""  # noqa: S608 - the clock is a constant
# On SQLite in the trip of the commit.
_TAKE_ON_SQLITE = """
INSERT INTO event_heads AS head (tenant_id, owner_id, position, trimmed_to) VALUES (?, ?, ?, 0)
ON CONFLICT (tenant_id, owner_id) DO UPDATE SET position = head.position + excluded.position
RETURNING position
"""
_INSERT_ON_SQLITE = """
INSERT INTO events (tenant_id, owner_id, position, subject_id, version, kind, payload, created_at)
VALUES (?, ?, ?, ?, ?, ?, ?, atelier_now())
"""
_CHANGED = """
SELECT events.tenant_id, events.owner_id, events.subject_id, events.position
FROM {watched} JOIN events ON events.tenant_id = watched.tenant_id AND events.owner_id = watched.owner_id
    AND events.position > watched.position
ORDER BY events.tenant_id, events.owner_id, events.position LIMIT :most
"""
_CHANGED_ON_POSTGRESQL = text(
    _CHANGED.format(
        watched="unnest(CAST(:tenants AS text[]), CAST(:owners AS text[]), CAST(:positions AS bigint[]))"
        " AS watched (tenant_id, owner_id, position)"
    )
)
_CHANGED_ON_SQLITE = text(
    _CHANGED.format(
        watched="(SELECT json_extract(value, '$[0]') AS tenant_id, json_extract(value, '$[1]') AS owner_id,"
        " json_extract(value, '$[2]') AS position FROM json_each(:watched)) AS watched"
    )
)

# In this order: a few are looked for, and the events of each are found by the index.
_OF_SUBJECTS = """
SELECT events.tenant_id, events.owner_id, events.subject_id, events.position, events.payload
FROM {watched} CROSS JOIN events
WHERE events.tenant_id = watched.tenant_id AND events.owner_id = watched.owner_id
    AND events.subject_id = watched.subject_id AND events.position > watched.position
ORDER BY events.position LIMIT :most
"""
_OF_SUBJECTS_ON_POSTGRESQL = text(
    _OF_SUBJECTS.format(
        watched="unnest(CAST(:tenants AS text[]), CAST(:owners AS text[]), CAST(:subjects AS text[]),"
        " CAST(:positions AS bigint[])) AS watched (tenant_id, owner_id, subject_id, position)"
    )
)
_OF_SUBJECTS_ON_SQLITE = text(
    _OF_SUBJECTS.format(
        watched="(SELECT json_extract(value, '$[0]') AS tenant_id, json_extract(value, '$[1]') AS owner_id,"
        " json_extract(value, '$[2]') AS subject_id, json_extract(value, '$[3]') AS position"
        " FROM json_each(:watched)) AS watched"
    )
)


@dataclass(frozen=True, slots=True)
class NewEvent:
    """What is to be told about a subject: a job, an asset, an item."""

    owner: Owner
    subject_id: str
    version: int
    kind: str
    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One durable thing that happened to a subject, and its number among its owner's."""

    position: int
    owner: Owner
    subject_id: str
    version: int
    kind: str
    payload: bytes
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Place:
    """Where an owner's events stand: the epoch of cursors, the newest position, and up to which some may be gone."""

    epoch: str
    position: int
    trimmed_to: int

    @property
    def cursor(self) -> str:
        """The cursor after the newest event."""
        return encode_cursor(self.epoch, self.position)

    def after(self, cursor_text: str) -> int | None:
        """Return the position of a cursor; None when a snapshot must come first.

        That is so for no cursor, and for one that is unreadable, of another database or owner, older than what is kept,
        or from the future.
        """
        cursor: Cursor | None = decode_cursor(cursor_text)
        if cursor is None or cursor.epoch != self.epoch:
            return None
        return cursor.position if self.trimmed_to <= cursor.position <= self.position else None


class EventLog:
    """The events of one service."""

    def __init__(self, metadata: MetaData) -> None:
        """Add the tables `events`, `event_heads` and `event_source` to a service's tables."""
        indexes = [Index(name, *columns) for name, columns in EVENT_INDEXES.items()]
        self._events = Table("events", metadata, *event_columns(), *indexes)
        self._heads = Table("event_heads", metadata, *event_head_columns())
        self._source = Table("event_source", metadata, *event_source_columns())
        # Made once: to make a statement and to know it again costs as much as to run it.
        after = select(self._events).where(*_of(self._events), self._events.c.position > bindparam("after"))
        after = after.order_by(self._events.c.position).limit(bindparam("most", type_=Integer))
        self._after = after
        self._after_of_subject = after.where(self._events.c.subject_id == bindparam("subject"))
        self._place = select(self._source.c.epoch, self._heads.c.position, self._heads.c.trimmed_to).outerjoin_from(
            self._source, self._heads, and_(*_of(self._heads))
        )

    async def write(self, tx: AsyncConnection, new: Sequence[NewEvent]) -> list[int]:
        """Write events, in order, as the last step of a transaction: until it ends their owners' events are locked.

        Returns a list that has their positions when the transaction has committed; on PostgreSQL it stays empty.
        """
        counts = Counter(event.owner for event in new)
        heads = sorted(counts.items(), key=lambda head: (head[0].tenant_id, head[0].owner_id))
        if not heads:
            return []
        behind = []
        for event in new:
            counts[event.owner] -= 1
            behind.append(counts[event.owner])
        if tx.dialect.name == "postgresql":
            send_later(tx, _WRITE_ON_POSTGRESQL, _arrays(heads, new, behind))
            return []
        return await self._write_on_sqlite(tx, heads, new, behind)

    async def _write_on_sqlite(
        self, tx: AsyncConnection, heads: list[tuple[Owner, int]], new: Sequence[NewEvent], behind: list[int]
    ) -> list[int]:
        positions: list[int] = []

        def write(connection: sqlite3.Connection) -> None:
            reached: dict[Owner, int] = {}
            for owner, count in heads:
                mine = (owner.tenant_id, owner.owner_id, count)
                [(reached[owner],)] = connection.execute(_TAKE_ON_SQLITE, mine).fetchall()
            positions.extend(reached[event.owner] - before_last for event, before_last in zip(new, behind, strict=True))
            rows = [
                (
                    event.owner.tenant_id,
                    event.owner.owner_id,
                    at,
                    event.subject_id,
                    event.version,
                    event.kind,
                    event.payload,
                )
                for event, at in zip(new, positions, strict=True)
            ]
            connection.executemany(_INSERT_ON_SQLITE, rows).close()

        await sqlite_connections.do_later(tx, write)
        return positions

    async def after(
        self, tx: AsyncConnection, position: int, *, owner: Owner, subject_id: str | None = None, limit: int = 500
    ) -> list[StoredEvent]:
        """Return at most `limit` events of an owner after a position, oldest first; those of one subject if named."""
        values: dict[str, Any] = {**_named(owner), "after": position, "most": limit}
        if subject_id is None:
            rows = await tx.execute(self._after, values)
        else:
            rows = await tx.execute(self._after_of_subject, {**values, "subject": subject_id})
        return [_to_event(row) for row in rows]

    async def of_subjects(
        self, tx: AsyncConnection, after: Iterable[tuple[Owner, str, int]], *, limit: int
    ) -> list[tuple[Owner, str, int, bytes]]:
        """Return at most `limit` events, by position, of (owner, subject_id) after the position that goes with them.

        Each as (owner, subject_id, position, payload); one for each time that it is asked for.
        """
        watched = [(owner.tenant_id, owner.owner_id, subject_id, position) for owner, subject_id, position in after]
        if tx.dialect.name == "postgresql":
            tenants, owners, subjects, positions = (
                (list(column) for column in zip(*watched, strict=True)) if watched else ([],) * 4
            )
            values = {"tenants": tenants, "owners": owners, "subjects": subjects, "positions": positions}
            rows = await tx.execute(_OF_SUBJECTS_ON_POSTGRESQL, {**values, "most": limit})
        else:
            rows = await tx.execute(_OF_SUBJECTS_ON_SQLITE, {"watched": json_list(watched), "most": limit})
        return [
            (Owner(tenant_id, owner_id), subject_id, position, payload)
            for tenant_id, owner_id, subject_id, position, payload in rows
        ]

    async def changed(self, tx: AsyncConnection, since: Iterable[tuple[Owner, int]]) -> list[tuple[Owner, str, int]]:
        """Return whose events of which subject came after the positions: (owner, subject_id, position), in order.

        At most 10,000; of the last owner in the list there may be more.
        """
        watched = [(owner.tenant_id, owner.owner_id, position) for owner, position in since]
        if tx.dialect.name == "postgresql":
            tenants, owners, positions = (
                (list(column) for column in zip(*watched, strict=True)) if watched else ([],) * 3
            )
            values = {"tenants": tenants, "owners": owners, "positions": positions, "most": _MOST_CHANGED}
            rows = await tx.execute(_CHANGED_ON_POSTGRESQL, values)
        else:
            rows = await tx.execute(_CHANGED_ON_SQLITE, {"watched": json_list(watched), "most": _MOST_CHANGED})
        return [
            (Owner(tenant_id, owner_id), subject_id, position) for tenant_id, owner_id, subject_id, position in rows
        ]

    async def place(self, tx: AsyncConnection, owner: Owner) -> Place:
        """Return where an owner's events stand. In a snapshot read this first: what is read later is never older."""
        row = (await tx.execute(self._place, _named(owner))).one()
        return Place(_epoch_of(row.epoch, owner), row.position or 0, row.trimmed_to or 0)

    async def trim(self, tx: AsyncConnection, *, older_than: timedelta) -> int:
        """Remove events that are older than retention, at most 2,000: repeat until it was fewer. Returns how many."""
        events, heads = self._events, self._heads
        key = (events.c.tenant_id, events.c.owner_id, events.c.position)
        old = select(*key).where(events.c.created_at < db_now(plus=-older_than)).order_by(events.c.created_at)
        removed = await tx.execute(
            # What another replica removes at this moment is left to it.
            delete(events)
            .where(tuple_(*key).in_(old.limit(TRIM_AT_ONCE).with_for_update(skip_locked=True)))
            .returning(*key),
        )
        newest: dict[tuple[str, str], int] = {}
        rows = removed.all()
        for tenant_id, owner_id, position in rows:
            newest[tenant_id, owner_id] = max(position, newest.get((tenant_id, owner_id), 0))
        if newest:
            # Last, and in the order in which writers take the heads.
            mine = (heads.c.tenant_id == bindparam("tenant"), heads.c.owner_id == bindparam("owner"))
            statement = update(heads).where(*mine, heads.c.trimmed_to < bindparam("reached"))
            await tx.execute(
                statement.values(trimmed_to=bindparam("reached")),
                [{"tenant": tenant, "owner": owner, "reached": at} for (tenant, owner), at in sorted(newest.items())],
            )
        return len(rows)


def _of(table: Table) -> list[ColumnElement[bool]]:
    """Return the condition that a row is of the owner who is named with `_named`."""
    return [table.c.tenant_id == bindparam("tenant_id"), table.c.owner_id == bindparam("owner_id")]


def _named(owner: Owner) -> dict[str, str]:
    return {"tenant_id": owner.tenant_id, "owner_id": owner.owner_id}


def _arrays(heads: list[tuple[Owner, int]], new: Sequence[NewEvent], behind: list[int]) -> dict[str, list[Any]]:
    return {
        "head_tenants": [owner.tenant_id for owner, _ in heads],
        "head_owners": [owner.owner_id for owner, _ in heads],
        "head_counts": [count for _, count in heads],
        "tenants": [event.owner.tenant_id for event in new],
        "owners": [event.owner.owner_id for event in new],
        "before_last": behind,
        "subjects": [event.subject_id for event in new],
        "versions": [event.version for event in new],
        "kinds": [event.kind for event in new],
        "payloads": [event.payload for event in new],
    }


def _epoch_of(source: str, owner: Owner) -> str:
    """Return what an owner's cursors carry: the database's id and a mark of whose numbers they count."""
    mark = hashlib.blake2b(f"{owner.tenant_id}\0{owner.owner_id}".encode(), digest_size=6).hexdigest()
    return f"{source}.{mark}"


def _to_event(row: Any) -> StoredEvent:
    owner = Owner(row.tenant_id, row.owner_id)
    return StoredEvent(row.position, owner, row.subject_id, row.version, row.kind, row.payload, row.created_at)
