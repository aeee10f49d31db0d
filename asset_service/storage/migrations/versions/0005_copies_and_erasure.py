"""Assets can be copies of items, one of each item at a time; erased owners are remembered by a digest."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from service_kit.erasure import create_erased_table

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("workspace_assets", sa.Column("source_item_id", sa.Text, nullable=False, server_default=""))
    in_use = sa.text("source_item_id <> '' AND state = 'available'")
    op.create_index(
        "workspace_assets_copy",
        "workspace_assets",
        ["tenant_id", "owner_id", "source_item_id"],
        unique=True,
        sqlite_where=in_use,
        postgresql_where=in_use,
    )
    brought = sa.text("job_id IS NULL")
    op.create_index("workspace_assets_key", "workspace_assets", ["key"], sqlite_where=brought, postgresql_where=brought)
    create_erased_table(op)
