"""Transactions as a service sees them, and whether its database can be read."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection

from service_kit.database import Database
from service_kit.storage import TransactionalStorage, View


class OwnView(View):
    """A service's own view of a transaction."""

    def __init__(self, db: Database, connection: AsyncConnection) -> None:
        self.db, self.connection = db, connection


async def test_transactions_carry_the_view_and_a_ping_reads_the_file(tmp_path: Path) -> None:
    db = Database(f"sqlite+aiosqlite:///{tmp_path / 'x.sqlite3'}")
    storage = TransactionalStorage(db, OwnView)
    try:
        with pytest.raises(OperationalError):
            await storage.ping()
        async with storage.write() as tx:
            assert tx.db is db
            await tx.connection.execute(text("CREATE TABLE alembic_version (version_num TEXT)"))
        await storage.ping()
        async with storage.read() as tx:
            with pytest.raises(OperationalError, match="readonly"):
                await tx.connection.execute(text("DROP TABLE alembic_version"))
    finally:
        await db.close()
