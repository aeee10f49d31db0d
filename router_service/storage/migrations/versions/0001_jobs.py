"""Jobs, queue, leases, outcomes, outbox, submissions, models, workers, events; and the routing table as it ships."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from service_kit.database import Json, UtcDateTime
from service_kit.events.tables import create_event_tables

revision = "0001"
down_revision = None

_serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _row(name: str, position: int, **document: Any) -> dict[str, Any]:
    return {"name": name, "position": position, "document": {"name": name, "position": position, **document}}


# As the first release shipped them: what is changed later, a later migration changes.
_SHIPPED: tuple[dict[str, Any], ...] = (
    _row("enhancer", 10, stage="enhance", worker_type="chat", deadline_seconds=120),
    _row(
        "sdxl",
        20,
        stage="generate",
        worker_type="sdxl",
        aliases=["sdxl-base-1.0"],
        formats=["image"],
        base_size=1024,
        default_steps=12,
        deadline_seconds=900,
    ),
    _row("sdxl*", 30, stage="generate", worker_type="sdxl", formats=["image"], base_size=1024, default_steps=12),
    _row(
        "wan",
        40,
        stage="generate",
        worker_type="wan",
        aliases=["wan-2.1"],
        formats=["video", "image"],
        base_size=640,
        default_steps=12,
        max_quantity=4,
        deadline_seconds=1800,
    ),
    _row(
        "*",
        1000,
        stage="generate",
        worker_type="wan",
        formats=["video", "image"],
        base_size=640,
        default_steps=12,
        max_quantity=4,
        deadline_seconds=1800,
    ),
)


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("job_id", sa.String(36), primary_key=True),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("owner_id", sa.String(128), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("stage", sa.Integer, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("finished_at", UtcDateTime),
        sa.Column("document", Json, nullable=False),
    )
    op.create_index("jobs_by_owner", "jobs", ["tenant_id", "owner_id", "created_at", "job_id"])
    op.create_index("jobs_by_end", "jobs", ["finished_at"])
    op.create_table(
        "queue",
        sa.Column("job_id", sa.String(36), primary_key=True),
        sa.Column("stage", sa.Integer, nullable=False),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("owner_id", sa.String(128), nullable=False),
        sa.Column("worker_type", sa.String(64), nullable=False),
        sa.Column("model", sa.String(100), nullable=False),
        sa.Column("tier", sa.Integer, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("order_key", UtcDateTime, nullable=False),
        sa.Column("available_at", UtcDateTime, nullable=False),
        sa.Column("confirmed", sa.Boolean, nullable=False),
        sa.Column("deadline_at", UtcDateTime, nullable=False),
    )
    op.create_index(
        "queue_order",
        "queue",
        ["worker_type", "model", "tier", "tenant_id", "owner_id", "priority", "order_key", "job_id"],
    )
    op.create_table(
        "leases",
        sa.Column("job_id", sa.String(36), primary_key=True),
        sa.Column("stage", sa.Integer, nullable=False),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("owner_id", sa.String(128), nullable=False),
        sa.Column("worker_type", sa.String(64), nullable=False),
        sa.Column("holder", sa.String(200), nullable=False),
        sa.Column("session", sa.String(36), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("acknowledged", sa.Boolean, nullable=False),
        sa.Column("renewed_at", UtcDateTime, nullable=False),
        sa.Column("deadline_at", UtcDateTime, nullable=False),
    )
    op.create_table(
        "outcomes",
        sa.Column("job_id", sa.String(36), primary_key=True),
        sa.Column("stage", sa.Integer, primary_key=True),
        sa.Column("completion_id", sa.String(64), primary_key=True),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("recorded_at", UtcDateTime, nullable=False),
    )
    op.create_table(
        "outbox",
        sa.Column("entry_id", _serial, primary_key=True, autoincrement=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("job_id", sa.String(36), nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("due_at", UtcDateTime, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.UniqueConstraint("kind", "job_id"),
    )
    op.create_index("outbox_due", "outbox", ["due_at"])
    op.create_table(
        "submissions",
        sa.Column("submission_id", _serial, primary_key=True, autoincrement=True),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("owner_id", sa.String(128), nullable=False),
        sa.Column("idempotency_key", sa.String(200)),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(36), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.UniqueConstraint("tenant_id", "owner_id", "idempotency_key"),
    )
    op.create_index("submissions_by_digest", "submissions", ["tenant_id", "owner_id", "digest", "created_at"])
    models = op.create_table(
        "models",
        sa.Column("name", sa.String(100), primary_key=True),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("document", Json, nullable=False),
    )
    op.create_table(
        "workers",
        sa.Column("holder", sa.String(200), primary_key=True),
        sa.Column("session", sa.String(36), nullable=False),
        sa.Column("worker_types", Json, nullable=False),
        sa.Column("models", Json, nullable=False),
        sa.Column("slots", sa.Integer, nullable=False),
        sa.Column("labels", Json, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("seen_at", UtcDateTime, nullable=False),
    )
    create_event_tables(op)
    op.bulk_insert(models, [dict(row) for row in _SHIPPED])
