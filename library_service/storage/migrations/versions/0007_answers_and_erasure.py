"""Saves are remembered by their idempotency keys; erased owners by a digest."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from service_kit.database import UtcDateTime
from service_kit.erasure import create_erased_table

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "answered_saves",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("owner_id", sa.Text, nullable=False),
        sa.Column("idempotency_key", sa.Text, nullable=False),
        sa.Column("asset_id", sa.Text, nullable=False),
        sa.Column("item_id", sa.Text, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "owner_id", "idempotency_key", "asset_id"),
    )
    op.create_index("answered_saves_by_time", "answered_saves", ["created_at"])
    create_erased_table(op)
