"""Conversations: their models, and who holds them; and what makes a list of one format quick."""

import sqlalchemy as sa
from alembic import op

from service_kit.database import Json

revision = "0007"
down_revision = "0006"

# As it was shipped then: what is changed later, a later migration changes.
_CHAT = {"name": "chat", "position": 15, "stage": "chat", "worker_type": "chat", "deadline_seconds": 600}


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
    if _CHAT["name"] not in taken:
        op.bulk_insert(rows, [{"name": _CHAT["name"], "position": _CHAT["position"], "document": _CHAT}])
    op.add_column("workers", sa.Column("chats", sa.Boolean))
    # Empty for a job that the release before accepts from now on: it is only in lists of all formats.
    op.add_column("jobs", sa.Column("format", sa.String(16)))
    jobs = sa.table("jobs", sa.column("document", Json), sa.column("format", sa.String))
    op.execute(sa.update(jobs).values(format=jobs.c.document["settings"]["format"].as_string()))
    op.create_index("jobs_by_format", "jobs", ["tenant_id", "owner_id", "format", "created_at", "job_id"])
