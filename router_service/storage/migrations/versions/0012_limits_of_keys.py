"""What operators allow keys: jobs that wait and run are counted by the key that they were submitted with, too.

A job that the release before lets wait or run has no key, and counts for none.
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

_NEXT = ["worker_type", "model", "tier", "tenant_id", "owner_id", "key_id", "precedence", "order_key", "job_id"]


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("queued_jobs", sa.Integer, nullable=True))
    op.add_column("api_keys", sa.Column("running_jobs", sa.Integer, nullable=True))
    for table in ("queue", "leases"):
        op.add_column(table, sa.Column("key_id", sa.String(64), nullable=False, server_default=""))
    op.drop_index("queue_next", "queue")
    ready = sa.text("ready")
    op.create_index("queue_next", "queue", _NEXT, postgresql_where=ready, sqlite_where=ready)
    op.create_index("queue_by_key", "queue", ["key_id"])
