"""The exchange over PostgreSQL: replicas write to an unlogged table and wake each other with an empty NOTIFY.

Each replica writes all that waits as one row, at most one each 50 ms and at once after a pause, and numbers its rows.
Readers keep one number for each writer. Rows live for some seconds. A row numbered 0 says that its writer lives.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any

import psycopg
from sqlalchemy import URL, BigInteger, Column, LargeBinary, MetaData, String, Table

from service_kit.database import UtcDateTime
from service_kit.events.exchange import frames
from service_kit.events.exchange.member import Exchange, Message
from service_kit.postgres_driver import connect
from service_kit.tasks import beside_each_other
from service_kit.telemetry import get_logger

log = get_logger(__name__)

_EVERY = timedelta(milliseconds=50)
_LOOK_ANYWAY = timedelta(seconds=1)
_PATIENCE_S = 10.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0
_ROWS_AT_ONCE = 100
_MOST_WRITERS = 1000
# How long a row is kept, and for how long a writer that has said nothing is thought to live.
_KEEP_S, _ALIVE_S = 10, 5

_JOIN = """
WITH life AS (INSERT INTO exchange (writer, number, written_at, body) VALUES (%(me)s, 0, statement_timestamp(), ''))
SELECT writer, max(number) FROM exchange WHERE writer <> %(me)s GROUP BY writer
"""
_SHOW_LIFE = """
INSERT INTO exchange (writer, number, written_at, body) VALUES (%(me)s, 0, statement_timestamp(), '')
ON CONFLICT (writer, number) DO UPDATE SET written_at = excluded.written_at
"""
_FORGET = f"""
DELETE FROM exchange WHERE (writer, number) IN (
    SELECT writer, number FROM exchange WHERE written_at < statement_timestamp() - interval '{_KEEP_S} seconds'
    FOR UPDATE SKIP LOCKED
)
"""  # noqa: S608 - a constant
_OTHERS = f"""
SELECT writer FROM exchange WHERE number = 0 AND writer <> %(me)s
    AND written_at > statement_timestamp() - interval '{_ALIVE_S} seconds'
"""  # noqa: S608 - a constant
# The same row again after a lost connection is the row that is there: nobody reads it twice.
_WRITE = """
WITH row AS (
    INSERT INTO exchange (writer, number, written_at, body)
    VALUES (%(me)s, %(number)s, statement_timestamp(), %(body)b) ON CONFLICT (writer, number) DO NOTHING
)
SELECT pg_notify(%(channel)s, %(me)s)
"""
_READ = f"""
SELECT writer, number, body FROM exchange
LEFT JOIN unnest(%(writers)s::text[], %(numbers)s::bigint[]) AS seen (writer, last) USING (writer)
WHERE writer <> %(me)s AND number > coalesce(last, 0) ORDER BY writer, number LIMIT {_ROWS_AT_ONCE}
"""  # noqa: S608 - a constant


def exchange_columns() -> list[Column[Any]]:
    """Return the columns of the table `exchange`."""
    return [
        Column("writer", String, primary_key=True),
        Column("number", BigInteger, primary_key=True, autoincrement=False),
        Column("written_at", UtcDateTime, nullable=False),
        Column("body", LargeBinary, nullable=False),
    ]


def add_exchange_table(metadata: MetaData) -> None:
    """Add the table to a service's tables."""
    Table("exchange", metadata, *exchange_columns())


def create_exchange_table(op: Any) -> None:
    """Create the table in a migration. On SQLite it stays empty: there is one replica."""
    op.create_table("exchange", *exchange_columns())
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE exchange SET UNLOGGED")


class PostgresExchange(Exchange):
    """A member of the exchange that is kept in one schema of one database. It has two connections of its own."""

    def __init__(
        self, url: URL, schema: str, *, every: timedelta = _EVERY, look_anyway: timedelta = _LOOK_ANYWAY
    ) -> None:
        """Choose where; nothing is opened yet.

        Args:
            url: the database.
            schema: where the table is.
            every: the shortest time between two rows that are written.
            look_anyway: how long what others wrote may stay unseen when no NOTIFY arrives.
        """
        super().__init__()
        self._url = url
        self._schema = schema
        self._every_s = every.total_seconds()
        self._look_anyway_s = look_anyway.total_seconds()
        self._me = secrets.token_hex(8)
        self._channel = f"atelier_exchange_{schema}"
        self._number = 0
        self._unsent: bytes | None = None
        self._seen: dict[str, int] = {}
        self._has_joined = False
        self._others: frozenset[str] = frozenset()
        self._should_look = False
        self._show_life_at = 0.0
        self._write_at = 0.0

    @property
    def alone(self) -> bool:
        """Whether nobody else has said lately that they are there."""
        return not self._others

    async def run(self) -> None:
        """Send and receive until cancelled. A connection that is lost is made again; nothing is raised for it."""
        await beside_each_other(partial(self._connected, self._listen), partial(self._connected, self._work))

    async def _connected(self, use: Callable[[psycopg.AsyncConnection[Any]], Awaitable[None]]) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    connection = await connect(self._url, self._schema)
                pause_s = _FIRST_PAUSE_S
                async with connection:
                    await use(connection)
            except (psycopg.Error, OSError, TimeoutError) as error:
                log.warning("exchange_interrupted", schema=self._schema, error=repr(error))
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    # --- waking -----------------------------------------------------------------------------------------------------

    async def _listen(self, connection: psycopg.AsyncConnection[Any]) -> None:
        await connection.execute(f'LISTEN "{self._channel}"')
        # What was told before this is not heard.
        self._look_soon(with_life=True)
        async for notification in connection.notifies():
            if notification.payload != self._me:
                # One that nobody knows has joined, or was away.
                self._look_soon(with_life=notification.payload not in self._others)

    def _look_soon(self, *, with_life: bool) -> None:
        self._should_look = True
        if with_life:
            self._show_life_at = 0.0
        self._something.set()

    # --- writing and reading ----------------------------------------------------------------------------------------

    async def _work(self, connection: psycopg.AsyncConnection[Any]) -> None:
        loop = asyncio.get_running_loop()
        await self._join(connection)
        while True:
            self._something.clear()
            waits = self._unsent is not None or len(self._pending) > 0
            async with asyncio.timeout(_PATIENCE_S):
                if waits and loop.time() >= self._write_at:
                    await self._write(connection)
                    self._write_at = loop.time() + self._every_s
                if loop.time() >= self._show_life_at:
                    await self._show_life(connection)
                    self._show_life_at = loop.time() + self._look_anyway_s
                    self._should_look = True
                if self._should_look:
                    self._should_look = False
                    await self._read(connection)
            await self._pause(self._show_life_at if not len(self._pending) else self._write_at)

    async def _pause(self, until: float) -> None:
        try:
            async with asyncio.timeout_at(until):
                await self._something.wait()
        except TimeoutError:
            return

    async def _join(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Say that this replica is there. What others wrote before it came is not for it."""
        if self._has_joined:
            self._show_life_at = 0.0
            return
        cursor = await connection.execute(_JOIN, {"me": self._me})
        self._seen = dict(await cursor.fetchall())
        self._has_joined = True
        await connection.execute("SELECT pg_notify(%s, %s)", (self._channel, self._me))

    async def _write(self, connection: psycopg.AsyncConnection[Any]) -> None:
        if self._unsent is None:
            self._number += 1
            self._unsent = frames.to_bytes(self._pending.take())
        values = {"me": self._me, "number": self._number, "body": self._unsent, "channel": self._channel}
        await connection.execute(_WRITE, values)
        self._unsent = None

    async def _show_life(self, connection: psycopg.AsyncConnection[Any]) -> None:
        async with connection.pipeline():
            await connection.execute(_SHOW_LIFE, {"me": self._me})
            await connection.execute(_FORGET)
            cursor = await connection.execute(_OTHERS, {"me": self._me})
        # After the pipeline, which is one transaction: before its end the others do not see what it wrote.
        self._others = frozenset(writer for (writer,) in await cursor.fetchall())
        if len(self._seen) > _MOST_WRITERS:
            # Rows of those that have left are long gone.
            self._seen = {writer: number for writer, number in self._seen.items() if writer in self._others}

    async def _read(self, connection: psycopg.AsyncConnection[Any]) -> None:
        while True:
            values = {"me": self._me, "writers": list(self._seen), "numbers": list(self._seen.values())}
            rows = await (await connection.execute(_READ, values, binary=True)).fetchall()
            for writer, number, body in rows:
                # Before it is delivered: rather never than twice.
                self._seen[writer] = number
                self._deliver(_messages(body))
            if len(rows) < _ROWS_AT_ONCE:
                return


def _messages(body: bytes) -> list[Message]:
    try:
        return frames.from_bytes(body)
    except ValueError as error:
        log.warning("exchange_row_refused", error=str(error))
        return []
