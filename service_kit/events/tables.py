"""The columns of the event tables, and how migrations make them."""

from __future__ import annotations

import secrets
from typing import Any

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, String

from service_kit.database import UtcDateTime

# One follows a subject, the other finds what is old.
EVENT_INDEXES = {"events_of_subject": ["subject_id", "position"], "events_by_age": ["created_at"]}


def event_columns() -> list[Column[Any]]:
    """Return the columns of the table `events`."""
    return [
        Column("tenant_id", String, primary_key=True),
        Column("owner_id", String, primary_key=True),
        Column("position", BigInteger, primary_key=True, autoincrement=False),
        Column("subject_id", String, nullable=False),
        Column("version", BigInteger, nullable=False),
        Column("kind", String, nullable=False),
        Column("payload", LargeBinary, nullable=False),
        Column("created_at", UtcDateTime, nullable=False),
    ]


def event_head_columns() -> list[Column[Any]]:
    """Return the columns of the table `event_heads`: the newest position, and up to which events are gone."""
    return [
        Column("tenant_id", String, primary_key=True),
        Column("owner_id", String, primary_key=True),
        Column("position", BigInteger, nullable=False),
        Column("trimmed_to", BigInteger, nullable=False),
    ]


def event_source_columns() -> list[Column[Any]]:
    """Return the columns of the table `event_source`: one row, which says who this database is."""
    return [
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("epoch", String, nullable=False),
    ]


def create_event_tables(op: Any) -> None:
    """Create the tables of the first schema in a migration; `number_events_per_owner` makes today's of them."""
    op.create_table(
        "events",
        Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
        Column("tenant_id", String, nullable=False),
        Column("owner_id", String, nullable=False),
        *event_columns()[3:],
        sqlite_autoincrement=True,
    )
    op.create_index("events_of_owner", "events", ["tenant_id", "owner_id", "id"])
    op.create_index("events_of_subject", "events", ["subject_id", "id"])
    source = op.create_table("event_source", *event_source_columns(), Column("trimmed_to", BigInteger, nullable=False))
    op.bulk_insert(source, [{"id": 1, "epoch": secrets.token_hex(8), "trimmed_to": 0}])


def number_events_per_owner(op: Any) -> None:
    """Turn positions that all owners shared into positions of each owner. Every event keeps its number."""
    op.execute("CREATE TABLE events_before AS SELECT * FROM events")
    op.drop_table("events")
    op.create_table("events", *event_columns())
    for name, columns in EVENT_INDEXES.items():
        op.create_index(name, "events", columns)
    op.create_table("event_heads", *event_head_columns())
    op.execute(
        "INSERT INTO events (tenant_id, owner_id, position, subject_id, version, kind, payload, created_at) "
        "SELECT tenant_id, owner_id, id, subject_id, version, kind, payload, created_at FROM events_before"
    )
    op.execute(
        "INSERT INTO event_heads (tenant_id, owner_id, position, trimmed_to) "
        "SELECT tenant_id, owner_id, max(id), (SELECT trimmed_to FROM event_source) FROM events_before "
        "GROUP BY tenant_id, owner_id"
    )
    op.drop_table("events_before")
    op.drop_column("event_source", "trimmed_to")
