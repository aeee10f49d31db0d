"""What a leasing round needs: pools to lock, who was served when, and an index to hop through owner by owner."""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

from service_kit.database import UtcDateTime

revision = "0004"
down_revision = "0003"

# A time that never comes, as this release wrote it.
_NEVER = datetime(9999, 1, 1, tzinfo=UTC)


def upgrade() -> None:
    # A stage that may not be leased yet, because its references are not held or its pause is not over, is not ready.
    op.execute("ALTER TABLE queue RENAME COLUMN confirmed TO ready")
    waiting = sa.table("queue", sa.column("ready", sa.Boolean), sa.column("available_at", UtcDateTime))
    op.execute(sa.update(waiting).where(~waiting.c.ready).values(available_at=_NEVER))
    op.drop_index("queue_order", "queue")
    # The other way round, so that one ascending index holds the whole order.
    op.execute("ALTER TABLE queue RENAME COLUMN priority TO precedence")
    op.execute("UPDATE queue SET precedence = -precedence")
    op.create_index(
        "queue_next",
        "queue",
        ["worker_type", "model", "tier", "tenant_id", "owner_id", "precedence", "order_key", "job_id"],
        postgresql_where=sa.text("ready"),
        sqlite_where=sa.text("ready"),
    )
    op.create_index(
        "queue_paused",
        "queue",
        ["available_at"],
        postgresql_where=sa.text("NOT ready"),
        sqlite_where=sa.text("NOT ready"),
    )
    op.create_index("queue_deadline", "queue", ["deadline_at"])
    op.add_column("queue", sa.Column("tier_since", UtcDateTime))
    op.create_table("pools", sa.Column("worker_type", sa.String(64), primary_key=True))
    op.create_table(
        "served",
        sa.Column("worker_type", sa.String(64), primary_key=True),
        sa.Column("tenant_id", sa.String(64), primary_key=True),
        sa.Column("owner_id", sa.String(128), primary_key=True),
        sa.Column("served_at", UtcDateTime, nullable=False),
    )
