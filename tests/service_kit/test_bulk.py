"""Many rows with one statement, the same on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import BigInteger, Boolean, Column, LargeBinary, MetaData, String, Table, UniqueConstraint, select
from sqlalchemy.exc import DBAPIError, IntegrityError

from service_kit import bulk
from service_kit.clock import ManualClock
from service_kit.database import Database, Json, UtcDateTime
from service_kit.errors import Aborted

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
metadata = MetaData()
things = Table(
    "things",
    metadata,
    Column("name", String(40), primary_key=True),
    Column("kind", String(40)),
    Column("count", BigInteger, nullable=False),
    Column("open", Boolean, nullable=False),
    Column("seen_at", UtcDateTime),
    Column("data", LargeBinary, nullable=False),
    UniqueConstraint("kind", "count"),
)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'things.sqlite3'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest_asyncio.fixture
async def db(url: str) -> AsyncIterator[Database]:
    """Give a database with an empty table."""
    database = Database(url)
    async with database.write() as tx:
        await tx.run_sync(metadata.create_all)
    yield database
    await database.close()


def row(name: str, **values: object) -> bulk.Row:
    return {"name": name, "kind": None, "count": 1, "open": True, "seen_at": NOON, "data": b"\x00\xff", **values}


async def stored(db: Database) -> list[tuple[object, ...]]:
    async with db.read() as tx:
        return [tuple(found) for found in await tx.execute(select(things).order_by(things.c.name))]


async def test_rows_are_inserted_with_every_type_of_value(db: Database) -> None:
    tricky = "quote ' \" \\ { } , % :x"
    async with db.write() as tx:
        await bulk.insert_rows(tx, things, [row("a", seen_at=None), row("b", kind=tricky, open=False, data=b"")])
        await bulk.insert_rows(tx, things, [])
    assert await stored(db) == [
        ("a", None, 1, True, None, b"\x00\xff"),
        ("b", tricky, 1, False, NOON, b""),
    ]


async def test_a_row_whose_key_is_taken_is_left_out(db: Database) -> None:
    async with db.write() as tx:
        await bulk.insert_rows(tx, things, [row("a", kind="k", count=1)])
        new = [row("b", kind="k", count=1), row("c", kind="k", count=2), row("d", kind=None, count=1)]
        inserted = await bulk.insert_new_rows(tx, things, new, unique=("kind", "count"), returning="name")
        nothing = await bulk.insert_new_rows(tx, things, [], unique=("kind", "count"), returning="name")
    assert (inserted, nothing) == ({"c", "d"}, set())
    assert [found[0] for found in await stored(db)] == ["a", "c", "d"]


async def test_a_row_is_written_over_the_one_that_has_its_key(db: Database) -> None:
    async with db.write() as tx:
        await bulk.put_rows(tx, things, [row("a", count=1), row("b", count=2)], key=("name",))
        await bulk.put_rows(
            tx, things, [row("b", count=5, seen_at=NOON + timedelta(1)), row("c", count=6)], key=("name",)
        )
        await bulk.put_rows(tx, things, [], key=("name",))
    assert [(found[0], found[2], found[4]) for found in await stored(db)] == [
        ("a", 1, NOON),
        ("b", 5, NOON + timedelta(1)),
        ("c", 6, NOON),
    ]


async def test_a_row_is_changed_only_if_it_is_as_expected(db: Database) -> None:
    async with db.write() as tx:
        await bulk.insert_rows(tx, things, [row("a", count=1), row("b", count=2), row("c", count=3)])
        changed = await bulk.update_rows(
            tx,
            things,
            [
                {"name": "a", "count": 1, "new_count": 10, "open": False},
                {"name": "b", "count": 99, "new_count": 20, "open": False},
                {"name": "x", "count": 1, "new_count": 30, "open": False},
            ],
            match=("name", "count"),
        )
        assert await bulk.update_rows(tx, things, [], match=("name",)) == 0
    assert changed == 1
    assert [(found[0], found[2], found[3]) for found in await stored(db)] == [
        ("a", 10, False),
        ("b", 2, True),
        ("c", 3, True),
    ]


async def test_a_change_of_a_row_that_is_not_as_expected_undoes_its_transaction(db: Database) -> None:
    async with db.write() as tx:
        await bulk.insert_rows(tx, things, [row("a", count=1), row("b", count=2)])
    match = ("name", "count")
    for expected, is_refused in ((1, False), (1, True), (7, True), (5, False)):
        rows = [{"name": "b", "count": 2, "new_count": 2}, {"name": "a", "count": expected, "new_count": 5}]
        try:
            async with db.write() as tx:
                await bulk.change_rows(tx, things, rows, match=match, refuse=lambda count: Aborted(f"only {count}"))
                await bulk.insert_rows(tx, things, [row(f"{expected}{is_refused}", count=9 + expected, kind=None)])
            assert not is_refused
        except Aborted as error:
            assert is_refused and error.message == "only 1"
        assert [(found[0], found[2]) for found in await stored(db)][-2:] == [("a", 5), ("b", 2)]
    assert [found[0] for found in await stored(db)] == ["1False", "5False", "a", "b"]


async def test_a_text_among_some_by_value_and_by_name(db: Database) -> None:
    async with db.write() as tx:
        await bulk.insert_rows(tx, things, [row("a"), row("b'\"", count=2), row("c", count=3)])
        given = select(things.c.name).where(bulk.among(things.c.name, ["a", "b'\"", "x"])).order_by(things.c.name)
        assert list((await tx.execute(given)).scalars()) == ["a", "b'\""]
        named = select(things.c.name).where(bulk.among(things.c.name, "names"))
        assert list((await tx.execute(named, {"names": ["c"]})).scalars()) == ["c"]
        assert list((await tx.execute(named, {"names": []})).scalars()) == []


async def test_rows_are_deleted_by_a_text_among_some_and_by_other_columns(db: Database) -> None:
    async with db.write() as tx:
        rows = [
            row(name, kind=kind, count=number)
            for number, (name, kind) in enumerate([("ax", "x"), ("bx", "x"), ("cy", "y"), ("dx", "x")])
        ]
        await bulk.insert_rows(tx, things, rows)
        await bulk.delete_rows(tx, things, "name", ["ax", "cy", "none"], kind="x")
        await bulk.delete_rows(tx, things, "name", [])
        await bulk.delete_rows(tx, things, "name", ["dx"])
    assert [found[0] for found in await stored(db)] == ["bx", "cy"]


async def test_a_row_that_breaks_a_rule_undoes_its_transaction_and_harms_no_later_one(db: Database) -> None:
    with pytest.raises(IntegrityError):
        async with db.write() as tx:
            await bulk.insert_rows(tx, things, [row("first")])
            await bulk.insert_rows(tx, things, [row("first")])
    with pytest.raises(IntegrityError):
        async with db.write() as tx:
            await bulk.insert_rows(tx, things, [row("second")])
            await bulk.insert_rows(tx, things, [row("second")])
            await tx.execute(select(things))
    for name in ("third", "fourth"):
        async with db.write() as tx:
            await bulk.insert_rows(tx, things, [row(name)])
    assert [found[0] for found in await stored(db)] == ["fourth", "third"]


async def test_nothing_is_committed_beside_a_change_that_failed_later_though_somebody_passed_over_it(
    db: Database,
) -> None:
    async with db.write() as tx:
        await bulk.insert_rows(tx, things, [row("one")])
    with pytest.raises(DBAPIError):
        async with db.write() as tx:
            await bulk.insert_rows(tx, things, [row("one")])
            with pytest.raises(DBAPIError):
                await tx.execute(select(things))
            with suppress(DBAPIError):
                await bulk.insert_rows(tx, things, [row("two")])
    assert [found[0] for found in await stored(db)] == ["one"]


async def test_what_is_left_for_later_is_seen_by_the_next_statement_and_gone_with_a_rollback(db: Database) -> None:
    with pytest.raises(KeyError):
        async with db.write() as tx:
            await bulk.insert_rows(tx, things, [row("seen")])
            assert [found.name for found in await tx.execute(select(things))] == ["seen"]
            await bulk.insert_rows(tx, things, [row("unsent")])
            raise KeyError
    assert await stored(db) == []


async def test_rows_have_json_and_the_moment_of_the_database(url: str) -> None:
    tables = MetaData()
    noted = Table(
        "noted",
        tables,
        Column("name", String(40), primary_key=True),
        Column("told", Json),
        Column("list", Json, nullable=False),
        Column("at", UtcDateTime, nullable=False),
    )
    database = Database(url, clock=ManualClock(NOON))
    rows: list[dict[str, Any]] = [
        {"name": "a", "told": {"quote": "\" ' {} , \\ \u00e9", "none": None}, "list": []},
        {"name": "b", "told": None, "list": [1, "x"]},
    ]
    async with database.write() as tx:
        await tx.run_sync(tables.create_all)
        await bulk.insert_rows(tx, noted, rows, moment="at")
        await bulk.write_rows(tx, noted, [{"name": "b", "list": [{"y": 2}]}], match=("name",))
        await bulk.write_rows(tx, noted, [], match=("name",))
    async with database.read() as tx:
        found = [tuple(row) for row in await tx.execute(select(noted).order_by(noted.c.name))]
        empty = (await tx.execute(select(noted.c.name).where(noted.c.told.is_(None)))).scalars().all()
    assert found == [("a", rows[0]["told"], [], NOON), ("b", None, [{"y": 2}], NOON)]
    assert empty == ["b"], "None is no JSON null"
    await database.close()


async def test_sqlite_finds_some_rows_among_many_by_their_index(tmp_path: Path) -> None:
    database = Database(f"sqlite+aiosqlite:///{tmp_path / 'things.sqlite3'}")
    async with database.write() as tx:
        await tx.run_sync(metadata.create_all)
        for condition in (bulk.among(things.c.name, ["a"]), bulk.among(things.c.name, ["a"]) & (things.c.count == 1)):
            sql = str(select(things).where(condition).compile(dialect=tx.dialect))
            values = ("[]", 1)[: sql.count("?")]
            plan = (await tx.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values)).all()
            assert any("SEARCH things USING INDEX" in step.detail for step in plan), plan
    await database.close()
