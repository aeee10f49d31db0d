"""Identity: keys, sign-in codes, audit."""

import sqlalchemy as sa
from alembic import op

from service_kit.database import Json, UtcDateTime

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("key_id", sa.String(64), primary_key=True),
        sa.Column("secret_hash", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("scopes_of", sa.String(16), nullable=False),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("owner_id", sa.String(128), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("parent_key_id", sa.String(64), sa.ForeignKey("api_keys.key_id"), nullable=True),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("expires_at", UtcDateTime, nullable=True),
        sa.Column("revoked_at", UtcDateTime, nullable=True),
    )
    op.create_index("api_keys_newest", "api_keys", ["created_at", "key_id"])
    op.create_index("api_keys_by_owner", "api_keys", ["owner_id", "created_at", "key_id"])
    op.create_index("api_keys_by_parent", "api_keys", ["parent_key_id"])
    op.create_table(
        "sign_in_codes",
        sa.Column("code_hash", sa.String(64), primary_key=True),
        sa.Column("key_id", sa.String(64), sa.ForeignKey("api_keys.key_id"), nullable=False),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("owner_id", sa.String(128), nullable=False),
        sa.Column("scopes_of", sa.String(16), nullable=False),
        sa.Column("session_ends_at", UtcDateTime, nullable=True),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("expires_at", UtcDateTime, nullable=False),
    )
    op.create_index("sign_in_codes_by_key", "sign_in_codes", ["key_id", "expires_at"])
    op.create_index("sign_in_codes_by_expiry", "sign_in_codes", ["expires_at"])
    op.create_table(
        "audit",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("actor_key_id", sa.String(64), nullable=False),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("owner_id", sa.String(128), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("subject_id", sa.Text, nullable=False),
        sa.Column("detail", Json, nullable=True),
    )
    op.create_index("audit_by_time", "audit", ["at"])
