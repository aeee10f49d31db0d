"""SQLite connections, set up once, that take at most one trip to their thread per statement.

`aiosqlite` makes a trip for a cursor, one for the statement, one for its rows, one to close the cursor. A transaction
of eight statements waits for thirty changes of thread. Here the BEGIN of who reads, and statements whose answer nobody
reads, travel with what comes next; nobody waits for the end of what only read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any, Self

import aiosqlite
from aiosqlite.core import _STOP_RUNNING_SENTINEL
from sqlalchemy import URL, Executable, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

_Step = Callable[[sqlite3.Connection], object]
_CHUNK = 64
_BUSY_TIMEOUT_MS = 5000


def engine(
    url: URL, *, pool_size: int, wait: timedelta, read_only: bool, now: Callable[[], int], **options: Any
) -> AsyncEngine:
    """Return a pool of connections; nothing is opened yet.

    Args:
        url: the file.
        pool_size: how many connections there are at most.
        wait: how long to wait for one that is free; then SQLAlchemy's TimeoutError.
        read_only: whether they cannot write; a transaction of the others takes the write lock when it begins.
        now: the clock that `atelier_now()` reads, in microseconds since 1970.
        **options: what else `create_async_engine` is told.
    """
    made = create_async_engine(
        url,
        async_creator=opener(url.database or ":memory:", read_only=read_only),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=wait.total_seconds(),
        # Prompts are parameters, and errors are logged.
        hide_parameters=True,
        # Every transaction of ours ends by itself: the pool's own rollback would be one more trip to the thread.
        pool_reset_on_return=None,
        **options,
    )

    @event.listens_for(made.sync_engine, "connect")
    def set_up(connection: Any, _record: Any) -> None:
        # The driver must not begin transactions by itself: a BEGIN that reads first and then writes fails at once.
        connection.isolation_level = None
        try:
            cursor = connection.cursor()
            cursor.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
            cursor.execute("PRAGMA journal_mode=WAL")
            cursor.execute("PRAGMA synchronous=FULL")
            cursor.execute("PRAGMA foreign_keys=ON")
            cursor.execute(f"PRAGMA query_only={'ON' if read_only else 'OFF'}")
            cursor.close()
            connection.create_function("atelier_now", 0, now)
        except Exception:
            # The pool forgets a connection that it could not set up, and with it the thread of its driver.
            connection.close()
            raise

    @event.listens_for(made.sync_engine, "begin")
    def begin_explicitly(connection: Any) -> None:
        if read_only:
            connection.connection.driver_connection.begin_with_next()
        else:
            # At once: whoever writes has the lock from here on, whatever it asks for and when.
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return made


async def send_later(connection: AsyncConnection, statement: Executable, parameters: Any) -> None:
    """Have a statement done in the trip of the next one, or of the commit, which then raises what it breaks."""
    driver: Any = (await connection.get_raw_connection()).driver_connection
    driver.leaves_for_later = True
    try:
        await connection.execute(statement, parameters)
    finally:
        driver.leaves_for_later = False


def opener(path: str, *, read_only: bool = False) -> Callable[[], Awaitable[aiosqlite.Connection]]:
    """Return what opens connections to a file, for `create_async_engine(async_creator=…)`."""

    async def open_connection() -> aiosqlite.Connection:
        connection = _Connection(lambda: sqlite3.connect(path), _CHUNK)
        connection.read_only = read_only
        # A thread that waits for work must not keep the process.
        connection._thread.daemon = True
        return await connection

    return open_connection


class _Connection(aiosqlite.Connection):
    read_only = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.leaves_for_later = False
        self._begins = False
        self._later: list[_Step] = []

    def begin_with_next(self) -> None:
        """Have a transaction begin with its first statement, in the same trip."""
        self._begins = True

    def later(self, step: _Step) -> None:
        """Have a step done in the trip of what follows in the transaction. Nobody hears what it answers."""
        self._later.append(step)

    async def commit(self) -> None:
        """Commit. Nobody waits for the end of what only read: whatever is asked next comes after it in the thread."""
        if self._begins:
            self._begins = False  # nothing was asked for, so nothing has begun
        elif self.read_only:
            # Were it to fail the next BEGIN would say so.
            self._tx.put_nowait((None, self._conn.commit))
        else:
            try:
                await self.run(lambda connection: connection.commit())
            except sqlite3.Error:
                await self.rollback()
                raise

    async def rollback(self) -> None:
        """Roll back what has begun; what was left for later is never done."""
        self._begins, self._later = False, []
        await super().rollback()

    def cursor(self) -> _Cursor:  # type: ignore[override]
        """Return a cursor; no trip yet."""
        return _Cursor(self)

    def stop(self) -> None:
        """End the thread, and close what is open. Nobody waits for it: the event loop may be gone before the thread."""
        self._running = False
        self._tx.put_nowait((None, self._close_and_stop))

    def _close_and_stop(self) -> object:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        return _STOP_RUNNING_SENTINEL

    async def run(self, function: Callable[[sqlite3.Connection], Any]) -> Any:
        """Run a function with the real connection, in its thread, after what was left for later."""
        begins, before = self._begins, self._later
        self._begins, self._later = False, []
        if not begins and not before:
            return await self._execute(function, self._conn)  # type: ignore[no-untyped-call]

        def run_all(connection: sqlite3.Connection) -> Any:
            if begins:
                connection.execute("BEGIN").close()
            for step in before:
                step(connection)
            return function(connection)

        return await self._execute(run_all, self._conn)  # type: ignore[no-untyped-call]


class _Cursor:
    """What SQLAlchemy uses of a cursor. Everything about a statement is known when `execute` returns."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._rows: list[Any] = []
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None
        self.arraysize = 1

    async def __aenter__(self) -> Self:
        return self

    async def execute(self, statement: str, parameters: Sequence[Any] = ()) -> Self:
        """Run a statement and fetch its rows."""
        return await self._run(lambda cursor: cursor.execute(statement, parameters))

    async def executemany(self, statement: str, parameters: Iterable[Sequence[Any]]) -> Self:
        """Run a statement with each of these parameters."""
        return await self._run(lambda cursor: cursor.executemany(statement, parameters))

    async def fetchall(self) -> list[Any]:
        """Return the rows."""
        return self._rows

    async def close(self) -> None:
        """Forget the rows; the real cursor is closed already."""
        self._rows = []

    async def _run(self, statement: Callable[[sqlite3.Cursor], Any]) -> Self:
        def there(connection: sqlite3.Connection) -> None:
            cursor = connection.cursor()
            try:
                statement(cursor)
                self.description = cursor.description
                self._rows = cursor.fetchall() if cursor.description else []
                self.rowcount, self.lastrowid = cursor.rowcount, cursor.lastrowid
            finally:
                cursor.close()

        if self._connection.leaves_for_later:
            self._connection.later(there)
        else:
            await self._connection.run(there)
        return self
