"""Files can be brought in from other systems; a backup can have nothing deleted for a time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from service_kit.database import UtcDateTime
from service_kit.deletion_pause import create_pause_table

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "imports",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("owner_id", sa.Text, nullable=False),
        sa.Column("import_key", sa.Text, nullable=False),
        sa.Column("asset_id", sa.Text, nullable=False),
        sa.Column("provenance", sa.LargeBinary, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "owner_id", "import_key"),
    )
    op.create_index("imports_by_time", "imports", ["created_at"])
    create_pause_table(op)
