"""Items that were saved before their renditions were made are remembered, also those that were saved before this."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from service_kit.database import UtcDateTime, db_now

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    late = op.create_table(
        "late_items",
        sa.Column("item_id", sa.Text, primary_key=True),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("owner_id", sa.Text, nullable=False),
        sa.Column("asset_id", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due_at", UtcDateTime, nullable=False),
    )
    op.create_index("late_items_due", "late_items", ["due_at", "item_id"])
    names = ("item_id", "tenant_id", "owner_id", "asset_id")
    items = sa.table("user_library", *(sa.column(name) for name in names), sa.column("deleted_at"))
    files = sa.table("item_files", sa.column("item_id"), sa.column("position"))
    # Whoever has the item's own file only; what has none is deleted.
    more = sa.select(files.c.item_id).where(files.c.position > 0)
    bare = sa.select(*(items.c[name] for name in names), sa.literal(0), db_now()).where(
        items.c.deleted_at.is_(None), items.c.item_id.not_in(more)
    )
    op.execute(late.insert().from_select([*names, "attempts", "due_at"], bare))
