"""A table for transactions that are one trip, and what is expected of the database behind each of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

from sqlalchemy import BigInteger, Column, MetaData, String, Table, bindparam, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from service_kit.database import Database, UtcDateTime

Work = Callable[[AsyncConnection], Awaitable[object]]
metadata = MetaData()
things = Table(
    "things",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("name", String, unique=True),
    Column("due_at", UtcDateTime),
)
# SQLAlchemy executes them the first time, then they are kept.
PUT = insert(things).values(id=bindparam("id"), name=bindparam("name"))
NAMES = select(things.c.name).order_by(things.c.id)


@asynccontextmanager
async def opened(url: str, *, writer_wait: timedelta = timedelta(seconds=10)) -> AsyncIterator[Database]:
    """Give an empty database with the table."""
    db = Database(url, writer_wait=writer_wait)
    try:
        async with db.write() as tx:
            await tx.run_sync(metadata.create_all)
        yield db
    finally:
        await db.close()


async def put(tx: AsyncConnection, number: int, name: str) -> None:
    """Add a thing."""
    await tx.execute(PUT, {"id": number, "name": name})


def putting(number: int, name: str) -> Work:
    """Return work that adds a thing."""

    async def work(tx: AsyncConnection) -> None:
        await put(tx, number, name)

    return work


async def names(db: Database) -> list[str]:
    """Return the names of all things."""
    async with db.read() as tx:
        return list((await tx.execute(NAMES)).scalars())


async def writes_on(db: Database, *before: str) -> None:
    """Expect that these are there, and that the next ones who write find a connection that nobody left anything in."""
    assert await names(db) == list(before)
    async with db.write() as tx:
        await put(tx, 100, "by write")
    await db.write_at_once(putting(101, "at once"))
    assert await names(db) == [*before, "by write", "at once"]
