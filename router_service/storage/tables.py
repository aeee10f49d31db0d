"""The router's tables. Identity's are in `identity_tables`; events and their source come from the kit's event log."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy import text as sql

from router_service.domain import Job
from router_service.storage import documents
from router_service.storage.metadata import metadata
from service_kit.database import Json, UtcDateTime
from service_kit.erasure import add_erased_table
from service_kit.events.exchange.postgres import add_exchange_table
from service_kit.events.log import EventLog

event_log = EventLog(metadata)
add_exchange_table(metadata)
add_erased_table(metadata)

NEVER = datetime(9999, 1, 1, tzinfo=UTC)
"""When a stage may be leased that waits for something else than the time."""


class Document(TypeDecorator[Job]):
    """A job, written as the JSON text that it already is, and read as the job."""

    impl = Json
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> None:
        """Leave the text as it is."""

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        """Return what makes a job of what the driver gives: the text on SQLite, the value elsewhere."""
        if dialect.name == "sqlite":
            return documents.from_text
        value_of = super().result_processor(dialect, coltype) or (lambda value: value)
        return lambda value: documents.from_form(value_of(value))


# SQLite counts up only an INTEGER primary key.
_Serial = BigInteger().with_variant(Integer(), "sqlite")

# One row a job. `document` is the whole job; the columns beside it are what statements ask for.
jobs = Table(
    "jobs",
    metadata,
    Column("job_id", String(36), primary_key=True),
    Column("tenant_id", String(64), nullable=False),
    Column("owner_id", String(128), nullable=False),
    Column("state", String(16), nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("stage", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    Column("document", Document, nullable=False),
    Column("format", String(16)),
    Index("jobs_by_owner", "tenant_id", "owner_id", "created_at", "job_id"),
    Index("jobs_by_format", "tenant_id", "owner_id", "format", "created_at", "job_id"),
    Index("jobs_by_end", "finished_at"),
)

# One narrow row a waiting stage; `order_key` is that of the job, so a later stage keeps its place. A stage whose
# references are not held yet, or whose pause is not over, is not `ready`, and not in the index that leasing rounds hop
# through. `precedence` is the job's priority the other way round: the lowest goes first, as in all of that index.
queue = Table(
    "queue",
    metadata,
    Column("job_id", String(36), primary_key=True),
    Column("stage", Integer, nullable=False),
    Column("tenant_id", String(64), nullable=False),
    Column("owner_id", String(128), nullable=False),
    Column("worker_type", String(64), nullable=False),
    Column("model", String(100), nullable=False),
    Column("tier", Integer, nullable=False),
    Column("precedence", Integer, nullable=False),
    Column("order_key", UtcDateTime, nullable=False),
    Column("available_at", UtcDateTime, nullable=False),
    Column("ready", Boolean, nullable=False),
    Column("deadline_at", UtcDateTime, nullable=False),
    Column("tier_since", UtcDateTime),
    Column("key_id", String(64), nullable=False, server_default=""),
    Index(
        "queue_next",
        *("worker_type", "model", "tier", "tenant_id", "owner_id", "key_id", "precedence", "order_key", "job_id"),
        postgresql_where=sql("ready"),
        sqlite_where=sql("ready"),
    ),
    Index("queue_paused", "available_at", postgresql_where=sql("NOT ready"), sqlite_where=sql("NOT ready")),
    Index("queue_deadline", "deadline_at"),
    # An owner's jobs are counted where there is a limit to them.
    Index("queue_by_owner", "tenant_id", "owner_id"),
    Index("queue_by_key", "key_id"),
)

# One row a worker type. A leasing round locks it, so that only one replica at a time says who is next there.
pools = Table("pools", metadata, Column("worker_type", String(64), primary_key=True))

# When an owner was last served in a pool: between owners that have as much, the one that waited longest is next.
served = Table(
    "served",
    metadata,
    Column("worker_type", String(64), primary_key=True),
    Column("tenant_id", String(64), primary_key=True),
    Column("owner_id", String(128), primary_key=True),
    Column("served_at", UtcDateTime, nullable=False),
)

# One narrow row a running stage. A heartbeat writes `renewed_at`, which no index holds.
leases = Table(
    "leases",
    metadata,
    Column("job_id", String(36), primary_key=True),
    Column("stage", Integer, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("tenant_id", String(64), nullable=False),
    Column("owner_id", String(128), nullable=False),
    Column("worker_type", String(64), nullable=False),
    Column("holder", String(200), nullable=False),
    Column("session", String(36), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("acknowledged", Boolean, nullable=False),
    Column("renewed_at", UtcDateTime, nullable=False),
    Column("deadline_at", UtcDateTime, nullable=False),
    Column("key_id", String(64), nullable=False, server_default=""),
)

outcomes = Table(
    "outcomes",
    metadata,
    Column("job_id", String(36), primary_key=True),
    Column("stage", Integer, primary_key=True),
    Column("completion_id", String(64), primary_key=True),
    Column("fence", BigInteger, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("recorded_at", UtcDateTime, nullable=False),
)

# What has to be told to the asset service, written in the transaction that made it true.
outbox = Table(
    "outbox",
    metadata,
    Column("entry_id", _Serial, primary_key=True, autoincrement=True),
    Column("kind", String(16), nullable=False),
    Column("job_id", String(36), nullable=False),
    Column("tries", Integer, nullable=False),
    Column("due_at", UtcDateTime, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("kind", "job_id"),
    Index("outbox_due", "due_at"),
)

# One row a submission, with or without a key, so that a retry finds its job.
submissions = Table(
    "submissions",
    metadata,
    Column("submission_id", _Serial, primary_key=True, autoincrement=True),
    Column("tenant_id", String(64), nullable=False),
    Column("owner_id", String(128), nullable=False),
    Column("idempotency_key", String(200)),
    Column("digest", String(64), nullable=False),
    Column("job_id", String(36), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("tenant_id", "owner_id", "idempotency_key"),
    Index("submissions_by_digest", "tenant_id", "owner_id", "digest", "created_at"),
)

models = Table(
    "models",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("position", Integer, nullable=False),
    Column("document", Json, nullable=False),
)

# Rows of the chat stage, which the release before cannot read: beside a row that it cannot read it reads none.
chat_models = Table(
    "chat_models",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("position", Integer, nullable=False),
    Column("document", Json, nullable=False),
)

# One row a connected worker; it expires with `seen_at`. A router of an earlier release leaves empty what it does not
# know.
workers = Table(
    "workers",
    metadata,
    Column("holder", String(200), primary_key=True),
    Column("session", String(36), nullable=False),
    Column("worker_types", Json, nullable=False),
    Column("models", Json, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("labels", Json, nullable=False),
    Column("version", Text, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
    Column("chats", Boolean),
    Column("steers", Boolean),
    Column("enhances", Boolean),
    Column("loaded", Json),
)
