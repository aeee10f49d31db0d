"""Workers say whether they enhance prompts, and an enhancement waits without a model, for it runs none.

The release before lets enhancements wait with the model that their prompts are for. It reads one without a model as it
reads any; one that it lets wait meanwhile is leased by the models of workers, as it was.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

ENHANCEMENTS = {
    dialect: "UPDATE queue SET model = '' WHERE "  # noqa: S608 - only constants
    f"(SELECT {kind} FROM jobs WHERE jobs.job_id = queue.job_id) = 'enhance'"
    for dialect, kind in {
        "postgresql": "jobs.document -> 'stages' -> queue.stage ->> 'kind'",
        "sqlite": "json_extract(jobs.document, '$.stages[' || queue.stage || '].kind')",
    }.items()
}


def upgrade() -> None:
    op.add_column("workers", sa.Column("enhances", sa.Boolean))
    op.execute(ENHANCEMENTS[op.get_bind().dialect.name])
