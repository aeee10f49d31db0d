"""A backup can have nothing deleted for a time."""

from __future__ import annotations

from alembic import op

from service_kit.deletion_pause import create_pause_table

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    create_pause_table(op)
