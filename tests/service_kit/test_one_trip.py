"""Transactions that wait for nothing but their statements: on SQLite one trip to the thread of the connection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from contextvars import ContextVar
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from service_kit.bulk import insert_rows
from service_kit.database import Database
from service_kit.errors import AtelierError, NotFound, ResourceExhausted, Unavailable
from service_kit.sqlite_connections import do_later
from service_kit.storage import TransactionalStorage, View
from tests.service_kit.trips import NAMES, metadata, names, opened, put, putting, things, writes_on

_said: ContextVar[str] = ContextVar("said", default="")
_LIMIT_S = 20


@pytest_asyncio.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    """Give a file with an empty table."""
    async with opened(f"sqlite+aiosqlite:///{tmp_path / 'x.sqlite3'}", writer_wait=timedelta(milliseconds=50)) as db:
        yield db


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'both.sqlite3'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest_asyncio.fixture
async def each(url: str) -> AsyncIterator[Database]:
    """Give a database of each kind with an empty table."""
    async with opened(url) as db:
        yield db


class Held:
    """Work that adds a thing, then keeps the thread until it may go on."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._go = threading.Event()
        self.runs = asyncio.Event()

    async def work(self, tx: AsyncConnection) -> str:
        await put(tx, 1, "held")
        self._loop.call_soon_threadsafe(self.runs.set)
        assert self._go.wait(_LIMIT_S)
        return "done"

    def go(self) -> None:
        self._go.set()


class _Stop(BaseException):
    pass


async def test_what_work_returns_is_returned_and_what_it_wrote_is_kept(each: Database) -> None:
    async def work(tx: AsyncConnection) -> list[str]:
        await put(tx, 1, "a")
        await put(tx, 2, "b")
        return list((await tx.execute(NAMES)).scalars())

    assert await each.write_at_once(work) == ["a", "b"]
    await writes_on(each, "a", "b")


@pytest.mark.parametrize(
    "raised",
    [KeyError("x"), NotFound("There is none."), asyncio.CancelledError(), _Stop()],
)
async def test_whatever_work_raises_undoes_it(each: Database, raised: BaseException) -> None:
    async def work(tx: AsyncConnection) -> None:
        await put(tx, 1, "undone")
        await insert_rows(tx, things, [{"id": 2, "name": "undone as well"}])
        raise raised

    with pytest.raises(type(raised)):
        await each.write_at_once(work)
    await writes_on(each)


async def test_a_storage_does_what_comes_last_before_the_commit(each: Database) -> None:
    class Own(View):
        def __init__(self, db: Database, connection: AsyncConnection) -> None:
            assert db is each
            self.connection = connection

        async def finish(self) -> None:
            written = (await self.connection.execute(NAMES)).scalars().all()
            await put(self.connection, 2, f"behind {written}")

    async def work(tx: Own) -> str:
        await put(tx.connection, 1, "first")
        return "answer"

    assert await TransactionalStorage(each, Own).write_at_once(work) == "answer"
    assert await names(each) == ["first", "behind ['first']"]
    with pytest.raises(IntegrityError):
        await TransactionalStorage(each, Own).write_at_once(work)
    await writes_on(each, "first", "behind ['first']")


async def test_a_whole_transaction_is_one_trip_to_the_thread(db: Database, caplog: pytest.LogCaptureFixture) -> None:
    """Also of statements that SQLAlchemy executes: those that it sees for the first time, and a savepoint."""
    threads = set()

    async def work(tx: AsyncConnection) -> list[str]:
        threads.add(threading.get_ident())
        await put(tx, 1, "a")
        await put(tx, 2, "b")
        await insert_rows(tx, things, [{"id": 3, "name": "c"}])
        await do_later(tx, lambda connection: connection.execute("INSERT INTO things (id, name) VALUES (4, 'd')"))
        async with tx.begin_nested() as savepoint:
            await tx.execute(text("UPDATE things SET name = 'nobody' WHERE id = 1"))
            await savepoint.rollback()
        return await tx.run_sync(lambda sync: list(sync.execute(NAMES).scalars()))

    def trips() -> int:
        return sum(record.message.startswith("executing") for record in caplog.records)

    # The driver logs each function that its thread takes.
    with caplog.at_level(logging.DEBUG, "aiosqlite"):
        async with db.write() as tx:
            for _ in range(3):
                await tx.execute(NAMES)
        assert trips() > 3
        caplog.clear()
        assert await db.write_at_once(work) == ["a", "b", "c", "d"]
        assert trips() == 1
    assert threads != {threading.get_ident()}
    await writes_on(db, "a", "b", "c", "d")


async def test_work_that_asks_for_nothing_begins_nothing(db: Database, tmp_path: Path) -> None:
    async def work(_: AsyncConnection) -> str:
        with closing(sqlite3.connect(tmp_path / "x.sqlite3", timeout=0, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            return "nothing"

    assert await db.write_at_once(work) == "nothing"
    await writes_on(db)


async def test_a_transaction_within_a_transaction_is_refused(db: Database) -> None:
    """It would wait for itself."""

    async def work(tx: AsyncConnection) -> None:
        await put(tx, 1, "undone")
        await db.write_at_once(putting(2, "undone"))

    with pytest.raises(RuntimeError):
        await db.write_at_once(work)
    await writes_on(db)


async def test_work_sees_the_context_of_its_caller(each: Database) -> None:
    async def work(tx: AsyncConnection) -> str:
        await put(tx, 1, _said.get())
        return _said.get()

    _said.set("a request")
    assert await each.write_at_once(work) == "a request"
    assert await names(each) == ["a request"]


@pytest.mark.parametrize("times", [1, 3])
async def test_a_caller_that_is_cancelled_meanwhile_waits_and_all_is_kept(db: Database, times: int) -> None:
    """By its client, and by a server that drains. Others wait for their turn as long, and read."""
    held = Held()
    task = asyncio.create_task(db.write_at_once(held.work))
    await held.runs.wait()
    for _ in range(times):
        task.cancel()
        assert await names(db) == []
        assert not task.done()
    with pytest.raises(ResourceExhausted, match="busy"):
        await db.write_at_once(putting(2, "impatient"))
    held.go()
    with pytest.raises(asyncio.CancelledError):
        await task
    await writes_on(db, "held")


async def test_a_caller_that_is_cancelled_hears_of_a_failure(db: Database) -> None:
    held = Held()

    async def work(tx: AsyncConnection) -> None:
        await held.work(tx)
        raise NotFound("There is none.")

    task = asyncio.create_task(db.write_at_once(work))
    await held.runs.wait()
    task.cancel()
    held.go()
    with pytest.raises(NotFound):
        await task
    await writes_on(db)


async def test_a_caller_that_is_cancelled_before_its_turn_does_nothing(db: Database) -> None:
    async with db.write() as tx:
        await put(tx, 1, "first")
        task = asyncio.create_task(db.write_at_once(putting(2, "never")))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await writes_on(db, "first")


async def test_a_caller_that_is_cancelled_at_any_moment_leaves_a_connection_for_the_next(
    db: Database, tmp_path: Path
) -> None:
    """Also while the connection is opened: that takes a few steps of the loop."""
    for steps in range(12):
        other = Database(f"sqlite+aiosqlite:///{tmp_path / 'x.sqlite3'}")
        task = asyncio.create_task(other.write_at_once(putting(steps, f"thing {steps}")))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await other.write_at_once(putting(50 + steps, f"after {steps}"))
        await other.close()
    assert [name for name in await names(db) if "after" in name] == [f"after {steps}" for steps in range(12)]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_database_that_closes_lets_it_end_and_refuses_the_next(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'x.sqlite3'}"
    db = Database(url)
    async with db.write() as tx:
        await tx.run_sync(metadata.create_all)
    held = Held()
    task = asyncio.create_task(db.write_at_once(held.work))
    await held.runs.wait()
    closing_it = asyncio.create_task(db.close())
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="stopping"):
        await names(db)
    assert not closing_it.done()
    held.go()
    assert await task == "done"
    await closing_it
    with pytest.raises(Unavailable, match="stopping"):
        await db.write_at_once(putting(2, "late"))
    again = Database(url)
    assert await names(again) == ["held"]
    await again.close()


async def test_who_has_no_turn_in_time_is_told_so(db: Database) -> None:
    async with db.write():
        with pytest.raises(ResourceExhausted, match="busy") as caught:
            await db.write_at_once(putting(1, "never"))
    assert isinstance(caught.value, AtelierError)
    assert caught.value.retry_after == timedelta(seconds=1)
    await writes_on(db)
