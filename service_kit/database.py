"""A service's database: connections, transactions, column types and the database's clock.

On SQLite a service has one writer, which takes the write lock when it begins, and a few readers that can only read.
`db_now()` is the only clock that decides expiry.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from sqlalchemy import JSON, BigInteger, Dialect, bindparam, event, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import DateTime, TypeDecorator, TypeEngine

from service_kit.clock import Clock, SystemClock
from service_kit.errors import ResourceExhausted, Unavailable
from service_kit.folder_lock import FolderLock
from service_kit.settings import Settings
from service_kit.sqlite_driver import opener
from service_kit.telemetry import get_logger

log = get_logger(__name__)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_READERS = 4
_BUSY_TIMEOUT_MS = 5000


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


Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
"""A JSON value; Python None is SQL NULL. JSONB on PostgreSQL."""


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
    # Not now(): that one stands still for a whole transaction.
    return f"(clock_timestamp() + {compiler.process(element.clauses, **options)} * interval '1 microsecond')"


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
        clock: Clock | None = None,
        lock: FolderLock | None = None,
        writer_wait: timedelta = timedelta(seconds=10),
    ) -> None:
        """Make the pools; nothing is opened yet.

        Args:
            url: SQLAlchemy URL of an async driver, such as `sqlite+aiosqlite:////a/file.sqlite3`.
            clock: what `db_now()` reads on SQLite; the machine's clock without one.
            lock: the lock of the folder, released by `close`.
            writer_wait: how long a writer waits for its turn.
        """
        self.url = make_url(url)
        self.clock = clock or SystemClock()
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._folder_lock = lock
        self._writer_wait = writer_wait
        self._turn = asyncio.Lock()
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False
        self._writer = self._engine(pool_size=1, begin="BEGIN IMMEDIATE", query_only=False)
        self._readers = (
            self._engine(pool_size=_READERS, begin="BEGIN", query_only=True) if self.is_sqlite else self._writer
        )

    @classmethod
    async def open_service(cls, settings: Settings, service: str, *, clock: Clock | None = None) -> Self:
        """Open the database of a service, such as `router`, as its settings say, and lock its folder.

        Raises:
            FailedPrecondition: another process holds the folder; names it.
        """
        folder = settings.service_dir(service)
        await asyncio.to_thread(folder.mkdir, mode=0o700, parents=True, exist_ok=True)
        lock = FolderLock(folder, service)
        await asyncio.to_thread(lock.acquire)
        url = settings.value(f"{service}.database_url") or f"sqlite+aiosqlite:///{folder / f'{service}.sqlite3'}"
        return cls(url, clock=clock, lock=lock)

    async def close(self) -> None:
        """Refuse new transactions, let those that run end, close every connection and release the folder."""
        self._closing = True
        try:
            async with asyncio.timeout(self._writer_wait.total_seconds()):
                await self._idle.wait()
        except TimeoutError:
            log.warning("transactions_abandoned", count=self._open)
        await self._writer.dispose()
        if self._readers is not self._writer:
            await self._readers.dispose()
        if self._folder_lock is not None:
            self._folder_lock.release()

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Give a transaction that may write. It commits at the end and rolls back when anything is raised.

        A cancelled caller still waits for a commit or rollback that has begun, so that the connection is left clean.

        Raises:
            ResourceExhausted: the writer was not free in time.
        """
        if not self.is_sqlite:
            async with self._transaction(self._writer) as connection:
                yield connection
            return
        try:
            async with asyncio.timeout(self._writer_wait.total_seconds()):
                await self._turn.acquire()
        except TimeoutError:
            raise ResourceExhausted(
                "The database is busy; repeat in a moment.", retry_after=timedelta(seconds=1)
            ) from None
        try:
            async with self._transaction(self._writer) as connection:
                yield connection
        finally:
            self._turn.release()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Give a transaction that sees one state of the database and cannot write on SQLite."""
        async with self._transaction(self._readers) as connection:
            yield connection

    async def now(self, tx: AsyncConnection) -> datetime:
        """Return the moment of the database's clock. On SQLite that is this process's own, so no query is needed."""
        if self.is_sqlite:
            return self.clock.now()
        return (await tx.execute(select(db_now()))).scalar_one()

    @asynccontextmanager
    async def _transaction(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        if self._closing:
            raise Unavailable("The service is stopping.", retry_after=timedelta(seconds=1))
        self._open += 1
        self._idle.clear()
        try:
            async with self._connected(engine) as connection:
                yield connection
        finally:
            self._open -= 1
            if not self._open:
                self._idle.set()

    @asynccontextmanager
    async def _connected(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        connection = await _connect(engine)
        try:
            transaction = await connection.begin()
            try:
                yield connection
            except BaseException:
                await _to_the_end(transaction.rollback())
                raise
            await _to_the_end(transaction.commit())
        finally:
            await _to_the_end(connection.close())

    def _engine(self, *, pool_size: int, begin: str, query_only: bool) -> AsyncEngine:
        options: dict[str, Any] = {"json_serializer": _json_text}
        if not self.is_sqlite:
            return create_async_engine(self.url, pool_pre_ping=True, **options)
        engine = create_async_engine(
            self.url,
            async_creator=opener(self.url.database or ":memory:"),
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=self._writer_wait.total_seconds(),
            # Every transaction of ours ends by itself: the pool's own rollback would be one more trip to the thread.
            pool_reset_on_return=None,
            **options,
        )

        @event.listens_for(engine.sync_engine, "connect")
        def set_up(connection: Any, _record: Any) -> None:
            # The driver must not begin transactions by itself: a BEGIN that reads first and then writes fails at once.
            connection.isolation_level = None
            try:
                cursor = connection.cursor()
                cursor.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
                cursor.execute("PRAGMA journal_mode=WAL")
                cursor.execute("PRAGMA synchronous=FULL")
                cursor.execute("PRAGMA foreign_keys=ON")
                cursor.execute(f"PRAGMA query_only={'ON' if query_only else 'OFF'}")
                cursor.close()
                connection.create_function("atelier_now", 0, self._now_in_microseconds)
            except Exception:
                # The pool forgets a connection that it could not set up, and with it the thread of its driver.
                connection.close()
                raise

        @event.listens_for(engine.sync_engine, "begin")
        def begin_explicitly(connection: Any) -> None:
            connection.exec_driver_sql(begin)

        return engine

    def _now_in_microseconds(self) -> int:
        return (self.clock.now() - _EPOCH) // _MICROSECOND


def _json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


async def _connect(engine: AsyncEngine) -> AsyncConnection:
    """Take a connection. A caller that is cancelled meanwhile waits and gives it back: half-open, it would leak."""

    async def take() -> AsyncConnection:
        return await engine.connect()

    task = asyncio.ensure_future(take())
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        # More than one cancellation may come: of the client, and of a server that drains.
        await _to_the_end(_give_back(task))
        raise


async def _give_back(taking: asyncio.Future[AsyncConnection]) -> None:
    await asyncio.wait({taking})
    if not taking.cancelled() and taking.exception() is None:
        await taking.result().close()


async def _to_the_end(step: Coroutine[Any, Any, None]) -> None:
    """Run a step to its end even if the caller is cancelled meanwhile; the cancellation is raised afterwards."""
    task = asyncio.ensure_future(step)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError:
                continue
        if not task.cancelled() and task.exception() is not None:
            raise task.exception() from None  # type: ignore[misc]
        raise
