"""The tables of webhooks: what receivers are told, and from what the secrets of owners are made."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, String, Table, Text
from sqlalchemy import text as sql

from router_service.storage.metadata import metadata
from router_service.storage.tables import Document
from service_kit.database import UtcDateTime

_PENDING = sql("due_at IS NOT NULL")

# One row a thing that one receiver is told, written with the change of the job. `document` is the job as it was then.
webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("delivery_id", String(36), primary_key=True),
    Column("tenant_id", String(64), nullable=False),
    Column("owner_id", String(128), nullable=False),
    Column("job_id", String(36), nullable=False),
    Column("event", String(16), nullable=False),
    Column("dialect", String(16), nullable=False),
    Column("address", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("lease", BigInteger, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("due_at", UtcDateTime),
    Column("attempted_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    Column("last_status", Integer, nullable=False),
    Column("last_error", Text, nullable=False),
    Column("document", Document, nullable=False),
    Index("webhook_deliveries_due", "due_at", postgresql_where=_PENDING, sqlite_where=_PENDING),
    Index("webhook_deliveries_by_owner", "tenant_id", "owner_id", "created_at", "delivery_id"),
    Index("webhook_deliveries_by_job", "job_id"),
    Index("webhook_deliveries_by_end", "finished_at"),
)

# The secrets themselves are in no row: each is made from a key of the ring of webhooks, the owner and the `nonce`.
webhook_secrets = Table(
    "webhook_secrets",
    metadata,
    Column("tenant_id", String(64), primary_key=True),
    Column("owner_id", String(128), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("key_id", String(64), nullable=False),
    Column("nonce", String(64), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("retired_at", UtcDateTime),
)
