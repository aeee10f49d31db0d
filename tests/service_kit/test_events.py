"""Cursors, wake-ups and the events table."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Hashable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, MetaData, bindparam, text

from service_kit.clock import ManualClock
from service_kit.database import Database, UtcDateTime
from service_kit.errors import InvalidArgument, ResourceExhausted
from service_kit.events import Cursor, WakeUps, decode_cursor, encode_cursor
from service_kit.events.log import EventLog, NewEvent
from service_kit.events.tables import create_event_tables, number_events_per_owner
from service_kit.identity import Owner
from service_kit.paging import decode_page_token, decode_place, encode_page_token, encode_place

ANN, BOB = Owner("default", "ann"), Owner("default", "bob")
SECOND = timedelta(seconds=1)
log = EventLog(MetaData())


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["sqlite", "postgresql"])
async def db(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Database]:
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    def create(connection: Connection) -> None:
        operations = Operations(MigrationContext.configure(connection))
        create_event_tables(operations)
        number_events_per_owner(operations)

    in_a_file = request.param == "sqlite"
    url = f"sqlite+aiosqlite:///{tmp_path}/x.sqlite3" if in_a_file else request.getfixturevalue("postgres_url")
    database = Database(url, clock=clock)
    async with database.write() as tx:
        await tx.run_sync(create)
    yield database
    await database.close()


def event(owner: Owner, subject_id: str, version: int = 1) -> NewEvent:
    return NewEvent(owner, subject_id, version, "state", b"\0x")


async def append(db: Database, *events: NewEvent) -> None:
    async with db.write() as tx:
        await log.write(tx, events)


async def read(db: Database, owner: Owner, after: int = 0, **wanted: Any) -> list[tuple[int, str, int]]:
    async with db.read() as tx:
        found = await log.after(tx, after, owner=owner, **wanted)
    return [(event.position, event.subject_id, event.version) for event in found]


async def test_the_events_of_each_owner_are_numbered_and_come_back_in_order(db: Database, clock: ManualClock) -> None:
    await append(db, event(ANN, "one"), event(BOB, "two"), event(ANN, "one", 2))
    await append(db, event(ANN, "three"))
    await append(db)
    assert await read(db, ANN) == [(1, "one", 1), (2, "one", 2), (3, "three", 1)]
    assert await read(db, ANN, 1, subject_id="one") == [(2, "one", 2)]
    assert await read(db, ANN, limit=1) == [(1, "one", 1)]
    async with db.read() as tx:
        [told] = await log.after(tx, 0, owner=BOB)
        assert (await log.place(tx, ANN)).position == 3
        assert (await log.place(tx, Owner("default", "nobody"))).position == 0
    assert (told.position, told.owner, told.subject_id, told.kind, told.payload) == (1, BOB, "two", "state", b"\0x")
    assert told.created_at == clock.now()


async def test_an_event_of_a_transaction_that_failed_never_happened(db: Database) -> None:
    with pytest.raises(KeyError):
        async with db.write() as tx:
            await log.write(tx, [event(ANN, "one")])
            raise KeyError
    assert await read(db, ANN) == []


async def test_it_is_told_whose_events_of_what_came_later(db: Database) -> None:
    await append(db, event(ANN, "a"), event(BOB, "b"), event(ANN, "c"), event(ANN, "a", 2))
    async with db.read() as tx:
        assert await log.changed(tx, [(ANN, 1)]) == [(ANN, "c", 2), (ANN, "a", 3)]
        assert await log.changed(tx, [(BOB, 0), (ANN, 2)]) == [(ANN, "a", 3), (BOB, "b", 1)]
        assert await log.changed(tx, [(BOB, 1), (Owner("other", "ann"), 0)]) == []
        assert await log.changed(tx, []) == []


async def test_a_cursor_resumes_or_asks_for_a_snapshot(db: Database, clock: ManualClock) -> None:
    for name in ("a", "b", "c"):
        await append(db, event(ANN, name), event(BOB, name))
        clock.advance(SECOND)
    async with db.write() as tx:
        place = await log.place(tx, ANN)
        bobs = await log.place(tx, BOB)
        assert place.after(place.cursor) == 3
        assert place.after(encode_cursor(place.epoch, 0)) == 0
        foreign = encode_cursor("another", 1), encode_cursor(place.epoch.split(".")[0], 1), bobs.cursor
        for unknown in ("", "nonsense", *foreign, encode_cursor(place.epoch, 4)):
            assert place.after(unknown) is None
        assert await log.trim(tx, older_than=2 * SECOND) == 2
        place = await log.place(tx, ANN)
        assert place.after(encode_cursor(place.epoch, 0)) is None
        assert place.after(encode_cursor(place.epoch, 1)) == 1


async def test_positions_are_never_used_again_after_everything_was_trimmed(db: Database, clock: ManualClock) -> None:
    await append(db, event(ANN, "a"))
    clock.advance(SECOND)
    async with db.write() as tx:
        assert await log.trim(tx, older_than=timedelta(0)) == 1
        assert await log.trim(tx, older_than=timedelta(0)) == 0
        place = await log.place(tx, ANN)
        assert place.after(encode_cursor(place.epoch, 1)) == 1
        assert place.after(encode_cursor(place.epoch, 0)) is None
    await append(db, event(ANN, "b"))
    assert await read(db, ANN) == [(2, "b", 1)]


async def test_events_from_before_there_were_positions_of_owners_keep_their_numbers(
    db: Database, clock: ManualClock
) -> None:
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    def go_back(connection: Connection) -> None:
        for name in ("events", "event_heads", "event_source"):
            connection.execute(text(f"DROP TABLE {name}"))
        create_event_tables(Operations(MigrationContext.configure(connection)))
        new = "INSERT INTO events (tenant_id, owner_id, subject_id, version, kind, payload, created_at) VALUES "
        values = "('default', :owner, :subject, 1, 'state', :payload, :moment)"
        statement = text(new + values).bindparams(bindparam("moment", type_=UtcDateTime))
        for number, owner in enumerate(("ann", "bob", "ann", "ann")):
            row = {"owner": owner, "subject": f"{number}", "payload": b"{}", "moment": clock.now()}
            connection.execute(statement, row)
        connection.execute(text("DELETE FROM events WHERE id = 1"))
        connection.execute(text("UPDATE event_source SET trimmed_to = 1"))
        number_events_per_owner(Operations(MigrationContext.configure(connection)))

    async with db.write() as tx:
        await tx.run_sync(go_back)
    await append(db, event(ANN, "new"), event(BOB, "new"))
    assert await read(db, ANN) == [(3, "2", 1), (4, "3", 1), (5, "new", 1)]
    assert await read(db, BOB) == [(2, "1", 1), (3, "new", 1)]
    async with db.read() as tx:
        assert (await log.place(tx, ANN)).trimmed_to == 1
        assert (await log.after(tx, 0, owner=ANN))[0].created_at == clock.now()


def test_a_cursor_is_opaque_and_comes_back() -> None:
    text = encode_cursor("e:p", 2**40)
    assert text.replace("-", "").replace("_", "").isalnum()
    assert decode_cursor(text) == Cursor("e:p", 2**40)


@pytest.mark.parametrize(
    "plain", ["v2:epoch:1", "v1:epoch:-1", "v1::1", "v1:epoch:", "v1:epoch:\N{SUPERSCRIPT TWO}", ""]
)
def test_what_is_no_cursor_is_none(plain: str) -> None:
    assert decode_cursor(base64.urlsafe_b64encode(plain.encode()).decode()) is None
    assert decode_cursor("é" * 10) is None
    assert decode_cursor("a" * 1000) is None


async def test_a_wake_up_reaches_its_topic_and_many_become_one() -> None:
    wake_ups = WakeUps()
    with wake_ups.subscribe(("job", 1), ("owner", "ann")) as mine, wake_ups.subscribe(("job", 2)) as other:
        wake_ups.notify(("job", 1))
        wake_ups.notify(("owner", "ann"), ("job", 1))
        assert await mine.wait(SECOND)
        assert not await mine.wait(timedelta(0))
        assert not await other.wait(timedelta(0))
        assert wake_ups.watched(("job", 2))
    assert not wake_ups.watched(("job", 2))


async def test_a_watcher_that_waits_is_woken() -> None:
    wake_ups = WakeUps()
    with wake_ups.subscribe("x") as waker:
        waiting = asyncio.create_task(waker.wait(timedelta(seconds=30)))
        await asyncio.sleep(0)
        wake_ups.notify("x")
        assert await waiting


async def test_many_waits_have_one_timer_and_each_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, timers, late = asyncio.get_running_loop(), [], 0.0
    call_at, time = loop.call_at, loop.time

    def noting(when: float, *arguments: Any) -> asyncio.TimerHandle:
        timers.append(call_at(when, *arguments))
        return timers[-1]

    monkeypatch.setattr(loop, "call_at", noting)
    monkeypatch.setattr(loop, "time", lambda: time() + late)
    wake_ups = WakeUps()
    with wake_ups.subscribe("x") as waker:

        async def begin(limit_s: float) -> asyncio.Task[frozenset[Hashable]]:
            waiting = asyncio.create_task(waker.wait(timedelta(seconds=limit_s)))
            await asyncio.sleep(0)
            return waiting

        for _ in range(3):
            waiting = await begin(30)
            wake_ups.notify("x")
            assert await waiting == {"x"}
        assert len(timers) == 1
        late = 20.0
        waiting = await begin(30)
        # Its own time is not over, but that of the first.
        late = 40.0
        for _ in range(3):
            await asyncio.sleep(0)
        assert not waiting.done()
        late = 60.0
        assert await waiting == frozenset()
        # Nobody waits when this is over; a shorter wait does not wait for it.
        waiting = await begin(300)
        wake_ups.notify("x")
        await waiting
        assert await waker.wait(timedelta(0)) == frozenset()
        waiting = await begin(300)
        wake_ups.notify("x")
        await waiting
    assert all(timer.cancelled() or timer.when() <= loop.time() for timer in timers)


def test_watchers_are_bounded() -> None:
    wake_ups = WakeUps(max_watchers=1)
    with wake_ups.subscribe("x"):
        with pytest.raises(ResourceExhausted), wake_ups.subscribe("y"):
            pass
    with wake_ups.subscribe("y"):
        pass


def test_a_page_token_comes_back_for_its_own_list_only() -> None:
    token = encode_page_token("library.items", [1700000000000000, "ä", None])
    assert decode_page_token("library.items", token) == [1700000000000000, "ä", None]
    nested = base64.urlsafe_b64encode(b'[1,"asset.assets",{}]').decode()
    old = base64.urlsafe_b64encode(b'[0,"asset.assets"]').decode()
    unfit = [
        base64.urlsafe_b64encode(b'[1,"asset.assets",%s]' % key).decode().rstrip("=")
        for key in (b'"\\ud800"', b"9223372036854775808", b"-9223372036854775808", b"NaN", b"1e999", b"true")
    ]
    for token_text in (token, "", "nonsense", "é", nested, old, "a" * 5000, *unfit):
        with pytest.raises(InvalidArgument, match="page_token is not a page token"):
            decode_page_token("asset.assets", token_text)


def test_a_place_in_time_comes_back_and_nothing_else_is_one() -> None:
    moment = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)
    assert decode_place("router.jobs", encode_place("router.jobs", moment, "a")) == (moment, "a")
    tokens = [
        encode_page_token("router.jobs", [moment_text, "a"])
        for moment_text in ("soon", "2026-01-01T00:00:00", "0001-01-01T00:00:00+01:00", 1)
    ]
    for token in (*tokens, encode_page_token("router.jobs", ["x"]), encode_place("library.items", moment, "a")):
        with pytest.raises(InvalidArgument, match="page_token is not a page token"):
            decode_place("router.jobs", token)
