"""SQLite connections that take one trip to their thread per statement.

`aiosqlite` makes a trip for a cursor, one for the statement, one for its rows, one to close the cursor. A transaction
of eight statements waits for thirty changes of thread; with this it waits for eight.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Self

import aiosqlite
from aiosqlite.core import _STOP_RUNNING_SENTINEL

_CHUNK = 64


def opener(path: str) -> Callable[[], Awaitable[aiosqlite.Connection]]:
    """Return what opens connections to a file, for `create_async_engine(async_creator=…)`."""

    async def open_connection() -> aiosqlite.Connection:
        connection = _Connection(lambda: sqlite3.connect(path), _CHUNK)
        # A thread that waits for work must not keep the process.
        connection._thread.daemon = True
        return await connection

    return open_connection


class _Connection(aiosqlite.Connection):
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
        """Run a function with the real connection, in its thread."""
        return await self._execute(function, self._conn)  # type: ignore[no-untyped-call]


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

        await self._connection.run(there)
        return self
