"""Items, their files and blobs, marks, outbox, audit, events."""

import sqlalchemy as sa
from alembic import op

from service_kit.database import Json, UtcDateTime
from service_kit.events.tables import create_event_tables

revision = "0001"
down_revision = None

_NOT_DELETED = sa.text("deleted_at IS NULL")
_LIVE = sa.text("state = 'live'")


def upgrade() -> None:
    _items()
    _blobs()
    _marks_and_outbox()
    op.create_table(
        "audit",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("actor_key_id", sa.Text, nullable=False),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("owner_id", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("subject_id", sa.Text, nullable=False),
    )
    op.create_index("audit_by_time", "audit", ["at"])
    create_event_tables(op)


def _items() -> None:
    op.create_table(
        "user_library",
        sa.Column("item_id", sa.Text, primary_key=True),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("owner_id", sa.Text, nullable=False),
        sa.Column("asset_id", sa.Text, nullable=False),
        sa.Column("format", sa.Text, nullable=False),
        sa.Column("provenance", sa.LargeBinary, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("deleted_at", UtcDateTime),
        sa.Column("version", sa.BigInteger, nullable=False),
    )
    op.create_index(
        "user_library_saved_once",
        "user_library",
        ["tenant_id", "owner_id", "asset_id"],
        unique=True,
        sqlite_where=_NOT_DELETED,
        postgresql_where=_NOT_DELETED,
    )
    op.create_index(
        "user_library_newest",
        "user_library",
        ["tenant_id", "owner_id", "created_at", "item_id"],
        sqlite_where=_NOT_DELETED,
        postgresql_where=_NOT_DELETED,
    )


def _blobs() -> None:
    op.create_table(
        "blobs",
        sa.Column("blob_id", sa.Text, primary_key=True),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("owner_id", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("bucket", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False, unique=True),
        sa.Column("generation", sa.Text),
        sa.Column("content_type", sa.Text, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column("duration_ms", sa.BigInteger, nullable=False),
        sa.Column("ref_count", sa.Integer, nullable=False),
        sa.Column("writes_until", UtcDateTime),
        sa.Column("created_at", UtcDateTime, nullable=False),
    )
    op.create_index("blobs_by_state", "blobs", ["state", "writes_until"])
    op.create_index(
        "blobs_stored_once",
        "blobs",
        ["tenant_id", "owner_id", "sha256", "size_bytes", "content_type"],
        unique=True,
        sqlite_where=_LIVE,
        postgresql_where=_LIVE,
    )
    op.create_table(
        "item_files",
        sa.Column("item_id", sa.Text, sa.ForeignKey("user_library.item_id"), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("rendition", sa.Text, nullable=False),
        sa.Column("blob_id", sa.Text, sa.ForeignKey("blobs.blob_id"), nullable=False),
        sa.PrimaryKeyConstraint("item_id", "position"),
    )
    op.create_index("item_files_by_blob", "item_files", ["blob_id"])


def _marks_and_outbox() -> None:
    op.create_table(
        "saved_marks",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("owner_id", sa.Text, nullable=False),
        sa.Column("asset_id", sa.Text, nullable=False),
        sa.Column("item_id", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "owner_id", "asset_id"),
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("payload", Json, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due_at", UtcDateTime, nullable=False),
    )
    op.create_index("outbox_due", "outbox", ["due_at", "id"])
