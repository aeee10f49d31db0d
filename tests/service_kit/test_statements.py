"""Statements that are kept are executed without SQLAlchemy, and answer what it answers."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    Column,
    Executable,
    Integer,
    MetaData,
    String,
    Table,
    bindparam,
    delete,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.dialects.sqlite import dialect
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.exc import IntegrityError, StatementError

from service_kit.bulk import among
from service_kit.clock import ManualClock
from service_kit.database import Database, Json, UtcDateTime, db_now
from service_kit.statements import Answer, Plans

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
metadata = MetaData()
things = Table(
    "things",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String, unique=True),
    Column("due_at", UtcDateTime),
    Column("extra", Json),
    Column("made", String, default=lambda: "by Python"),
)
changing = Table(
    "changing",
    metadata,
    Column("name", String),
    Column("changed", String, onupdate=lambda: "by Python"),
)
_same = things.c.name == bindparam("this")
_put = upsert(things).on_conflict_do_update(index_elements=["name"], set_={"extra": bindparam("other", type_=Json)})
KEPT: dict[str, tuple[Executable, Any]] = {
    "rows": (select(things), None),
    "one column": (select(things.c.extra).where(_same), {"this": "a"}),
    "an expression": (select(func.count(), things.c.name.label("called")).group_by(things.c.name), None),
    "a default of a parameter": (select(things.c.id).where(things.c.id > bindparam("least", 1)), None),
    "a moment": (select(things.c.due_at).where(things.c.due_at <= db_now(plus=timedelta(seconds=1))), None),
    "a list as one value": (select(things.c.id).where(among(things.c.name, "names")), {"names": ["a", "c"]}),
    "a list of unknown length": (select(things.c.id).where(things.c.name.in_(["a", "b"])), None),
    "a value of the moment": (select(things.c.id).where(things.c.name == bindparam("n", callable_=lambda: "a")), None),
    "a value in the SQL": (
        select(things.c.id).where(things.c.name == bindparam("this", literal_execute=True)),
        {"this": "a"},
    ),
    "a default of a change": (update(changing).values(name="b"), None),
    "a limit": (select(things.c.id).order_by(things.c.id.desc()).limit(1), None),
    "text": (text("SELECT id, name, due_at FROM things WHERE name = :this"), {"this": "a"}),
    "text with types": (text("SELECT name, due_at, id FROM things").columns(due_at=UtcDateTime, extra=Json), None),
    "text with types by name": (text("SELECT id, due_at FROM things").columns(due_at=UtcDateTime, id=Integer), None),
    "a change": (update(things).where(_same).values(extra={"n": 1}), {"this": "b"}),
    "a change of many": (update(things).where(_same).values(due_at=bindparam("new")), [{"this": "a", "new": NOON}] * 2),
    "what was removed": (delete(things).where(_same).returning(things.c.id, things.c.due_at), {"this": "a"}),
    "what was put": (_put.returning(things.c.id, things.c.extra), {"name": "a", "made": "here", "other": [1]}),
}

NOT_OURS = ("a list of unknown length", "a value of the moment", "a value in the SQL", "a default of a change")


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/x.sqlite3", clock=ManualClock())
    async with database.write() as tx:
        await tx.run_sync(metadata.create_all)
        rows = [{"name": name, "due_at": NOON, "extra": {"a": name}, "made": "here"} for name in "abc"]
        await tx.execute(insert(things), rows)
        await tx.execute(insert(changing), {"name": "a"})
    yield database
    await database.close()


async def answer(db: Database, statement: Executable, parameters: Any) -> tuple[Any, ...]:
    """Return all that a statement answers, and undo it."""
    try:
        async with db.write() as tx:
            result = await tx.execute(statement, parameters)
            kind, count = isinstance(result, Answer), result.rowcount
            rows = result.all() if getattr(result, "returns_rows", True) else []
            raise _Undo([(tuple(row), row._asdict()) for row in rows], count, kind)
    except _Undo as undo:
        return undo.args


class _Undo(Exception):
    pass


@pytest.mark.parametrize("name", KEPT)
async def test_a_kept_statement_answers_the_second_time_what_sqlalchemy_answered_the_first(
    db: Database, name: str
) -> None:
    statement, parameters = KEPT[name]
    rows, count, is_ours = await answer(db, statement, parameters)
    assert not is_ours
    again, same, is_ours = await answer(db, statement, parameters)
    assert again == rows
    assert is_ours == (name not in NOT_OURS)
    if statement.is_update or statement.is_delete:
        assert same == count > 0


async def test_what_python_adds_and_what_many_insertions_return_stays_sqlalchemys(db: Database) -> None:
    made, returned = insert(things), insert(things).values(made="here").returning(things.c.name)
    for statement in (made, returned) * 2:
        assert not (await answer(db, statement, [{"name": "d"}, {"name": "e"}]))[2]
    # One that inserts alone is ours, also where many were inserted with the same names.
    rows, _, is_ours = await answer(db, returned, {"name": "d"})
    assert (rows, is_ours) == ([(("d",), {"name": "d"})], True)
    async with db.write() as tx:
        for name in "de":
            await tx.execute(made, {"name": name})
        assert (await tx.execute(select(things.c.made).where(things.c.name == "e"))).scalar_one() == "by Python"


async def test_columns_that_came_later_are_read_as_well(db: Database) -> None:
    kept = text("SELECT * FROM things")
    for _ in range(2):
        rows, _, is_ours = await answer(db, kept, None)
    assert is_ours
    assert "later" not in rows[0][1]
    async with db.write() as tx:
        await tx.execute(text("ALTER TABLE things ADD COLUMN later TEXT DEFAULT 'yes'"))
    rows, _, _ = await answer(db, kept, None)
    assert rows[0][1]["later"] == "yes"


async def test_errors_are_those_of_sqlalchemy_and_tell_no_values(db: Database) -> None:
    kept = insert(things).values(made="here")
    for _ in range(2):
        with pytest.raises(IntegrityError) as caught:
            async with db.write() as tx:
                await tx.execute(kept, {"name": "a"})
        assert "UNIQUE" in str(caught.value)
        assert "'a'" not in str(caught.value)
    for parameters in ({"due_at": datetime(2026, 3, 1)}, {"due_at": "noon"}) * 2:
        with pytest.raises(StatementError):
            async with db.write() as tx:
                await tx.execute(kept, parameters)
    needs = select(things).where(_same)
    for _ in range(3):
        with pytest.raises(StatementError, match="A value is required"):
            async with db.read() as tx:
                await tx.execute(needs)


def test_a_statement_that_is_gone_leaves_nothing() -> None:
    plans, sqlite = Plans(), dialect(paramstyle="qmark")
    statement = select(things)
    assert plans.find(statement, (), sqlite, many=False) is None
    assert plans.find(statement, (), sqlite, many=False) is not None
    del statement
    gc.collect()
    assert not plans._known
