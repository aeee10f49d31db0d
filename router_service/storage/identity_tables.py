"""The tables of identity: keys, the codes a browser signs in with, what owners may use, and who changed what."""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Index, Integer, String, Table, Text, text

from router_service.storage.metadata import metadata
from service_kit.database import Json, UtcDateTime

_IS_REVOKED = text("revoked_at IS NOT NULL")

# A key is never deleted, so that a revoked one stays revoked; only sessions are, when they are over.
api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", String(64), primary_key=True),
    # SHA-256 of the secret, hexadecimal. The secret has 256 random bits, so a slow hash would add nothing.
    Column("secret_hash", String(64), nullable=False),
    Column("kind", String(16), nullable=False),
    # Whose scopes the tokens of this key get: its own kind, but for sessions, which get those of a user or an admin.
    Column("scopes_of", String(16), nullable=False),
    Column("tenant_id", String(64), nullable=False),
    Column("owner_id", String(128), nullable=False),
    Column("name", String(100), nullable=False),
    # The key that a session comes from. A session is worth nothing once that one is not.
    Column("parent_key_id", String(64), ForeignKey("api_keys.key_id"), nullable=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=True),
    Column("revoked_at", UtcDateTime, nullable=True),
    # NULL: what the settings say; 0: any number.
    Column("requests_per_minute", Integer, nullable=True),
    # The same, for the jobs that are submitted with it.
    Column("queued_jobs", Integer, nullable=True),
    Column("running_jobs", Integer, nullable=True),
    # Which worker types its workers may serve, as a list; NULL: any.
    Column("worker_types", Json, nullable=True),
    Index("api_keys_newest", "created_at", "key_id"),
    Index("api_keys_by_owner", "owner_id", "created_at", "key_id"),
    Index("api_keys_by_parent", "parent_key_id"),
    Index("api_keys_revoked", "revoked_at", postgresql_where=_IS_REVOKED, sqlite_where=_IS_REVOKED),
)

sign_in_codes = Table(
    "sign_in_codes",
    metadata,
    # SHA-256 of the code, hexadecimal.
    Column("code_hash", String(64), primary_key=True),
    Column("key_id", String(64), ForeignKey("api_keys.key_id"), nullable=False),
    Column("tenant_id", String(64), nullable=False),
    Column("owner_id", String(128), nullable=False),
    Column("scopes_of", String(16), nullable=False),
    # No session of this code lives longer; NULL when only the usual lifetime limits it.
    Column("session_ends_at", UtcDateTime, nullable=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Index("sign_in_codes_by_key", "key_id", "expires_at"),
    Index("sign_in_codes_by_expiry", "expires_at"),
)

# What an operator allows an owner. NULL: what the settings say; 0: any number.
owner_limits = Table(
    "owner_limits",
    metadata,
    Column("owner_id", String(128), primary_key=True),
    Column("tenant_id", String(64), primary_key=True),
    Column("requests_per_minute", Integer, nullable=True),
    Column("queued_jobs", Integer, nullable=True),
    Column("running_jobs", Integer, nullable=True),
)

audit = Table(
    "audit",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("actor_key_id", String(64), nullable=False),
    Column("tenant_id", String(64), nullable=False),
    Column("owner_id", String(128), nullable=False),
    # What was done, such as `key_created`; to what; and what else is worth knowing, never a secret.
    Column("action", String(64), nullable=False),
    Column("subject_id", Text, nullable=False),
    Column("detail", Json, nullable=True),
    Index("audit_by_time", "at"),
)
