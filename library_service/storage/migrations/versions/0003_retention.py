"""What is trimmed is found by its time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    deleted = sa.text("deleted_at IS NOT NULL")
    op.create_index(
        "user_library_deleted", "user_library", ["deleted_at"], sqlite_where=deleted, postgresql_where=deleted
    )
