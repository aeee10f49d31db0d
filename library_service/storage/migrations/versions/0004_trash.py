"""Items lie in the trash for a time before they are deleted. The previous release shows what lies there."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from service_kit.database import UtcDateTime

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("user_library", sa.Column("trashed_at", UtcDateTime))
    trashed = sa.text("trashed_at IS NOT NULL AND deleted_at IS NULL")
    op.create_index(
        "user_library_trash", "user_library", ["trashed_at"], sqlite_where=trashed, postgresql_where=trashed
    )
