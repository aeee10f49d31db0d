"""The kit on PostgreSQL: transactions, the clock, schemas, limits on time, and a server that comes and goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import BigInteger, Column, MetaData, String, Table, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError, InternalError

from service_kit import bulk
from service_kit.clock import ManualClock
from service_kit.database import Database, Json, UtcDateTime, db_now
from service_kit.errors import Aborted, FailedPrecondition, NotFound, ResourceExhausted, Unavailable
from service_kit.storage_errors import disk_full, is_full, postgres_error
from tests.support.postgres import PostgresServer

metadata = MetaData()


things = Table(
    "things",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("name", String, unique=True),
    Column("due_at", UtcDateTime),
    Column("extra", Json),
)


async def open_database(url: str, **how: object) -> Database:
    database = Database(url, schema="things", writer_wait=timedelta(milliseconds=200), **how)  # type: ignore[arg-type]
    async with database.write() as tx:
        await tx.execute(text("CREATE SCHEMA IF NOT EXISTS things"))
        await tx.run_sync(metadata.create_all)
    return database


@pytest.fixture
async def db(postgres_url: str) -> AsyncIterator[Database]:
    database = await open_database(postgres_url, connections=3)
    yield database
    await database.close()


async def names(db: Database) -> list[str]:
    async with db.read() as tx:
        return list((await tx.execute(select(things.c.name).order_by(things.c.name))).scalars())


async def add(db: Database, *new: str) -> None:
    async with db.write() as tx:
        await tx.execute(insert(things), [{"name": name} for name in new])


async def end_connections(url: str, *, but: str = "nobody") -> None:
    """Have the server close every connection of the kit to this database."""
    watcher = Database(url)
    async with watcher.write() as tx:
        ended = await tx.execute(
            text(
                "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name <> :but"
            ),
            {"but": but},
        )
        assert ended.scalar_one()
    await watcher.close()


async def test_a_write_is_kept_and_an_exception_undoes_it(db: Database) -> None:
    await add(db, "kept")
    with pytest.raises(KeyError):
        async with db.write() as tx:
            await tx.execute(insert(things).values(name="undone"))
            raise KeyError
    assert await names(db) == ["kept"]


async def test_cancelled_writers_leave_nothing_and_no_connection_is_lost(db: Database) -> None:
    """Cancelled between statements and in the middle of one, more often than there are connections."""

    async def write_and_wait(inside: asyncio.Event, wait: str) -> None:
        async with db.write() as tx:
            await tx.execute(insert(things).values(name="undone"))
            inside.set()
            await tx.execute(text(wait))
            await asyncio.Event().wait()

    for wait in ("SELECT pg_sleep(5)", "SELECT 1") * 2:
        inside = asyncio.Event()
        task = asyncio.create_task(write_and_wait(inside, wait))
        await inside.wait()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await add(db, "kept")
    assert await names(db) == ["kept"]


async def test_a_reader_sees_one_state_and_cannot_write(db: Database) -> None:
    await add(db, "first")
    async with db.read() as tx:
        assert (await tx.execute(select(func.count()).select_from(things))).scalar_one() == 1
        await add(db, "second")
        assert (await tx.execute(select(func.count()).select_from(things))).scalar_one() == 1
    with pytest.raises(InternalError, match="read-only"):
        async with db.read() as tx:
            await tx.execute(insert(things).values(name="never"))
    assert await names(db) == ["first", "second"]


async def test_values_come_back_as_they_were(db: Database) -> None:
    moment = datetime(2026, 3, 1, 12, 0, 0, 123457, tzinfo=timezone(timedelta(hours=2)))
    extra = {"z": 1, "a": [1.5, None, "café", "\x00"], "n": 2**53 - 1}
    async with db.write() as tx:
        await tx.execute(insert(things).values(due_at=moment, extra=extra))
        row = (await tx.execute(select(things))).one()
    assert row.due_at == moment
    assert row.due_at.tzinfo is UTC
    assert row.extra == extra
    assert list(row.extra) == list(extra)


async def test_the_clock_is_the_databases_and_goes_on_within_a_transaction(db: Database) -> None:
    async with db.write() as tx:
        first = await db.now(tx)
        await tx.execute(text("SELECT pg_sleep(0.002)"))
        second = await db.now(tx)
        shifted = (await tx.execute(select(db_now(plus=timedelta(hours=1)) - db_now()))).scalar_one()
    assert second - first >= timedelta(milliseconds=2)
    assert shifted == timedelta(hours=1)


async def test_a_test_may_hold_the_clock(postgres_url: str) -> None:
    clock = ManualClock()
    db = await open_database(postgres_url, clock=clock)
    async with db.write() as tx:
        await tx.execute(insert(things).values(name="due", due_at=db_now(plus=timedelta(microseconds=5))))
        assert await db.now(tx) == clock.now()
        due = select(things.c.due_at).where(things.c.due_at <= db_now())
        assert (await tx.execute(due)).first() is None
        clock.advance(timedelta(microseconds=5))
        assert (await tx.execute(due)).scalar_one() == clock.now()
    await db.close()


async def test_the_clock_is_compared_through_an_index(db: Database) -> None:
    async with db.write() as tx:
        await tx.execute(text("CREATE INDEX things_due ON things (due_at)"))
        await tx.execute(text("SET LOCAL enable_seqscan = off"))
        query = select(things.c.id).where(things.c.due_at <= db_now())
        plan = await tx.execute(
            text("EXPLAIN " + str(query.compile(tx.engine, compile_kwargs={"literal_binds": True})))
        )
        assert any("Index Cond" in row[0] for row in plan)


async def test_services_in_one_database_do_not_see_each_others_tables(db: Database, postgres_url: str) -> None:
    await add(db, "ours")
    other = Database(postgres_url, schema="other")
    async with other.write() as tx:
        await tx.execute(text("CREATE SCHEMA other"))
        await tx.run_sync(metadata.create_all)
    assert await names(other) == []
    await other.close()


async def test_when_all_connections_are_taken_a_writer_gives_up_with_a_sentence(db: Database) -> None:
    async with db.write(), db.write():
        with pytest.raises(ResourceExhausted, match="busy") as caught:
            async with db.write():
                pass
        # Who only reads is not kept out by writers.
        assert await names(db) == []
    assert caught.value.retry_after == timedelta(seconds=1)
    await add(db, "later")


async def test_who_waits_too_long_for_a_row_is_told_to_repeat(db: Database) -> None:
    await add(db, "row")
    async with db.write() as holder:
        await holder.execute(update(things).values(extra=1))
        with pytest.raises(Unavailable, match="too long"):
            async with db.write() as tx:
                await tx.execute(text("SET LOCAL lock_timeout = '20ms'"))
                await tx.execute(update(things).values(extra=2))
    async with db.read() as tx:
        assert (await tx.execute(select(things.c.extra))).scalar_one() == 1


async def test_of_two_that_wait_for_each_other_one_is_told_to_repeat(db: Database) -> None:
    await add(db, "a", "b")
    both_hold_one = asyncio.Barrier(2)

    async def change(first: str, second: str) -> None:
        async with db.write() as tx:
            await tx.execute(text("SET LOCAL deadlock_timeout = '10ms'"))
            await tx.execute(update(things).where(things.c.name == first).values(extra=first))
            await both_hold_one.wait()
            await tx.execute(update(things).where(things.c.name == second).values(extra=first))

    outcomes = await asyncio.gather(change("a", "b"), change("b", "a"), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {Aborted, type(None)}
    async with db.read() as tx:
        assert len(set((await tx.execute(select(things.c.extra))).scalars())) == 1


async def test_a_transaction_that_stands_still_is_ended_so_that_its_locks_go(db: Database) -> None:
    await add(db, "row")
    with pytest.raises(Unavailable):
        async with db.write() as stuck:
            await stuck.execute(text("SET LOCAL application_name = 'stuck'"))
            await stuck.execute(update(things).values(extra="stuck"))
            await stuck.execute(text("SET LOCAL idle_in_transaction_session_timeout = '20ms'"))
            await _until_gone(db, "stuck")
            await stuck.execute(update(things).values(extra="late"))
    async with db.write() as tx:
        assert (await tx.execute(update(things).values(extra="free").returning(things.c.id))).all()


async def test_every_wait_of_the_server_has_a_limit_and_the_url_may_set_another(
    db: Database, postgres_url: str
) -> None:
    async def limits(database: Database) -> dict[str, str]:
        names = ("idle_in_transaction_session_timeout", "lock_timeout", "statement_timeout", "tcp_user_timeout")
        async with database.read() as tx:
            return {name: (await tx.execute(text(f"SHOW {name}"))).scalar_one() for name in names}

    usual = await limits(db)
    assert usual["idle_in_transaction_session_timeout"] == "2s"
    assert not {"0", "0ms"} & {usual["lock_timeout"], usual["statement_timeout"]}
    other = Database(f"{postgres_url}?options=-c%20statement_timeout=20000")
    assert await limits(other) == usual | {"statement_timeout": "20s"}
    await other.close()


async def _until_gone(db: Database, application: str) -> None:
    query = text("SELECT count(*) FROM pg_stat_activity WHERE application_name = :name")
    async with asyncio.timeout(5):
        while True:
            async with db.read() as tx:
                if not (await tx.execute(query, {"name": application})).scalar_one():
                    return


async def test_what_the_server_closed_is_replaced_before_anybody_notices(db: Database, postgres_url: str) -> None:
    async with db.write(), db.write(), db.read():
        pass
    await end_connections(postgres_url)
    async with db.write() as one, db.write() as two:
        for tx in (one, two):
            await tx.execute(select(1))
    assert await names(db) == []


async def test_a_commit_over_a_lost_connection_is_unavailable_and_undone(db: Database, postgres_url: str) -> None:
    with pytest.raises(Unavailable, match="cannot be reached"):
        async with db.write() as tx:
            await tx.execute(insert(things).values(name="undone"))
            await end_connections(postgres_url)
    assert await names(db) == []


async def test_a_refusal_is_still_told_when_the_connection_is_lost_meanwhile(db: Database, postgres_url: str) -> None:
    with pytest.raises(NotFound, match="no job"):
        async with db.write() as tx:
            await tx.execute(insert(things).values(name="undone"))
            await end_connections(postgres_url)
            raise NotFound.of("job", "j")
    assert await names(db) == []


async def test_a_broken_rule_of_the_schema_is_left_to_the_storage(db: Database) -> None:
    await add(db, "one")
    with pytest.raises(IntegrityError):
        await add(db, "one")


async def test_an_error_tells_no_values(db: Database, caplog: pytest.LogCaptureFixture, postgres_url: str) -> None:
    with pytest.raises(Unavailable) as caught:
        async with db.write() as tx:
            await end_connections(postgres_url)
            await tx.execute(insert(things).values(name="a secret prompt"))
    told = f"{caught.value} {caught.value.__cause__} {[record.__dict__ for record in caplog.records]}"
    assert "INSERT INTO things" in told
    assert "a secret prompt" not in told


async def test_the_lock_of_a_name_is_held_until_the_transaction_ends(db: Database) -> None:
    order: list[str] = []
    held = asyncio.Event()

    async def second() -> None:
        await held.wait()
        async with db.write() as tx:
            await db.lock(tx, "name")
            order.append("second")

    async with asyncio.TaskGroup() as group:
        group.create_task(second())
        async with db.write() as tx:
            await db.lock(tx, "name")
            held.set()
            await tx.execute(text("SELECT pg_sleep(0.02)"))
            order.append("first")
    assert order == ["first", "second"]


async def test_a_server_that_is_killed_is_unavailable_and_then_works_again() -> None:
    with PostgresServer(fsync=True) as server:
        db = await open_database(server.url())
        await add(db, "kept")
        server.kill()
        for attempt in (names(db), add(db, "lost")):
            with pytest.raises(Unavailable, match="cannot be reached"):
                await attempt
        server.start()
        assert await names(db) == ["kept"]
        await add(db, "new")
        server.stop()
        server.start()
        assert await names(db) == ["kept", "new"]
        await db.close()


async def test_a_full_disk_is_told_as_on_sqlite() -> None:
    from psycopg import errors
    from sqlalchemy.exc import OperationalError

    full = OperationalError("INSERT", {}, errors.DiskFull())
    assert is_full(full)
    answer = postgres_error(full)
    assert answer is not None
    assert (type(answer), answer.message) == (type(disk_full()), disk_full().message)
    assert postgres_error(InternalError("SELECT", {}, errors.DataCorrupted())) is None
    too_many = postgres_error(OperationalError("SELECT", {}, errors.TooManyConnections()))
    assert isinstance(too_many, ResourceExhausted)


def test_another_kind_of_database_is_refused() -> None:
    with pytest.raises(FailedPrecondition, match=r"postgresql://, got mysql://"):
        Database("mysql://root@localhost/atelier")


def test_both_spellings_of_the_scheme_mean_psycopg() -> None:
    for spelling in ("postgres", "postgresql", "postgresql+psycopg2"):
        assert Database(f"{spelling}://a@localhost/b").url.drivername == "postgresql+psycopg"


async def test_a_cancelled_statement_takes_what_it_carried_along_and_leaves_its_connection_usable(
    db: Database,
) -> None:
    async with db.write() as tx:
        await bulk.insert_rows(tx, things, [{"name": "locked"}])
    locked = select(things).where(things.c.name == "locked").with_for_update()
    behind_us = text(
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"
    )
    async with db.write() as holder:
        await holder.execute(locked)

        async def wait_behind() -> None:
            async with db.write() as tx:
                await bulk.insert_rows(tx, things, [{"name": "carried along"}])
                await tx.execute(locked)

        for _ in range(3):
            waiting = asyncio.ensure_future(wait_behind())
            # PostgreSQL passes over a cancel that comes before its statement.
            async with asyncio.timeout(10):
                while not (await holder.execute(behind_us)).scalar():  # noqa: ASYNC110 - only PostgreSQL knows
                    await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait({waiting}, timeout=10)
            assert waiting.cancelled()
    for name in ("after", "later"):
        async with db.write() as tx:
            await bulk.insert_rows(tx, things, [{"name": name}])
    assert await names(db) == ["after", "later", "locked"]


async def test_a_commit_that_carries_statements_along_and_loses_its_connection_is_unknown(
    db: Database, postgres_url: str
) -> None:
    with pytest.raises(Unavailable):
        async with db.write() as tx:
            await tx.execute(select(things))
            await bulk.insert_rows(tx, things, [{"name": "lost"}])
            await end_connections(postgres_url)
    async with db.write() as tx:
        await bulk.insert_rows(tx, things, [{"name": "next"}])
    assert await names(db) == ["next"]
