"""The router's storage: every query is a named method of one of the classes that a transaction carries."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from router_service.storage.events import Events
from router_service.storage.jobs import Jobs
from router_service.storage.ledger import Ledger
from router_service.storage.queue import Queue
from router_service.storage.registry import Registry
from service_kit.database import Database
from service_kit.errors import AtelierError

MIGRATIONS = "router_service.storage.migrations"


class Transaction:
    """One transaction, seen as the router's tables."""

    def __init__(self, db: Database, connection: AsyncConnection) -> None:
        self._db = db
        self._connection = connection
        self.jobs = Jobs(connection)
        self.queue = Queue(connection)
        self.ledger = Ledger(connection)
        self.registry = Registry(connection)
        self.events = Events(connection)

    async def now(self) -> datetime:
        """Return the moment of the database's clock."""
        return await self._db.now(self._connection)


class Storage:
    """Gives transactions."""

    def __init__(self, db: Database) -> None:
        self._db = db

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Transaction]:
        """Give a transaction that may write; it commits at the end."""
        async with self._db.write() as connection:
            yield Transaction(self._db, connection)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Transaction]:
        """Give a transaction that only reads."""
        async with self._db.read() as connection:
            yield Transaction(self._db, connection)

    async def answers(self) -> bool:
        """Tell whether the database answers a query."""
        try:
            async with self.read() as tx:
                await tx.now()
        except (SQLAlchemyError, AtelierError):
            return False
        return True
