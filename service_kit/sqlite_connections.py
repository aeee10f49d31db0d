"""Connections to SQLite that are kept open and change hands, and how statements are executed on them.

SQLAlchemy writes the SQL, and does so once for a statement that is kept (`service_kit.statements`). Who takes a
connection has a transaction, which begins with its first statement.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar, cast

from sqlalchemy import URL, Executable, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from service_kit.errors import ResourceExhausted
from service_kit.finishing import to_the_end
from service_kit.sqlite_driver import Driver, at_once, opener
from service_kit.statements import Answer, Plan, Plans

_BUSY_TIMEOUT_MS = 5000
_T = TypeVar("_T")


class Connection(AsyncConnection):
    """A connection to a file. Statements that are kept do not pass through SQLAlchemy."""

    driver: Driver
    plans: Plans

    async def execute(self, statement: Executable, parameters: Any = None, *, execution_options: Any = None) -> Any:
        """Execute a statement as SQLAlchemy does."""
        found = None if execution_options else self._plan(statement, parameters)
        if found is None:
            return await super().execute(statement, parameters, execution_options=execution_options)
        plan, values, many = found
        answers: list[Answer] = []

        def there(connection: sqlite3.Connection) -> None:
            cursor = connection.executemany(plan.sql, values) if many else connection.execute(plan.sql, values)
            rows = cursor.fetchall() if cursor.description else ()
            answers.append(plan.answer(cursor.description, rows, cursor.rowcount))
            cursor.close()

        if self.driver.leaves_for_later:
            self.driver.later(there)
            return None
        try:
            await self.driver.run(there)
        except sqlite3.Error as error:
            raise self.wrapped(error, plan.sql) from error
        return answers[0]

    async def change_later(
        self, statement: Executable, rows: Sequence[Mapping[str, Any]], refuse: Callable[[int], Exception]
    ) -> None:
        """Change a row for each of `rows` in the trip of what follows, which raises what `refuse` makes of the count.

        Only if the count is another one than that of the rows.
        """
        found = self._plan(statement, rows)
        if found is None:
            changed = (await self.execute(statement, rows)).rowcount
            if changed != len(rows):
                raise refuse(changed)
            return
        plan, values, _ = found

        def there(connection: sqlite3.Connection) -> None:
            cursor = connection.executemany(plan.sql, values)
            if cursor.rowcount != len(values):
                raise refuse(cursor.rowcount)
            cursor.close()

        self.driver.later(there)

    def wrapped(self, error: sqlite3.Error, statement: str = "") -> BaseException:
        """Return an error of the driver as SQLAlchemy raises it. It tells no values."""
        return DBAPIError.instance(statement, None, error, sqlite3.Error, hide_parameters=True, dialect=self.dialect)

    def _plan(self, statement: Executable, parameters: Any) -> tuple[Plan, list[Any], bool] | None:
        """Return how a statement is executed without SQLAlchemy, with which values; None when it is not."""
        many = isinstance(parameters, Sequence)
        first: Mapping[str, Any] = (parameters[0] if many else parameters) or {}
        plan = self.plans.find(statement, tuple(first), self.dialect, many=many)
        if plan is None:
            return None
        try:
            return plan, [plan.values(row) for row in parameters] if many else plan.values(first), many
        except Exception:  # noqa: BLE001 - SQLAlchemy meets it again, and says what is wrong with which value
            return None


class Connections:
    """Connections to a file that are kept open. Who takes one has a transaction, until it is given back."""

    def __init__(
        self, url: URL, *, size: int, wait: timedelta, read_only: bool, now: Callable[[], int], **options: Any
    ) -> None:
        """Make none yet.

        Args:
            url: the file.
            size: how many connections there are at most.
            wait: how long to wait for one that is free.
            read_only: whether they cannot write; a transaction of the others has the write lock from its first
                statement on.
            now: the clock that `atelier_now()` reads, in microseconds since 1970.
            **options: what else `create_async_engine` is told.
        """
        self._engine = _engine(url, read_only=read_only, now=now, **options)
        # No lock: they are asked by who has a connection, in the event loop or, of the one writer, in its thread.
        self._plans = Plans()
        self._free: list[Connection] = []
        self._room = asyncio.Semaphore(size)
        self._wait_s = wait.total_seconds()
        self._closed = False

    async def take(self) -> Connection:
        """Take a connection, in a transaction that begins with its first statement.

        Raises:
            ResourceExhausted: none was free in time.
        """
        if self._room.locked():
            try:
                async with asyncio.timeout(self._wait_s):
                    await self._room.acquire()
            except TimeoutError:
                raise ResourceExhausted(
                    "The database is busy; repeat in a moment.", retry_after=timedelta(seconds=1)
                ) from None
        else:
            await self._room.acquire()
        try:
            connection = self._free.pop() if self._free else await self._open()
        except BaseException:
            self._room.release()
            raise
        connection.driver.begin_with_next()
        return connection

    async def in_one_trip(self, work: Callable[[Connection], Awaitable[_T]]) -> _T:
        """Return what work returns in a transaction, which commits at the end and rolls back when anything is raised.

        All of it is one trip to the thread of a connection. A caller that is cancelled waits for its end.
        """
        connection = await self.take()
        try:
            return await to_the_end(connection.driver.in_one_trip(lambda: _whole(connection, work)))
        finally:
            self.give_back(connection)

    async def commit(self, connection: Connection) -> None:
        """Commit. If that fails everything is rolled back; a caller that is cancelled waits for the end of it."""
        if connection.in_transaction():
            await to_the_end(_commit(connection))
        elif (ending := connection.driver.end()) is not None:
            try:
                await to_the_end(ending)
            except sqlite3.Error as error:
                raise connection.wrapped(error) from error

    async def roll_back(self, connection: Connection) -> None:
        """Undo what the transaction did; what was left for later is never done. A cancelled caller waits for it."""
        if connection.in_transaction():
            await to_the_end(_roll_back(connection))
        else:
            await to_the_end(connection.driver.rollback())

    def give_back(self, connection: Connection) -> None:
        """Let somebody else take a connection, whose transaction has ended."""
        if self._closed:
            connection.driver.stop()
        elif not connection.closed:
            self._free.append(connection)
        self._room.release()

    async def close(self) -> None:
        """Close those that nobody has; each other one is closed when it is given back."""
        self._closed = True
        free, self._free = self._free, []
        for connection in free:
            await connection.close()
        await self._engine.dispose()

    async def _open(self) -> Connection:
        """Open a connection. A caller that is cancelled meanwhile waits until it can be closed: half-open, it leaks."""
        opening = asyncio.ensure_future(self._start())
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            await to_the_end(_close(opening))
            raise

    async def _start(self) -> Connection:
        connection = Connection(self._engine)
        await connection.start()
        connection.driver = (await connection.get_raw_connection()).driver_connection  # type: ignore[assignment]
        connection.plans = self._plans
        return connection


def _whole(connection: Connection, work: Callable[[Connection], Awaitable[_T]]) -> _T:
    """Do a transaction from its beginning to its end, in the thread of the connection."""
    try:
        answer = at_once(work(connection))
    except BaseException:
        at_once(_undo(connection))
        raise
    at_once(_keep(connection))
    return answer


async def _keep(connection: Connection) -> None:
    if connection.in_transaction():
        await _commit(connection)
        return
    try:
        await connection.driver.commit()
    except sqlite3.Error as error:
        raise connection.wrapped(error) from error


async def _undo(connection: Connection) -> None:
    await (_roll_back(connection) if connection.in_transaction() else connection.driver.rollback())


async def _commit(connection: Connection) -> None:
    """Commit a transaction in which SQLAlchemy executed something: it has to hear of the end."""
    try:
        await connection.commit()
    except BaseException:
        await _roll_back(connection)
        raise


async def _roll_back(connection: Connection) -> None:
    """Roll back a transaction in which SQLAlchemy executed something.

    It gives up the connection of a caller that is cancelled, or runs out of time, while it executes something. Such a
    one is closed: whoever took it would have a driver that has ended.
    """
    await connection.rollback()
    if connection.invalidated:
        await connection.close()


async def _close(opening: asyncio.Future[Connection]) -> None:
    await asyncio.wait({opening})
    if not opening.cancelled() and opening.exception() is None:
        await opening.result().close()


def _engine(url: URL, *, read_only: bool, now: Callable[[], int], **options: Any) -> AsyncEngine:
    made = create_async_engine(
        url,
        async_creator=opener(url.database or ":memory:", read_only=read_only),
        # Who has closed a connection is done with it: `Connections` keeps them.
        poolclass=NullPool,
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

    return made


async def send_later(connection: AsyncConnection, statement: Executable, parameters: Any) -> None:
    """Have a statement done in the trip of the next one, or of the commit, which then raises what it breaks."""
    driver = await _driver_of(connection)
    driver.leaves_for_later = True
    try:
        await connection.execute(statement, parameters)
    finally:
        driver.leaves_for_later = False


async def do_later(connection: AsyncConnection, step: Callable[[sqlite3.Connection], object]) -> None:
    """Have a step done as `send_later` has a statement: in the thread of the connection."""
    (await _driver_of(connection)).later(step)


async def _driver_of(connection: AsyncConnection) -> Driver:
    if isinstance(connection, Connection):
        return connection.driver
    driver: Any = (await connection.get_raw_connection()).driver_connection
    return cast(Driver, driver)
