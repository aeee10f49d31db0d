"""The tables of the library. The migrations make them; a test compares the two."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)

from service_kit.database import Json, UtcDateTime
from service_kit.deletion_pause import add_pause_table
from service_kit.events.exchange.postgres import add_exchange_table
from service_kit.events.log import EventLog

metadata = MetaData()
event_log = EventLog(metadata)
add_exchange_table(metadata)
add_pause_table(metadata)

_NOT_DELETED = text("deleted_at IS NULL")
_TRASHED = text("trashed_at IS NOT NULL AND deleted_at IS NULL")
_LIVE = text("state = 'live'")

# What is in the trash has `trashed_at`, keeps everything it has, and can come back until it is deleted.
# A deleted item stays as a tombstone: ids and times, so that deleting it again is answered.
user_library = Table(
    "user_library",
    metadata,
    Column("item_id", Text, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("owner_id", Text, nullable=False),
    Column("asset_id", Text, nullable=False),
    Column("format", Text, nullable=False),
    Column("provenance", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("deleted_at", UtcDateTime),
    Column("version", BigInteger, nullable=False),
    Column("trashed_at", UtcDateTime),
)
Index(
    "user_library_saved_once",
    user_library.c.tenant_id,
    user_library.c.owner_id,
    user_library.c.asset_id,
    unique=True,
    sqlite_where=_NOT_DELETED,
    postgresql_where=_NOT_DELETED,
)
Index(
    "user_library_newest",
    user_library.c.tenant_id,
    user_library.c.owner_id,
    user_library.c.created_at,
    user_library.c.item_id,
    sqlite_where=_NOT_DELETED,
    postgresql_where=_NOT_DELETED,
)

Index(
    "user_library_deleted",
    user_library.c.deleted_at,
    sqlite_where=text("deleted_at IS NOT NULL"),
    postgresql_where=text("deleted_at IS NOT NULL"),
)
Index("user_library_trash", user_library.c.trashed_at, sqlite_where=_TRASHED, postgresql_where=_TRASHED)

# Identical bytes of one owner are one row, counted by `ref_count`.
blobs = Table(
    "blobs",
    metadata,
    Column("blob_id", Text, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("owner_id", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("bucket", Text, nullable=False),
    Column("key", Text, nullable=False, unique=True),
    Column("generation", Text),
    Column("content_type", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("duration_ms", BigInteger, nullable=False),
    Column("ref_count", Integer, nullable=False),
    # Until when something may still write to the key; NULL when nothing can.
    Column("writes_until", UtcDateTime),
    Column("created_at", UtcDateTime, nullable=False),
)
Index("blobs_by_state", blobs.c.state, blobs.c.writes_until)
Index(
    "blobs_stored_once",
    blobs.c.tenant_id,
    blobs.c.owner_id,
    blobs.c.sha256,
    blobs.c.size_bytes,
    blobs.c.content_type,
    unique=True,
    sqlite_where=_LIVE,
    postgresql_where=_LIVE,
)

item_files = Table(
    "item_files",
    metadata,
    Column("item_id", Text, ForeignKey("user_library.item_id"), nullable=False),
    # 0 is the item's own file; its renditions follow in the order of the asset.
    Column("position", Integer, nullable=False),
    Column("rendition", Text, nullable=False),
    Column("blob_id", Text, ForeignKey("blobs.blob_id"), nullable=False),
    PrimaryKeyConstraint("item_id", "position"),
    Index("item_files_by_blob", "blob_id"),
)

# What the asset service is to know about each asset that was ever saved. The version outlives the items.
saved_marks = Table(
    "saved_marks",
    metadata,
    Column("tenant_id", Text, nullable=False),
    Column("owner_id", Text, nullable=False),
    Column("asset_id", Text, nullable=False),
    Column("item_id", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    PrimaryKeyConstraint("tenant_id", "owner_id", "asset_id"),
)

# Calls to the asset service that must happen, written with the change that they tell of.
outbox = Table(
    "outbox",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("payload", Json, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_at", UtcDateTime, nullable=False),
    Index("outbox_due", "due_at", "id"),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Text, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("actor_key_id", Text, nullable=False),
    Column("tenant_id", Text, nullable=False),
    Column("owner_id", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject_id", Text, nullable=False),
    Index("audit_by_time", "at"),
)
