"""Assets that lack renditions are queued; uploads of clients can be resumed, and remember what was announced."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from service_kit.database import Json, UtcDateTime

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("workspace_assets", sa.Column("rendition_error", sa.Text, nullable=False, server_default=""))
    op.add_column("uploads", sa.Column("announced", Json))
    op.create_table(
        "rendition_tasks",
        sa.Column("asset_id", sa.Text, primary_key=True),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("owner_id", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due_at", UtcDateTime, nullable=False),
    )
    op.create_index("rendition_tasks_due", "rendition_tasks", ["due_at"])
    # Pictures without any, and videos, which had no clip.
    op.execute(
        "INSERT INTO rendition_tasks (asset_id, tenant_id, owner_id, attempts, due_at) "
        "SELECT asset_id, tenant_id, owner_id, 0, created_at FROM workspace_assets WHERE state = 'available' "
        "AND (CAST(renditions AS TEXT) = '[]' OR content_type LIKE 'video/%')"
    )
