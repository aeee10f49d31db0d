"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from service_kit.database import Json, UtcDateTime
from service_kit.events.tables import create_event_tables, number_events_per_owner

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "things",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("due_at", UtcDateTime),
        sa.Column("extra", Json),
    )
    create_event_tables(op)
    number_events_per_owner(op)
