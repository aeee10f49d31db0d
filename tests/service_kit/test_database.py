"""Transactions, column types and the database's clock."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, func, insert, select, text
from sqlalchemy.exc import IntegrityError, InvalidRequestError, OperationalError, StatementError

from service_kit import settings as settings_module
from service_kit.bulk import insert_rows
from service_kit.clock import ManualClock
from service_kit.database import Database, Json, UtcDateTime, db_now, json_list
from service_kit.errors import FailedPrecondition, ResourceExhausted
from service_kit.sqlite_connections import Connections, send_later
from service_kit.storage_errors import is_full

metadata = MetaData()
things = Table(
    "things",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String),
    Column("due_at", UtcDateTime),
    Column("extra", Json),
)
# The first time SQLAlchemy executes it, then it is kept.
_ADD = text("INSERT INTO things (name) VALUES ('added')")
_FULL = """
    CREATE TRIGGER full BEFORE INSERT ON things WHEN new.name = 'too much' BEGIN SELECT RAISE(ROLLBACK, 'full'); END
"""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def db(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Database]:
    database = Database(
        f"sqlite+aiosqlite:///{tmp_path}/x.sqlite3", clock=clock, writer_wait=timedelta(milliseconds=50)
    )
    async with database.write() as tx:
        await tx.run_sync(metadata.create_all)
    yield database
    await database.close()


async def count(db: Database) -> int:
    async with db.read() as tx:
        return (await tx.execute(select(func.count()).select_from(things))).scalar_one()


async def test_a_write_is_kept_and_an_exception_undoes_it(db: Database) -> None:
    async with db.write() as tx:
        await tx.execute(insert(things).values(name="kept"))
    with pytest.raises(KeyError):
        async with db.write() as tx:
            await tx.execute(insert(things).values(name="undone"))
            raise KeyError
    assert await count(db) == 1


async def test_a_cancelled_writer_leaves_nothing_and_frees_the_turn(db: Database) -> None:
    inside = asyncio.Event()

    async def write_and_wait() -> None:
        async with db.write() as tx:
            await tx.execute(insert(things).values(name="undone"))
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(write_and_wait())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with db.write() as tx:
        await tx.execute(insert(things).values(name="kept"))
    assert await count(db) == 1


@pytest.mark.parametrize("is_kept", [False, True])
async def test_whoever_is_cancelled_while_a_statement_runs_leaves_a_connection_for_the_next(
    db: Database, is_kept: bool
) -> None:
    """SQLAlchemy gives the connection up; a statement that is kept does not pass through it."""
    takes_long = text(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT :most) SELECT sum(i) FROM n"
    )
    if is_kept:
        async with db.read() as tx:
            await tx.execute(takes_long, {"most": 1})
    for transaction in (db.write, db.read):
        asked = asyncio.Event()

        async def wait(transaction: Any = transaction, asked: asyncio.Event = asked) -> None:
            async with transaction() as tx:
                asked.set()
                await tx.execute(takes_long, {"most": 200_000})

        task = asyncio.create_task(wait())
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with db.write() as tx:
        await tx.execute(insert(things).values(name="kept"))
    for _ in range(5):
        assert await count(db) == 1


async def test_whoever_is_cancelled_twice_leaves_a_connection_for_the_next(db: Database) -> None:
    """By its client, and while it rolls back by a server that drains."""
    connections = Connections(
        db.url, size=1, wait=timedelta(milliseconds=50), read_only=False, now=lambda: 0, json_serializer=str
    )
    for times in (1, 2):
        connection = await connections.take()
        await connection.execute(select(func.count()).select_from(things))
        await connection.execute(text("SELECT 1"))
        await connection.invalidate()
        ending = asyncio.create_task(connections.roll_back(connection))
        for _ in range(times):
            await asyncio.sleep(0)
            ending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ending
        connections.give_back(connection)
    for kept in (False, True, False):
        connection = await connections.take()
        await connection.execute(_ADD)
        await (connections.commit if kept else connections.roll_back)(connection)
        connections.give_back(connection)
    await connections.close()
    assert await count(db) == 1


@pytest.mark.parametrize("is_kept", [False, True])
async def test_a_statement_that_takes_too_long_spoils_no_connection(db: Database, is_kept: bool) -> None:
    """Even if the transaction goes on after it: that either commits all or fails."""
    takes_long = text(
        "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n LIMIT :most) SELECT sum(i) FROM n"
    )
    if is_kept:
        async with db.read() as tx:
            await tx.execute(takes_long, {"most": 1})
    for transaction in (db.write, db.read):
        with contextlib.suppress(InvalidRequestError):
            async with transaction() as tx:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0):
                        await tx.execute(takes_long, {"most": 200_000})
    for _ in range(2):
        with pytest.raises(KeyError):
            async with db.write() as tx:
                await tx.execute(_ADD)
                raise KeyError
    async with db.write() as tx:
        await tx.execute(_ADD)
    for _ in range(5):
        assert await count(db) == 1


async def test_writers_take_turns_and_a_waiting_one_gives_up_with_a_sentence(db: Database) -> None:
    async with db.write():
        with pytest.raises(ResourceExhausted, match="busy") as caught:
            async with db.write():
                pass
    assert caught.value.retry_after == timedelta(seconds=1)


async def test_a_write_holds_the_lock_from_its_first_statement(db: Database) -> None:
    """Otherwise a transaction that reads first could fail at its first write."""
    async with db.write() as tx:
        await tx.execute(select(things))
        with closing(sqlite3.connect(str(db.url.database), timeout=0, isolation_level=None)) as other:
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("BEGIN IMMEDIATE")


async def test_who_asks_for_a_lock_by_name_holds_the_one_there_is(db: Database) -> None:
    async with db.write() as tx:
        await db.lock(tx, "first_start")
        with closing(sqlite3.connect(str(db.url.database), timeout=0, isolation_level=None)) as other:
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("BEGIN IMMEDIATE")


async def test_what_asks_for_nothing_begins_nothing_and_harms_nobody(db: Database) -> None:
    async with db.write():
        pass
    async with db.read():
        pass
    with pytest.raises(KeyError):
        async with db.write():
            raise KeyError
    async with db.write() as tx:
        await tx.execute(insert(things).values(name="kept"))
    for _ in range(3):
        assert await count(db) == 1


async def test_what_breaks_later_is_raised_by_the_commit_and_nothing_is_kept(db: Database) -> None:
    async with db.write() as tx:
        await insert_rows(tx, things, [{"name": "kept"}])
    with pytest.raises(IntegrityError):
        async with db.write() as tx:
            await insert_rows(tx, things, [{"name": "lost"}])
            assert (await tx.execute(select(things.c.name).order_by(things.c.id))).scalars().all() == ["kept", "lost"]
            await insert_rows(tx, things, [{"id": 1, "name": "there is one already"}])
    async with db.write() as tx:
        await insert_rows(tx, things, [{"name": "later"}])
    assert await count(db) == 2


@pytest.mark.parametrize("is_kept", [True, False])
@pytest.mark.parametrize("again", ["a statement", "one for later", "nothing"])
async def test_after_sqlite_has_rolled_back_by_itself_nothing_more_is_done(
    db: Database, is_kept: bool, again: str
) -> None:
    """As it does when the disk is full. Whoever catches the error and goes on would write outside of a transaction."""
    async with db.write() as tx:
        await tx.execute(text(_FULL))
        await tx.execute(_ADD)
    too_much = (
        text("INSERT INTO things (name) VALUES ('too much')") if is_kept else insert(things).values(name="too much")
    )
    with pytest.raises(IntegrityError, match="full"):
        async with db.write() as tx:
            await tx.execute(_ADD)
            with contextlib.suppress(IntegrityError):
                await tx.execute(too_much)
            if again == "a statement":
                with contextlib.suppress(IntegrityError):
                    await tx.execute(_ADD)
            elif again == "one for later":
                await send_later(tx, _ADD, None)
    assert await count(db) == 1
    async with db.write() as tx:
        await tx.execute(_ADD)
    assert await count(db) == 2


async def test_who_passes_over_a_full_disk_keeps_nothing_of_the_transaction(db: Database) -> None:
    async with db.write() as tx:
        pages = (await tx.execute(text("PRAGMA page_count"))).scalar_one()
        await tx.execute(text(f"PRAGMA max_page_count={pages}"))
    with pytest.raises(OperationalError, match="full") as raised:
        async with db.write() as tx:
            await tx.execute(_ADD)
            with contextlib.suppress(OperationalError):
                await tx.execute(insert(things).values(name="x" * 100_000))
            with contextlib.suppress(OperationalError):
                await tx.execute(insert(things).values(name="what would fit"))
    assert is_full(raised.value)
    assert await count(db) == 0


async def test_where_a_transaction_could_not_begin_nothing_is_done_outside_of_it(db: Database, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "x.sqlite3", isolation_level=None)) as other:
        async with db.write() as tx:
            await tx.execute(text("PRAGMA busy_timeout=1"))
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(OperationalError, match="locked"):
            async with db.write() as tx:
                with contextlib.suppress(OperationalError):
                    await tx.execute(_ADD)
                other.execute("ROLLBACK")
                with contextlib.suppress(OperationalError):
                    await tx.execute(_ADD)
    assert await count(db) == 0


async def test_a_reader_cannot_write_and_sees_the_last_commit_while_somebody_writes(db: Database) -> None:
    async with db.write() as writing:
        await writing.execute(insert(things).values(name="not yet"))
        assert await count(db) == 0
    async with db.read() as tx:
        with pytest.raises(OperationalError, match="readonly"):
            await tx.execute(insert(things).values(name="never"))


async def test_a_moment_comes_back_in_utc_to_the_microsecond_and_is_an_integer_on_sqlite(db: Database) -> None:
    moment = datetime(2026, 3, 1, 12, 0, 0, 123457, tzinfo=timezone(timedelta(hours=2)))
    async with db.write() as tx:
        await tx.execute(insert(things).values(due_at=moment, extra={"prompt": "café", "list": [1]}))
        row = (await tx.execute(select(things))).one()
        stored = (await tx.execute(text("SELECT due_at, typeof(due_at) FROM things"))).one()
    assert row.due_at == moment
    assert row.due_at.tzinfo is UTC
    assert row.extra == {"prompt": "café", "list": [1]}
    assert stored == (int(moment.timestamp()) * 1_000_000 + 123457, "integer")


async def test_an_error_tells_no_values(db: Database) -> None:
    async with db.write() as tx:
        with pytest.raises(OperationalError) as caught:
            await tx.execute(text("INSERT INTO nowhere (name) VALUES (:name)"), {"name": "a secret prompt"})
    assert "INSERT INTO nowhere" in str(caught.value)
    assert "a secret prompt" not in str(caught.value)


async def test_a_naive_moment_is_refused(db: Database) -> None:
    with pytest.raises(StatementError, match="without a zone"):
        async with db.write() as tx:
            await tx.execute(insert(things).values(due_at=datetime(2026, 3, 1)))


async def test_the_database_clock_decides_what_is_due(db: Database, clock: ManualClock) -> None:
    async with db.write() as tx:
        await tx.execute(insert(things).values(due_at=db_now(plus=timedelta(seconds=30))))
        due = select(func.count()).select_from(things).where(things.c.due_at <= db_now())
        assert (await tx.execute(due)).scalar_one() == 0
        clock.advance(timedelta(seconds=30))
        assert (await tx.execute(due)).scalar_one() == 1
        assert await db.now(tx) == clock.now()


async def test_what_was_committed_survives_the_process(db: Database) -> None:
    async with db.write() as tx:
        assert (await tx.execute(text("PRAGMA synchronous"))).scalar_one() == 2
        assert (await tx.execute(text("PRAGMA journal_mode"))).scalar_one() == "wal"
        assert (await tx.execute(text("PRAGMA foreign_keys"))).scalar_one() == 1


async def test_many_rows_travel_in_one_statement(db: Database) -> None:
    async with db.read() as tx:
        rows = await tx.execute(text("SELECT value FROM json_each(:values)"), {"values": json_list(["a", "é"])})
        assert list(rows.scalars()) == ["a", "é"]


async def test_a_second_start_in_the_same_folder_names_the_holder(tmp_path: Path) -> None:
    settings = settings_module.for_tests(tmp_path)
    first = await Database.open_service(settings, "router")
    with pytest.raises(FailedPrecondition, match=r"in use by router, process \d+, started 20.*ATELIER_DATA_DIR"):
        await Database.open_service(settings, "router")
    await first.close()
    second = await Database.open_service(settings, "router")
    assert second.url.database == str(tmp_path / "router" / "router.sqlite3")
    await second.close()
