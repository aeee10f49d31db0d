"""Workers say whether they know what steers a generation, and what they keep in memory; keys are bound to worker types.

The release before makes keys without worker types: they may serve any.
"""

import sqlalchemy as sa
from alembic import op

from service_kit.database import Json

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("workers", sa.Column("steers", sa.Boolean))
    op.add_column("workers", sa.Column("loaded", Json))
    op.add_column("api_keys", sa.Column("worker_types", Json))
