"""The driver of SQLite: a real connection and its thread, to which a statement makes at most one trip.

`aiosqlite` makes a trip for a cursor, one for the statement, one for its rows, one to close the cursor. A transaction
of eight statements waits for thirty changes of thread. Here the BEGIN, and statements whose answer nobody reads, travel
with what comes next; nobody waits for the end of what only read. A transaction that waits for nothing but its
statements is one trip as a whole.

SQLite ends a transaction by itself when the disk is full, or broken. What would come after that in the transaction
would be done by itself, and kept: it is refused, and so is the commit.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from contextvars import copy_context
from functools import partial
from typing import Any, Self, TypeVar, cast

import aiosqlite
from aiosqlite.core import _STOP_RUNNING_SENTINEL

_Step = Callable[[sqlite3.Connection], object]
_T = TypeVar("_T")
_CHUNK = 64


def opener(path: str, *, read_only: bool = False) -> Callable[[], Awaitable[aiosqlite.Connection]]:
    """Return what opens connections to a file, for `create_async_engine(async_creator=…)`."""

    async def open_connection() -> aiosqlite.Connection:
        driver = Driver(lambda: sqlite3.connect(path), _CHUNK)
        driver.read_only = read_only
        # A thread that waits for work must not keep the process.
        driver._thread.daemon = True
        return await driver

    return open_connection


class Driver(aiosqlite.Connection):
    """A real connection and its thread."""

    read_only = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.leaves_for_later = False
        self._begins = False
        self._inside = False
        self._later: list[_Step] = []
        self._failed: BaseException | None = None

    def begin_with_next(self) -> None:
        """Have a transaction begin with its first statement, in the same trip."""
        self._begins, self._inside, self._failed = True, False, None

    def later(self, step: _Step) -> None:
        """Have a step done in the trip of what follows in the transaction. Nobody hears what it answers."""
        self._later.append(step)

    def end(self) -> Awaitable[None] | None:
        """Commit. Returns what is done then; if it fails everything is rolled back, also if a step left for later has.

        None when nothing has begun, or when it only read, whose end nobody waits for: whatever is asked next comes
        after it in the thread.
        """
        if self._begins and not self._later:
            self._begins = False  # nothing was asked for
            return None
        if self.read_only:
            # Were it to fail the next BEGIN would say so.
            self._inside = False
            self._tx.put_nowait((None, self._conn.commit))
            return None
        steps, self._inside = self._steps(), False

        def commit() -> None:
            try:
                if self._failed is not None:
                    # Whoever was told of it meanwhile asked for something else, and may have passed over it.
                    raise self._failed
                steps(self._conn)
                self._conn.commit()
            except BaseException:
                self._conn.rollback()
                raise

        return self._submit(commit)

    async def commit(self) -> None:
        """Commit, as `end` does, and wait for it."""
        ending = self.end()
        if ending is not None:
            await ending

    async def rollback(self) -> None:
        """Roll back what has begun; what was left for later is never done."""
        has_begun = not self._begins
        self._begins, self._inside, self._later, self._failed = False, False, [], None
        if has_begun:
            await self._submit(self._conn.rollback)

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

    async def run(self, function: _Step) -> Any:
        """Run a function with the real connection, in its thread, after what was left for later."""
        steps, inside = self._steps(), self._inside

        def run_all() -> object:
            steps(self._conn)
            try:
                return function(self._conn)
            except BaseException as error:
                if inside and not self._conn.in_transaction:
                    self._failed = error
                raise

        return await self._submit(run_all)

    def _steps(self) -> _Step:
        """Return what is due: the BEGIN, and what was left for later. It is not due again.

        It raises what ended the transaction, if SQLite has done so.
        """
        begins, before = self._begins, self._later
        self._begins, self._later = False, []
        inside = self._inside = self._inside or begins

        def take(connection: sqlite3.Connection) -> None:
            try:
                if begins:
                    # At once: whoever writes has the lock from here on, whatever it asks for and when.
                    connection.execute("BEGIN" if self.read_only else "BEGIN IMMEDIATE").close()
                elif inside and not connection.in_transaction:
                    raise self._failed or sqlite3.OperationalError("the transaction has ended")
                for step in before:
                    step(connection)
            except BaseException as error:
                self._failed = error
                raise

        return take

    async def in_one_trip(self, work: Callable[[], _T]) -> _T:
        """Return what work returns, which is done in the thread. There a statement is done when it is asked for.

        It sees the context variables of the caller.
        """
        return cast(_T, await self._submit(partial(copy_context().run, work)))

    def _submit(self, function: Callable[[], object]) -> Awaitable[Any]:
        if not self._running:
            raise ValueError("Connection closed")
        if threading.get_ident() == self._thread.ident:
            return _Done(function())
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._tx.put_nowait((future, function))
        return future


class _Done:
    """What was done at once, for whoever awaits it."""

    def __init__(self, answer: object) -> None:
        self._answer = answer

    def __await__(self) -> Generator[Any, None, Any]:
        yield from ()
        return self._answer


def at_once(work: Awaitable[_T]) -> _T:
    """Return what work returns that is done in one trip, and waits for nothing but its own connection.

    Raises:
        RuntimeError: it waited for something else, and was ended there: nobody would wake it.
    """
    steps = work.__await__()
    try:
        next(steps)
    except StopIteration as end:
        return cast(_T, end.value)
    steps.close()
    raise RuntimeError("What is one trip to the database waited for something else than its statements.")


class _Cursor:
    """What SQLAlchemy uses of a cursor. Everything about a statement is known when `execute` returns."""

    def __init__(self, connection: Driver) -> None:
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
