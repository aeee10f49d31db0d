"""Settlements say why they published nothing; what is trimmed is found by its time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("settlements", sa.Column("refusal", sa.Text, nullable=False, server_default=""))
    op.create_index("settlements_by_time", "settlements", ["created_at"])
    op.create_index("audit_by_time", "audit", ["at"])
