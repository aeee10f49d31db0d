"""Cursors, wake-ups and the events table."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncConnection

from service_kit.clock import ManualClock
from service_kit.database import Database
from service_kit.errors import InvalidArgument, ResourceExhausted
from service_kit.events import Cursor, WakeUps, decode_cursor, encode_cursor
from service_kit.events.log import EventLog, create_event_tables
from service_kit.identity import Owner
from service_kit.paging import decode_page_token, decode_place, encode_page_token, encode_place

ANN, BOB = Owner("default", "ann"), Owner("default", "bob")
SECOND = timedelta(seconds=1)
log = EventLog(MetaData())


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def db(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Database]:
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    database = Database(f"sqlite+aiosqlite:///{tmp_path}/x.sqlite3", clock=clock)
    async with database.write() as tx:
        await tx.run_sync(lambda connection: create_event_tables(Operations(MigrationContext.configure(connection))))
    yield database
    await database.close()


async def append(tx: AsyncConnection, owner: Owner, subject_id: str, version: int = 1) -> int:
    return await log.append(tx, owner=owner, subject_id=subject_id, version=version, kind="state", payload=b"\0x")


async def test_events_come_back_in_order_by_owner_and_by_subject(db: Database, clock: ManualClock) -> None:
    async with db.write() as tx:
        first = await append(tx, ANN, "one")
        await append(tx, BOB, "two")
        third = await append(tx, ANN, "one", 2)
        assert [event.position for event in await log.after(tx, 0, owner=ANN)] == [first, third]
        assert [event.version for event in await log.after(tx, first, subject_id="one")] == [2]
        assert len(await log.after(tx, 0, limit=2)) == 2
        [event] = await log.after(tx, first, owner=BOB)
        assert (event.owner, event.subject_id, event.kind, event.payload) == (BOB, "two", "state", b"\0x")
        assert event.created_at == clock.now()
        assert await log.last(tx, owner=ANN) == third


async def test_an_event_of_a_transaction_that_failed_never_happened(db: Database) -> None:
    with pytest.raises(KeyError):
        async with db.write() as tx:
            await append(tx, ANN, "one")
            raise KeyError
    async with db.read() as tx:
        assert await log.after(tx, 0) == []


async def test_a_cursor_resumes_or_asks_for_a_snapshot(db: Database, clock: ManualClock) -> None:
    async with db.write() as tx:
        epoch = await log.epoch(tx)
        for name in ("a", "b", "c"):
            await append(tx, ANN, name)
            clock.advance(SECOND)
        assert await log.resume(tx, encode_cursor(epoch, 0)) == 0
        assert await log.resume(tx, encode_cursor(epoch, 3)) == 3
        for unknown in ("", "nonsense", encode_cursor("another", 1), encode_cursor(epoch, 4)):
            assert await log.resume(tx, unknown) is None
        assert await log.trim(tx, older_than=2 * SECOND) == 1
        assert await log.resume(tx, encode_cursor(epoch, 0)) is None
        assert await log.resume(tx, encode_cursor(epoch, 1)) == 1


async def test_positions_are_never_used_again_after_everything_was_trimmed(db: Database, clock: ManualClock) -> None:
    async with db.write() as tx:
        epoch = await log.epoch(tx)
        last = await append(tx, ANN, "a")
        clock.advance(SECOND)
        assert await log.trim(tx, older_than=timedelta(0)) == 1
        assert await log.trim(tx, older_than=timedelta(0)) == 0
        assert await log.resume(tx, encode_cursor(epoch, last)) == last
        assert await append(tx, ANN, "b") == last + 1


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
    for text in (token, "", "nonsense", "é", nested, old, "a" * 5000, *unfit):
        with pytest.raises(InvalidArgument, match="page_token is not a page token"):
            decode_page_token("asset.assets", text)


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
