"""Conversations: their models, and who holds them; and what makes a list of one format quick."""

import sqlalchemy as sa
from alembic import op

from router_service.storage.shipped_models import CHAT
from service_kit.database import Json

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    # The release before reads `models` as a whole, and no row of a stage that it does not know.
    op.create_table(
        "chat_models",
        sa.Column("name", sa.String(100), primary_key=True),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("document", Json, nullable=False),
    )
    rows = sa.table(
        "chat_models", sa.column("name", sa.String), sa.column("position", sa.Integer), sa.column("document", Json)
    )
    # An operator may have a row of that name, for a generation.
    taken = set(op.get_bind().execute(sa.text("SELECT name FROM models")).scalars())
    op.bulk_insert(rows, [dict(row) for row in CHAT if row["name"] not in taken])
    op.add_column("workers", sa.Column("chats", sa.Boolean))
    # Empty for a job that the release before accepts from now on: it is only in lists of all formats.
    op.add_column("jobs", sa.Column("format", sa.String(16)))
    jobs = sa.table("jobs", sa.column("document", Json), sa.column("format", sa.String))
    op.execute(sa.update(jobs).values(format=jobs.c.document["settings"]["format"].as_string()))
    op.create_index("jobs_by_format", "jobs", ["tenant_id", "owner_id", "format", "created_at", "job_id"])
