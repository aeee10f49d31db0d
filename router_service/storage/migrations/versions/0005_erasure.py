"""Erased owners are remembered by a digest."""

from __future__ import annotations

from alembic import op

from service_kit.erasure import create_erased_table

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    create_erased_table(op)
