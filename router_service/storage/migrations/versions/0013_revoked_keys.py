"""Gateways ask every few seconds which keys were revoked: that reads no more than those."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    revoked = sa.text("revoked_at IS NOT NULL")
    op.create_index("api_keys_revoked", "api_keys", ["revoked_at"], postgresql_where=revoked, sqlite_where=revoked)
