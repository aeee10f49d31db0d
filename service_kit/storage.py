"""What the storage packages of services have in common: transactions that carry their queries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service_kit.database import Database


class View:
    """A service's own view on one transaction."""

    async def finish(self) -> None:
        """Do what comes last in a transaction that writes, right before it commits. Nothing, unless a service says."""


T = TypeVar("T", bound=View)
R = TypeVar("R")


class TransactionalStorage(Generic[T]):
    """Gives transactions, each as the service's own view on its tables."""

    def __init__(self, db: Database, view: Callable[[Database, AsyncConnection], T]) -> None:
        """Give what `view` makes of a connection."""
        self._db = db
        self._view = view

    @property
    def batch_turn(self) -> asyncio.Lock | None:
        """What a `Batcher` that writes here holds while a batch runs; None where batches run beside each other."""
        return self._db.batch_turn

    @asynccontextmanager
    async def write(self) -> AsyncIterator[T]:
        """Give a transaction that may write: it commits at the end, and rolls back when anything is raised."""
        async with self._db.write() as connection:
            view = self._view(self._db, connection)
            yield view
            await view.finish()
        self._committed(view)

    async def write_at_once(self, work: Callable[[T], Awaitable[R]]) -> R:
        """Return what work returns in a transaction that may write; it waits for nothing but its queries.

        On SQLite that is one trip to the thread of the connection, where `write` makes one for each query: see
        `Database.write_at_once`.
        """

        async def finished(connection: AsyncConnection) -> tuple[R, T]:
            view = self._view(self._db, connection)
            answer = await work(view)
            await view.finish()
            return answer, view

        answer, view = await self._db.write_at_once(finished)
        self._committed(view)
        return answer

    def _committed(self, view: T) -> None:
        """Hear that a transaction has committed, in the event loop. Nothing, unless a service says."""

    @asynccontextmanager
    async def read(self) -> AsyncIterator[T]:
        """Give a transaction that sees one state of the database and cannot write."""
        async with self._db.read() as connection:
            yield self._view(self._db, connection)

    async def ping(self) -> None:
        """Raise when the database cannot be read; the version of the schema is in every one."""
        async with self._db.read() as connection:
            await connection.execute(text("SELECT version_num FROM alembic_version"))
