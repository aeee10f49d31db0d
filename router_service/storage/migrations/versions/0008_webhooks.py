"""What receivers of webhooks are told, and from what the secrets of owners are made."""

import sqlalchemy as sa
from alembic import op

from service_kit.database import Json, UtcDateTime

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "webhook_deliveries",
        sa.Column("delivery_id", sa.String(36), primary_key=True),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("owner_id", sa.String(128), nullable=False),
        sa.Column("job_id", sa.String(36), nullable=False),
        sa.Column("event", sa.String(16), nullable=False),
        sa.Column("dialect", sa.String(16), nullable=False),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("lease", sa.BigInteger, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("due_at", UtcDateTime),
        sa.Column("attempted_at", UtcDateTime),
        sa.Column("finished_at", UtcDateTime),
        sa.Column("last_status", sa.Integer, nullable=False),
        sa.Column("last_error", sa.Text, nullable=False),
        sa.Column("document", Json, nullable=False),
    )
    pending = sa.text("due_at IS NOT NULL")
    op.create_index(
        "webhook_deliveries_due", "webhook_deliveries", ["due_at"], postgresql_where=pending, sqlite_where=pending
    )
    op.create_index(
        "webhook_deliveries_by_owner", "webhook_deliveries", ["tenant_id", "owner_id", "created_at", "delivery_id"]
    )
    op.create_index("webhook_deliveries_by_job", "webhook_deliveries", ["job_id"])
    op.create_index("webhook_deliveries_by_end", "webhook_deliveries", ["finished_at"])
    op.create_table(
        "webhook_secrets",
        sa.Column("tenant_id", sa.String(64), primary_key=True),
        sa.Column("owner_id", sa.String(128), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("nonce", sa.String(64), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("retired_at", UtcDateTime),
    )
