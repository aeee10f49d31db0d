"""The tables of the asset service. The migrations make them; a test compares the two."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)

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

_BROUGHT = text("job_id IS NULL")
_COPY_IN_USE = text("source_item_id <> '' AND state = 'available'")

workspace_assets = Table(
    "workspace_assets",
    metadata,
    Column("asset_id", Text, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("owner_id", Text, nullable=False),
    Column("job_id", Text),
    Column("asset_index", Integer, nullable=False),
    Column("group_id", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("content_type", Text),
    Column("size_bytes", BigInteger),
    Column("sha256", Text),
    Column("width", Integer),
    Column("height", Integer),
    Column("duration_ms", BigInteger),
    Column("bucket", Text),
    Column("key", Text),
    Column("generation", Text),
    Column("renditions", Json, nullable=False),
    Column("provenance", LargeBinary, nullable=False),
    Column("filename", Text, nullable=False),
    Column("saved_item_id", Text, nullable=False),
    Column("saved_version", BigInteger, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("version", BigInteger, nullable=False),
    # The library's item that it is a copy of; empty for other sources.
    Column("source_item_id", Text, nullable=False, server_default=""),
    # Why the renditions that it lacks cannot be made; empty otherwise.
    Column("rendition_error", Text, nullable=False, server_default=""),
    UniqueConstraint("job_id", "asset_index", name="workspace_assets_output"),
    Index("workspace_assets_listed", "tenant_id", "owner_id", "group_id", "asset_index"),
    Index("workspace_assets_due", "state", "expires_at"),
    # A sweep finds the asset of a blob by its key; the key of a job's output says which asset it is.
    Index("workspace_assets_key", "key", sqlite_where=_BROUGHT, postgresql_where=_BROUGHT),
    # One copy of an item at a time.
    Index(
        "workspace_assets_copy",
        *("tenant_id", "owner_id", "source_item_id"),
        unique=True,
        sqlite_where=_COPY_IN_USE,
        postgresql_where=_COPY_IN_USE,
    ),
)

uploads = Table(
    "uploads",
    metadata,
    Column("upload_id", Text, primary_key=True),
    Column("asset_id", Text, nullable=False),
    Column("tenant_id", Text, nullable=False),
    Column("owner_id", Text, nullable=False),
    Column("job_id", Text),
    Column("stage", Integer, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("asset_index", Integer, nullable=False),
    # Empty for the output itself: a NULL would make two equal uploads different.
    Column("rendition", Text, nullable=False),
    Column("key", Text, nullable=False, unique=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("deadline_at", UtcDateTime),
    Column("generation", Text),
    Column("media", Json),
    Column("output_upload_id", Text),
    Column("receipt", Text),
    # What a client said of a file that it can resume: its name and its type.
    Column("announced", Json),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("job_id", "fence", "asset_index", "rendition", "sha256", "size_bytes", name="uploads_same"),
    Index("uploads_of_asset", "asset_id"),
    Index("uploads_state", "state", "upload_id"),
)

settlements = Table(
    "settlements",
    metadata,
    Column("job_id", Text, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("owner_id", Text, nullable=False),
    Column("published", Json, nullable=False),
    Column("lost", Json, nullable=False),
    # Why nothing was published, for good; empty otherwise.
    Column("refusal", Text, nullable=False, server_default=""),
    Column("created_at", UtcDateTime, nullable=False),
    Index("settlements_by_time", "created_at"),
)

holds = Table(
    "holds",
    metadata,
    Column("holder", Text, nullable=False),
    Column("asset_id", Text, nullable=False),
    # NULL: until it is released.
    Column("expires_at", UtcDateTime),
    Column("created_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("holder", "asset_id"),
    Index("holds_of_asset", "asset_id"),
)

# What other systems say about files that are brought in. The asset's id is known before its first byte.
imports = Table(
    "imports",
    metadata,
    Column("tenant_id", Text, nullable=False),
    Column("owner_id", Text, nullable=False),
    Column("import_key", Text, nullable=False),
    Column("asset_id", Text, nullable=False),
    # Empty as soon as the asset has it.
    Column("provenance", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("tenant_id", "owner_id", "import_key"),
    Index("imports_by_time", "created_at"),
)

rendition_tasks = Table(
    "rendition_tasks",
    metadata,
    Column("asset_id", Text, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("owner_id", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    # When it is done next. Who does it sets this to when somebody else should.
    Column("due_at", UtcDateTime, nullable=False),
    Index("rendition_tasks_due", "due_at"),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", UtcDateTime, nullable=False),
    Column("tenant_id", Text, nullable=False),
    Column("owner_id", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject_id", Text, nullable=False),
    Column("detail", Json),
    Index("audit_by_time", "at"),
)
