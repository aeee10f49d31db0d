"""The workspace: uploads, assets, settlements, holds, events, audit."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from service_kit.database import Json, UtcDateTime
from service_kit.events.tables import create_event_tables

revision = "0001"
down_revision = None


def upgrade() -> None:
    _workspace_assets()
    _uploads()
    op.create_table(
        "settlements",
        sa.Column("job_id", sa.Text, primary_key=True),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("owner_id", sa.Text, nullable=False),
        sa.Column("published", Json, nullable=False),
        sa.Column("lost", Json, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
    )
    op.create_table(
        "holds",
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("asset_id", sa.Text, nullable=False),
        sa.Column("expires_at", UtcDateTime),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("holder", "asset_id"),
    )
    op.create_index("holds_of_asset", "holds", ["asset_id"])
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("owner_id", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("subject_id", sa.Text, nullable=False),
        sa.Column("detail", Json),
    )
    create_event_tables(op)


def _workspace_assets() -> None:
    op.create_table(
        "workspace_assets",
        sa.Column("asset_id", sa.Text, primary_key=True),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("owner_id", sa.Text, nullable=False),
        sa.Column("job_id", sa.Text),
        sa.Column("asset_index", sa.Integer, nullable=False),
        sa.Column("group_id", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("content_type", sa.Text),
        sa.Column("size_bytes", sa.BigInteger),
        sa.Column("sha256", sa.Text),
        sa.Column("width", sa.Integer),
        sa.Column("height", sa.Integer),
        sa.Column("duration_ms", sa.BigInteger),
        sa.Column("bucket", sa.Text),
        sa.Column("key", sa.Text),
        sa.Column("generation", sa.Text),
        sa.Column("renditions", Json, nullable=False),
        sa.Column("provenance", sa.LargeBinary, nullable=False),
        sa.Column("filename", sa.Text, nullable=False),
        sa.Column("saved_item_id", sa.Text, nullable=False),
        sa.Column("saved_version", sa.BigInteger, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("expires_at", UtcDateTime, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("job_id", "asset_index", name="workspace_assets_output"),
    )
    op.create_index("workspace_assets_listed", "workspace_assets", ["tenant_id", "owner_id", "group_id", "asset_index"])
    op.create_index("workspace_assets_due", "workspace_assets", ["state", "expires_at"])


def _uploads() -> None:
    op.create_table(
        "uploads",
        sa.Column("upload_id", sa.Text, primary_key=True),
        sa.Column("asset_id", sa.Text, nullable=False),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("owner_id", sa.Text, nullable=False),
        sa.Column("job_id", sa.Text),
        sa.Column("stage", sa.Integer, nullable=False),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("asset_index", sa.Integer, nullable=False),
        sa.Column("rendition", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False, unique=True),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("deadline_at", UtcDateTime),
        sa.Column("generation", sa.Text),
        sa.Column("media", Json),
        sa.Column("output_upload_id", sa.Text),
        sa.Column("receipt", sa.Text),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.UniqueConstraint("job_id", "fence", "asset_index", "rendition", "sha256", "size_bytes", name="uploads_same"),
    )
    op.create_index("uploads_of_asset", "uploads", ["asset_id"])
    op.create_index("uploads_state", "uploads", ["state", "upload_id"])
