"""What operators allow owners and keys, and an index to count the jobs of an owner that wait."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("requests_per_minute", sa.Integer, nullable=True))
    op.create_table(
        "owner_limits",
        sa.Column("owner_id", sa.String(128), primary_key=True),
        sa.Column("tenant_id", sa.String(64), primary_key=True),
        sa.Column("requests_per_minute", sa.Integer, nullable=True),
        sa.Column("queued_jobs", sa.Integer, nullable=True),
        sa.Column("running_jobs", sa.Integer, nullable=True),
    )
    op.create_index("queue_by_owner", "queue", ["tenant_id", "owner_id"])
