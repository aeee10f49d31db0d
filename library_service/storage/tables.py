"""The tables of the library. The migrations make them; a test compares the two."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    TypeDecorator,
    false,
    text,
)
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.types import TypeEngine

from service_kit.database import Json, UtcDateTime
from service_kit.deletion_pause import add_pause_table
from service_kit.erasure import add_erased_table
from service_kit.events.exchange.postgres import add_exchange_table
from service_kit.events.log import EventLog

metadata = MetaData()
event_log = EventLog(metadata)
add_exchange_table(metadata)
add_pause_table(metadata)
add_erased_table(metadata)

_NOT_DELETED = text("deleted_at IS NULL")
_TRASHED = text("trashed_at IS NOT NULL AND deleted_at IS NULL")
_UNREAD = text("words_version = 0 AND deleted_at IS NULL")
_LIVE = text("state = 'live'")
_Bytewise = Text().with_variant(Text(collation="C"), "postgresql")


class Words(TypeDecorator[str]):
    """Tokens between spaces: a text on SQLite, which has a full-text index of it, and a tsvector on PostgreSQL."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Choose the type of a database."""
        return dialect.type_descriptor(Text() if dialect.name == "sqlite" else TSVECTOR())


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
    Column("title", Text, nullable=False, server_default=""),
    # What it is sorted by: folded, byte by byte on both databases.
    Column("title_key", _Bytewise, nullable=False, server_default=""),
    Column("notes", Text, nullable=False, server_default=""),
    Column("is_favourite", Boolean, nullable=False, server_default=false()),
    Column("model", Text, nullable=False, server_default=""),
    # What it is found by, as `words.tokens_of` makes it; NULL when it is not to be found.
    Column("words", Words),
    # In which version it was folded; 0: not yet.
    Column("words_version", Integer, nullable=False, server_default="0"),
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
Index(
    "user_library_by_title",
    user_library.c.tenant_id,
    user_library.c.owner_id,
    user_library.c.title_key,
    user_library.c.item_id,
    sqlite_where=_NOT_DELETED,
    postgresql_where=_NOT_DELETED,
)
Index(
    "user_library_trashed",
    user_library.c.tenant_id,
    user_library.c.owner_id,
    user_library.c.created_at,
    user_library.c.item_id,
    sqlite_where=_TRASHED,
    postgresql_where=_TRASHED,
)
Index("user_library_unread", user_library.c.item_id, sqlite_where=_UNREAD, postgresql_where=_UNREAD)
Index("user_library_words", user_library.c.words, postgresql_using="gin", postgresql_with={"fastupdate": "off"})
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

item_tags = Table(
    "item_tags",
    metadata,
    # The previous release deletes items and knows nothing of their labels.
    Column("item_id", Text, ForeignKey("user_library.item_id", ondelete="CASCADE"), nullable=False),
    # Folded: what it is compared by.
    Column("tag_key", _Bytewise, nullable=False),
    Column("tenant_id", Text, nullable=False),
    Column("owner_id", Text, nullable=False),
    Column("tag", Text, nullable=False),
    PrimaryKeyConstraint("item_id", "tag_key"),
    Index("item_tags_by_owner", "tenant_id", "owner_id", "tag_key"),
)

collections = Table(
    "collections",
    metadata,
    Column("collection_id", Text, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("owner_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("name_key", _Bytewise, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("version", BigInteger, nullable=False),
    Index("collections_by_name", "tenant_id", "owner_id", "name_key", unique=True),
)

collection_items = Table(
    "collection_items",
    metadata,
    Column("collection_id", Text, ForeignKey("collections.collection_id"), nullable=False),
    Column("item_id", Text, ForeignKey("user_library.item_id", ondelete="CASCADE"), nullable=False),
    Column("tenant_id", Text, nullable=False),
    Column("owner_id", Text, nullable=False),
    Column("added_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("collection_id", "item_id"),
    Index("collection_items_by_item", "item_id"),
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

# As which items the call of an idempotency key saved assets, so that a late repeat of it changes nothing.
answered_saves = Table(
    "answered_saves",
    metadata,
    Column("tenant_id", Text, nullable=False),
    Column("owner_id", Text, nullable=False),
    Column("idempotency_key", Text, nullable=False),
    Column("asset_id", Text, nullable=False),
    Column("item_id", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("tenant_id", "owner_id", "idempotency_key", "asset_id"),
    Index("answered_saves_by_time", "created_at"),
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

# Items that were saved before their renditions were made: they get them when the asset has them.
late_items = Table(
    "late_items",
    metadata,
    Column("item_id", Text, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("owner_id", Text, nullable=False),
    Column("asset_id", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_at", UtcDateTime, nullable=False),
    Index("late_items_due", "due_at", "item_id"),
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
