"""Positions of events grow in the order of commits: no reader misses one, and no foreign transaction delays it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import psycopg
import pytest
from sqlalchemy import Connection, MetaData, text
from sqlalchemy.engine import make_url

from service_kit.database import Database
from service_kit.errors import AtelierError
from service_kit.events.log import EventLog, NewEvent
from service_kit.events.tables import create_event_tables, number_events_per_owner
from service_kit.identity import Owner
from service_kit.storage import TransactionalStorage, View

ANN, BOB = Owner("default", "ann"), Owner("default", "bob")
IN_TIME_S = 20
WRITERS, EACH = 8, 25
log = EventLog(MetaData())


class Told(View):
    """A transaction that tells, as those of the services do."""

    def __init__(self, _db: Database, connection: object) -> None:
        self.connection = connection
        self.new: list[NewEvent] = []

    async def finish(self) -> None:
        await log.write(self.connection, self.new)  # type: ignore[arg-type]

    def tell(self, subject_id: str, owner: Owner = ANN) -> None:
        self.new.append(NewEvent(owner, subject_id, 1, "state"))


@pytest.fixture
async def db(postgres_url: str) -> AsyncIterator[Database]:
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    def create(connection: Connection) -> None:
        operations = Operations(MigrationContext.configure(connection))
        create_event_tables(operations)
        number_events_per_owner(operations)

    database = Database(postgres_url, connections=3 * WRITERS)
    async with database.write() as tx:
        await tx.run_sync(create)
    yield database
    await database.close()


@pytest.fixture
def storage(db: Database) -> TransactionalStorage[Told]:
    return TransactionalStorage(db, Told)


async def read(db: Database, owner: Owner, position: int = 0) -> list[tuple[int, str]]:
    async with db.read() as tx:
        return [(event.position, event.subject_id) for event in await log.after(tx, position, owner=owner)]


async def test_who_began_first_and_commits_last_has_the_later_position(
    db: Database, storage: TransactionalStorage[Told]
) -> None:
    async with storage.write() as first:
        first.tell("began first")
        async with storage.write() as second:
            second.tell("committed first")
        seen = await read(db, ANN)
        assert seen == [(1, "committed first")]
    assert await read(db, ANN, seen[-1][0]) == [(2, "began first")]


async def test_whoever_has_a_position_commits_before_the_next_one_is_given(db: Database) -> None:
    """Also when a transaction dawdles between taking its position and its commit."""
    has_position = asyncio.Event()
    may_commit = asyncio.Event()

    async def slow() -> None:
        async with db.write() as tx:
            await log.write(tx, [NewEvent(ANN, "slow", 1, "state")])
            # What is written travels with the next statement.
            await tx.execute(text("SELECT 1"))
            has_position.set()
            await may_commit.wait()

    async def quick() -> None:
        await has_position.wait()
        async with db.write() as tx:
            await log.write(tx, [NewEvent(BOB, "other owner", 1, "state")])
        async with db.write() as tx:
            await log.write(tx, [NewEvent(ANN, "quick", 1, "state")])
            waiting = asyncio.ensure_future(tx.execute(text("SELECT 1")))
            await wait_for_a_lock(db)
            assert await read(db, ANN) == []
            may_commit.set()
            await waiting

    async with asyncio.timeout(IN_TIME_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(slow())
        tasks.create_task(quick())
    assert await read(db, ANN) == [(1, "slow"), (2, "quick")]


async def wait_for_a_lock(db: Database) -> None:
    """Return when somebody waits for a lock."""
    waits = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    while True:
        async with db.read() as tx:
            if (await tx.execute(waits)).scalar_one():
                return


async def test_a_reader_that_polls_sees_every_event_of_many_writers_once_and_in_order(
    db: Database, storage: TransactionalStorage[Told]
) -> None:
    written = 0

    async def write(writer: int) -> None:
        nonlocal written
        for number in range(EACH):
            try:
                async with storage.write() as tx:
                    # Owners in either order: the log sorts them, or two writers would wait for each other.
                    for owner in (ANN, BOB) if writer % 2 else (BOB, ANN):
                        tx.tell(f"{writer}.{number}", owner)
                    if number % 5 == 4:
                        raise KeyError
            except KeyError:
                continue
            written += 1

    async def follow(owner: Owner) -> list[tuple[int, str]]:
        seen: list[tuple[int, str]] = []
        while len(seen) < WRITERS * EACH * 4 // 5:
            seen += await read(db, owner, seen[-1][0] if seen else 0)
        return seen

    async with asyncio.timeout(IN_TIME_S), asyncio.TaskGroup() as tasks:
        readers = [tasks.create_task(follow(owner)) for owner in (ANN, BOB)]
        for writer in range(WRITERS):
            tasks.create_task(write(writer))
    for reader in readers:
        seen = reader.result()
        assert [position for position, _ in seen] == list(range(1, written + 1))
        for writer in range(WRITERS):
            mine = [subject for _, subject in seen if subject.startswith(f"{writer}.")]
            assert mine == [f"{writer}.{number}" for number in range(EACH) if number % 5 != 4]


@pytest.fixture(params=["the same database", "another database"])
def foreign(request: pytest.FixtureRequest, postgres_url: str) -> Iterator[psycopg.Connection]:
    """A transaction of somebody else that has written and does not end."""
    url = make_url(postgres_url)
    if request.param == "another database":
        url = url.set(database="postgres")
    with psycopg.connect(url.render_as_string(hide_password=False)) as connection:
        # It has a transaction id, which holds back every horizon that is made of those.
        assert connection.execute("SELECT pg_current_xact_id()").fetchone()
        yield connection
        connection.rollback()


async def test_a_foreign_transaction_that_does_not_end_stalls_nobody(
    db: Database, storage: TransactionalStorage[Told], foreign: psycopg.Connection
) -> None:
    async with storage.write() as tx:
        tx.tell("now")
    assert await read(db, ANN) == [(1, "now")]
    async with db.read() as tx:
        horizon = await tx.execute(text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"))
        mine = foreign.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
        assert mine is not None
        assert horizon.scalar_one() <= mine[0], "it would have held a horizon back"


async def test_two_that_trim_do_not_wait_for_each_other(db: Database) -> None:
    async with db.write() as tx:
        await log.write(tx, [NewEvent(owner, "old", 1, "state") for owner in (ANN, BOB)])
    async with asyncio.timeout(IN_TIME_S), db.write() as one, db.write() as other:
        assert await log.trim(one, older_than=timedelta(seconds=-60)) == 2
        assert await log.trim(other, older_than=timedelta(seconds=-60)) == 0
    async with db.read() as tx:
        assert (await log.place(tx, ANN)).trimmed_to == 1


async def test_a_transaction_that_is_turned_down_leaves_no_gap(db: Database) -> None:
    with pytest.raises(AtelierError):
        async with db.write() as tx:
            await log.write(tx, [NewEvent(ANN, "lost", 1, "state")])
            await tx.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    async with db.write() as tx:
        await log.write(tx, [NewEvent(ANN, "next", 1, "state")])
    assert await read(db, ANN) == [(1, "next")]
