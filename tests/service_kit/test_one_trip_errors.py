"""What goes wrong in a transaction that is one trip is told, and undone, as in any other."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import bindparam, insert, text, update
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection

from service_kit.bulk import change_rows, insert_rows
from service_kit.database import Database
from service_kit.errors import Aborted, NotFound
from service_kit.sqlite_connections import do_later, send_later
from service_kit.storage_errors import is_full
from tests.service_kit.trips import PUT, Work, opened, put, putting, things, writes_on

_RENAME = update(things).where(things.c.id == bindparam("this")).values(name=bindparam("new"))
_FULL = """
    CREATE TRIGGER full BEFORE INSERT ON things WHEN new.name = 'too much' BEGIN SELECT RAISE(ROLLBACK, 'full'); END
"""
_LIMIT_S = 20


@pytest_asyncio.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    """Give a file with an empty table."""
    async with opened(f"sqlite+aiosqlite:///{tmp_path / 'x.sqlite3'}", writer_wait=timedelta(milliseconds=50)) as db:
        yield db


async def twice(tx: AsyncConnection) -> None:
    await put(tx, 9, "a")


async def nowhere(tx: AsyncConnection) -> None:
    await tx.execute(text("INSERT INTO nowhere (name) VALUES (:name)"), {"name": "a secret prompt"})


async def naive(tx: AsyncConnection) -> None:
    await tx.execute(insert(things).values(id=9, due_at=datetime(2026, 3, 1)))


async def without_a_value(tx: AsyncConnection) -> None:
    await tx.execute(_RENAME)


async def later(tx: AsyncConnection) -> None:
    await insert_rows(tx, things, [{"id": 9, "name": "a secret prompt"}, {"id": 1, "name": "taken"}])


async def later_passed_over(tx: AsyncConnection) -> None:
    await insert_rows(tx, things, [{"id": 1, "name": "taken"}])
    for number in (8, 9):
        with contextlib.suppress(IntegrityError):
            await put(tx, number, f"thing {number}")


async def change_refused(tx: AsyncConnection) -> None:
    rows = [{"id": 1, "new_name": "x"}, {"id": 77, "new_name": "y"}]
    await change_rows(tx, things, rows, match=("id",), refuse=lambda changed: Aborted(f"{changed} of 2"))


async def step_refused(tx: AsyncConnection) -> None:
    def step(_: sqlite3.Connection) -> None:
        raise NotFound("There is none.")

    await do_later(tx, step)


async def ended_by_sqlite(tx: AsyncConnection) -> None:
    await put(tx, 8, "before")
    with contextlib.suppress(IntegrityError):
        await put(tx, 9, "too much")


async def ended_by_sqlite_and_went_on(tx: AsyncConnection) -> None:
    await ended_by_sqlite(tx)
    with contextlib.suppress(IntegrityError):
        await put(tx, 10, "after")
    with contextlib.suppress(IntegrityError):
        await tx.execute(insert(things).values(id=11, name="after"))
    await send_later(tx, PUT, {"id": 12, "name": "after"})


@pytest.mark.parametrize("is_kept", [False, True])
@pytest.mark.parametrize(
    "work",
    [
        twice,
        nowhere,
        naive,
        without_a_value,
        later,
        later_passed_over,
        change_refused,
        step_refused,
        ended_by_sqlite,
        ended_by_sqlite_and_went_on,
    ],
)
async def test_errors_are_those_of_other_transactions(tmp_path: Path, work: Work, is_kept: bool) -> None:
    async def write(db: Database) -> None:
        async with db.write() as tx:
            await work(tx)

    async def told(name: str, run: Callable[[Database], Awaitable[object]]) -> tuple[object, ...]:
        async with opened(f"sqlite+aiosqlite:///{tmp_path / name}") as db:
            async with db.write() as tx:
                await tx.execute(text(_FULL))
                await tx.execute(text("INSERT INTO things (id, name) VALUES (1, 'a')"))
            kept = [(PUT, {"id": 5, "name": "x"}), (_RENAME, {"this": 77, "new": "x"})]
            for statement, values in kept * 2 if is_kept else ():
                with pytest.raises(KeyError):
                    async with db.write() as tx:
                        await tx.execute(statement, values)
                        raise KeyError
            with pytest.raises(Exception) as caught:
                await run(db)
            await writes_on(db, "a")
        return type(caught.value), str(caught.value), repr(caught.value.__cause__)

    by_write = await told("by_write", write)
    assert await told("at_once", lambda db: db.write_at_once(work)) == by_write
    assert "secret" not in str(by_write)


async def test_who_passes_over_a_full_disk_keeps_nothing(db: Database) -> None:
    async with db.write() as tx:
        pages = (await tx.execute(text("PRAGMA page_count"))).scalar_one()
        await tx.execute(text(f"PRAGMA max_page_count={pages}"))

    async def work(tx: AsyncConnection) -> None:
        await put(tx, 1, "small")
        for name in ("x" * 100_000, "what would fit"):
            with contextlib.suppress(OperationalError):
                await put(tx, 2, name)

    with pytest.raises(OperationalError) as raised:
        await db.write_at_once(work)
    assert is_full(raised.value)
    await writes_on(db)


async def test_where_a_transaction_could_not_begin_nothing_is_done_outside_of_it(db: Database, tmp_path: Path) -> None:
    """Another process has the file."""

    async def work(tx: AsyncConnection) -> None:
        with contextlib.suppress(OperationalError):
            await put(tx, 1, "outside")
        other.execute("ROLLBACK")
        with contextlib.suppress(OperationalError):
            await put(tx, 1, "outside")

    with closing(sqlite3.connect(tmp_path / "x.sqlite3", isolation_level=None, check_same_thread=False)) as other:
        async with db.write() as tx:
            await tx.execute(text("PRAGMA busy_timeout=1"))
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(OperationalError, match="locked"):
            await db.write_at_once(putting(1, "locked out"))
        with pytest.raises(OperationalError, match="locked"):
            await db.write_at_once(work)
    await writes_on(db)


def _other_things(lock: asyncio.Lock, future: asyncio.Future[None]) -> dict[str, Callable[[], Awaitable[object]]]:
    return {
        "nothing": lambda: asyncio.sleep(0),
        "time": lambda: asyncio.sleep(3600),
        "a future": lambda: future,
        "an event": lambda: asyncio.Event().wait(),
        "a lock that is taken": lock.acquire,
    }


@pytest.mark.parametrize("what", ["nothing", "time", "a future", "an event", "a lock that is taken"])
@pytest.mark.parametrize("where", ["in work", "in a savepoint", "in its cleaning up"])
async def test_work_that_waits_for_something_else_is_ended_and_undone(db: Database, what: str, where: str) -> None:
    lock, future = asyncio.Lock(), asyncio.get_running_loop().create_future()
    await lock.acquire()
    other = _other_things(lock, future)[what]
    ended = []

    async def work(tx: AsyncConnection) -> None:
        await put(tx, 1, "undone")
        try:
            if where == "in a savepoint":
                async with tx.begin_nested():
                    await put(tx, 2, "undone as well")
                    await other()
            else:
                await other()
        finally:
            ended.append("work")
            if where == "in its cleaning up":
                await other()

    # Where asyncio notices by itself that there is no loop it says so in words of its own.
    with pytest.raises(RuntimeError if what in ("nothing", "time", "a future") else Exception):
        await db.write_at_once(work)
    assert ended == ["work"]
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await writes_on(db)
    lock.release()
    future.set_result(None)
    async with asyncio.timeout(_LIMIT_S), lock:
        await future
