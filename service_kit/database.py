"""A service's database: connections, transactions, column types and the database's clock.

On SQLite a service has one writer, which takes the write lock when it begins, and a few readers that can only read.
On PostgreSQL it has its own schema, and transactions run beside each other: whoever decides on a row locks it.
`db_now()` is the only clock that decides expiry.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Self, TypeVar

from sqlalchemy import JSON, BigInteger, Dialect, bindparam, func, literal, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncTransaction
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import DateTime, TypeDecorator, TypeEngine

from service_kit import postgres_driver
from service_kit.clock import Clock, SystemClock
from service_kit.errors import ResourceExhausted, Unavailable
from service_kit.finishing import to_the_end
from service_kit.folder_lock import FolderLock
from service_kit.settings import Settings
from service_kit.sqlite_connections import Connections
from service_kit.storage_errors import postgres_error
from service_kit.telemetry import get_logger

log = get_logger(__name__)
_T = TypeVar("_T")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_SQLITE_READERS = 4
_CONNECTIONS = 12
_Pool = Connections | AsyncEngine


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC to the microsecond; on SQLite an INTEGER of microseconds since 1970, on PostgreSQL timestamptz.

    Naive datetimes are refused with ValueError.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Choose the column type of a database."""
        if dialect.name == "sqlite":
            return dialect.type_descriptor(BigInteger())
        return dialect.type_descriptor(DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """Turn a value into what the database stores."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone cannot be stored")
        return (value - _EPOCH) // _MICROSECOND if dialect.name == "sqlite" else value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Turn what the database stores into a value."""
        if value is None:
            return None
        if dialect.name == "sqlite":
            return _EPOCH + timedelta(microseconds=value)
        return value.astimezone(UTC) if isinstance(value, datetime) else None


Json = JSON(none_as_null=True)
"""A JSON value, kept as the text that was written; Python None is SQL NULL."""


class _Now(FunctionElement[datetime]):
    """The moment of the database's clock, plus a number of microseconds."""

    name = "db_now"
    inherit_cache = True
    type = UtcDateTime()


@compiles(_Now, "sqlite")
def _now_on_sqlite(element: _Now, compiler: SQLCompiler, **options: Any) -> str:
    return f"(atelier_now() + {compiler.process(element.clauses, **options)})"


@compiles(_Now, "postgresql")
def _now_on_postgresql(element: _Now, compiler: SQLCompiler, **options: Any) -> str:
    moment = postgres_driver.STATEMENT_CLOCK
    return f"({moment} + {compiler.process(element.clauses, **options)} * interval '1 microsecond')"


def db_now(*, plus: timedelta = timedelta(0)) -> FunctionElement[datetime]:
    """Return the SQL expression of the database's clock, `plus` a duration; of type UtcDateTime."""
    return _Now(bindparam(None, plus // _MICROSECOND, BigInteger))


def json_list(values: Iterable[Any]) -> str:
    """Return the JSON text of a list, for `json_each(:values)`."""
    return json.dumps(list(values), ensure_ascii=False, separators=(",", ":"))


class Database:
    """The database of one service."""

    def __init__(
        self,
        url: str,
        *,
        schema: str = "",
        clock: Clock | None = None,
        lock: FolderLock | None = None,
        writer_wait: timedelta = timedelta(seconds=10),
        connections: int = _CONNECTIONS,
    ) -> None:
        """Make the pools; nothing is opened yet.

        Args:
            url: `postgresql://user@host:port/name`, or `sqlite+aiosqlite:////a/file.sqlite3`.
            schema: where the tables are, on PostgreSQL; without one where the server looks first.
            clock: what `db_now()` reads on SQLite; the machine's clock without one. On PostgreSQL the server's clock
                is read, but for a clock that a test moves.
            lock: the lock of the folder, released by `close`.
            writer_wait: how long a transaction waits for its turn.
            connections: how many connections to PostgreSQL there are at most; a third of them only reads.

        Raises:
            FailedPrecondition: the URL names another kind of database.
        """
        self.url = postgres_driver.with_driver(make_url(url))
        self.clock = clock or SystemClock()
        self.schema = schema
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._frozen = None if isinstance(self.clock, SystemClock) else self.clock.now
        self._folder_lock = lock
        self._writer_wait = writer_wait
        self._turn = asyncio.Lock()
        # On SQLite one batch runs at a time: what comes for another one while it waits for the writer is part of it.
        self.batch_turn = asyncio.Lock() if self.is_sqlite else None
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False
        readers = _SQLITE_READERS if self.is_sqlite else max(1, connections // 3)
        writers = 1 if self.is_sqlite else max(1, connections - readers)
        self._writer = self._pool(writers, read_only=False)
        self._readers = self._pool(readers, read_only=True)

    @classmethod
    async def open_service(cls, settings: Settings, service: str, *, clock: Clock | None = None) -> Self:
        """Open the database of a service, such as `router`, as its settings say.

        A SQLite file has one process, so its folder is locked; PostgreSQL serves many.

        Raises:
            FailedPrecondition: another process holds the folder; names it. Or the URL is unusable.
        """
        folder = settings.service_dir(service)
        await asyncio.to_thread(folder.mkdir, mode=0o700, parents=True, exist_ok=True)
        url = (settings.value(f"{service}.database_url") or settings.core.database_url).reveal()
        connections = settings.core.database_connections
        if url and postgres_driver.is_postgres(make_url(url)):
            return cls(url, schema=service, clock=clock, connections=connections)
        lock = FolderLock(folder, service)
        await asyncio.to_thread(lock.acquire)
        return cls(url or f"sqlite+aiosqlite:///{folder / f'{service}.sqlite3'}", clock=clock, lock=lock)

    async def close(self) -> None:
        """Refuse new transactions, let those that run end, close every connection and release the folder."""
        self._closing = True
        try:
            async with asyncio.timeout(self._writer_wait.total_seconds()):
                await self._idle.wait()
        except TimeoutError:
            log.warning("transactions_abandoned", count=self._open)
        for pool in (self._writer, self._readers):
            await (pool.dispose() if isinstance(pool, AsyncEngine) else pool.close())
        if self._folder_lock is not None:
            self._folder_lock.release()

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Give a transaction that may write. It commits at the end and rolls back when anything is raised.

        On SQLite one such block of this process runs at a time, from its first line on; other processes it keeps out
        from its first statement on, so whoever shares a file with others decides nothing before that (`lock`). When the
        database has ended the transaction by itself, whatever else the block asks for is refused.

        A cancelled caller still waits for a commit or rollback that has begun, so that the connection is left clean.

        Raises:
            ResourceExhausted: no connection was free in time.
            Unavailable: the database cannot be reached, or took too long; on PostgreSQL also when it is not known
                whether the commit took place.
            Aborted: PostgreSQL ended this transaction in favour of another one.
        """
        if not self.is_sqlite:
            async with self._transaction(self._writer) as connection:
                yield connection
            return
        async with self._writer_turn(), self._transaction(self._writer) as connection:
            yield connection

    async def write_at_once(self, work: Callable[[AsyncConnection], Awaitable[_T]]) -> _T:
        """Return what work returns in a transaction such as `write` gives. It waits for nothing but its statements.

        On SQLite all of it is one trip to the thread of the connection. So the work must not touch what belongs to the
        event loop, such as futures and locks; and when it has begun it comes to its end, and commits, though the caller
        is cancelled.

        Raises:
            RuntimeError: on SQLite, the work waited for something else; nothing of it is kept.
            Exception: what `write` raises, or the work.
        """
        if not isinstance(self._writer, Connections):
            async with self.write() as connection:
                return await work(connection)
        async with self._writer_turn(), self._counted():
            return await self._writer.in_one_trip(work)

    @asynccontextmanager
    async def _writer_turn(self) -> AsyncIterator[None]:
        """Be the only one in this process who writes to the file."""
        try:
            # Also of a lock that is free: whoever was woken for it may have it first.
            async with asyncio.timeout(self._writer_wait.total_seconds()):
                await self._turn.acquire()
        except TimeoutError:
            raise ResourceExhausted(
                "The database is busy; repeat in a moment.", retry_after=timedelta(seconds=1)
            ) from None
        try:
            yield
        finally:
            self._turn.release()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Give a transaction that sees one state of the database and cannot write. Raises what `write` raises."""
        async with self._transaction(self._readers) as connection:
            yield connection

    @property
    def has_own_clock(self) -> bool:
        """Whether the database's clock is another than `clock`: the server's, on PostgreSQL, unless a test moves it."""
        return not self.is_sqlite and self._frozen is None

    async def now(self, tx: AsyncConnection) -> datetime:
        """Return the moment of the database's clock. On SQLite that is this process's own, so no query is needed."""
        if self.is_sqlite:
            return self.clock.now()
        return (await tx.execute(select(db_now()))).scalar_one()

    async def lock(self, tx: AsyncConnection, name: str) -> None:
        """Wait until no other transaction of this schema holds the lock `name`; it goes with the transaction.

        On SQLite there is one writer, who is that from its first statement on: this is one.
        """
        if self.is_sqlite:
            await tx.execute(select(literal(1)))
        else:
            await tx.execute(
                select(func.pg_advisory_xact_lock(func.hashtextextended(f"atelier/{self.schema}/{name}", 0)))
            )

    @asynccontextmanager
    async def _transaction(self, pool: _Pool) -> AsyncIterator[AsyncConnection]:
        async with (
            self._counted(),
            _on_sqlite(pool) if isinstance(pool, Connections) else self._connected(pool) as connection,
        ):
            yield connection

    @asynccontextmanager
    async def _counted(self) -> AsyncIterator[None]:
        """Have `close` wait for the end of a transaction. Raises Unavailable when that has begun."""
        if self._closing:
            raise Unavailable("The service is stopping.", retry_after=timedelta(seconds=1))
        self._open += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._open -= 1
            if not self._open:
                self._idle.set()

    @asynccontextmanager
    async def _connected(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        try:
            connection = await _connect(engine)
            try:
                transaction = await connection.begin()
            except BaseException:
                await to_the_end(connection.close())
                raise
            try:
                yield connection
            except BaseException:
                await to_the_end(_roll_back(connection, transaction))
                raise
            await to_the_end(_commit(connection, transaction))
        except SQLAlchemyError as error:
            known = postgres_error(error)
            if known is None:
                raise
            log.warning("database_refused", schema=self.schema, error=repr(error))
            raise known from error

    def _pool(self, pool_size: int, *, read_only: bool) -> _Pool:
        if self.is_sqlite:
            return Connections(
                self.url,
                size=pool_size,
                wait=self._writer_wait,
                read_only=read_only,
                now=self._now_in_microseconds,
                json_serializer=_json_text,
            )
        return postgres_driver.engine(
            self.url,
            schema=self.schema,
            pool_size=pool_size,
            wait=self._writer_wait,
            read_only=read_only,
            frozen=self._frozen,
            json_serializer=_json_text,
        )

    def _now_in_microseconds(self) -> int:
        return (self.clock.now() - _EPOCH) // _MICROSECOND


def _json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@asynccontextmanager
async def _on_sqlite(connections: Connections) -> AsyncIterator[AsyncConnection]:
    connection = await connections.take()
    try:
        try:
            yield connection
        except BaseException:
            await connections.roll_back(connection)
            raise
        await connections.commit(connection)
    finally:
        connections.give_back(connection)


async def _connect(engine: AsyncEngine) -> AsyncConnection:
    """Take a connection. A caller that is cancelled meanwhile waits and gives it back: half-open, it would leak."""

    async def take() -> AsyncConnection:
        return await engine.connect()

    task = asyncio.ensure_future(take())
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        # More than one cancellation may come: of the client, and of a server that drains.
        await to_the_end(_give_back(task))
        raise


async def _commit(connection: AsyncConnection, transaction: AsyncTransaction) -> None:
    try:
        await transaction.commit()
    finally:
        await connection.close()


async def _roll_back(connection: AsyncConnection, transaction: AsyncTransaction) -> None:
    """Roll back. If the connection is lost the server does it by itself, and what was raised first is what counts."""
    try:
        await transaction.rollback()
    except DBAPIError as error:
        log.warning("connection_lost", error=repr(error))
        await connection.invalidate(error)
    finally:
        await connection.close()


async def _give_back(taking: asyncio.Future[AsyncConnection]) -> None:
    await asyncio.wait({taking})
    if not taking.cancelled() and taking.exception() is None:
        await taking.result().close()
