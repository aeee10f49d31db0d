"""Schemas: made, brought up to date after a copy, compared, and refused when they are newer."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, text

from service_kit.database import Database, Json, UtcDateTime
from service_kit.errors import FailedPrecondition
from service_kit.events.log import EventLog
from service_kit.migrate import ensure_schema, newest_revision, schema_differences, stored_revision, upgrade

SECOND = """
from alembic import op
revision = "0002"
down_revision = "0001"
def upgrade():
    op.execute("ALTER TABLE things ADD COLUMN colour VARCHAR")
    op.execute("INSERT INTO things (name) VALUES ('new')")
    {more}
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A copy of the example migrations, as a package that a test may add to."""
    name = f"migrations_{tmp_path.name.replace('-', '_')}"
    shutil.copytree(Path(__file__).parent / "example_migrations", tmp_path / name)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/x.sqlite3")
    yield database
    await database.close()


def add_second(tmp_path: Path, package: str, more: str = "") -> None:
    (tmp_path / package / "versions" / "0002_second.py").write_text(SECOND.format(more=more))


def names(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("SELECT name FROM things")]


async def test_an_empty_database_gets_the_newest_schema_and_then_stays(db: Database, package: str) -> None:
    assert await stored_revision(db) is None
    assert await upgrade(db, package) == "0001"
    assert await stored_revision(db) == newest_revision(package) == "0001"
    assert await upgrade(db, package) is None


async def test_the_file_is_copied_before_it_is_changed(db: Database, package: str, tmp_path: Path) -> None:
    await ensure_schema(db, package)
    async with db.write() as tx:
        await tx.execute(text("INSERT INTO things (name) VALUES ('old')"))
    add_second(tmp_path, package)
    await ensure_schema(db, package)
    assert names(tmp_path / "x.sqlite3") == ["old", "new"]
    assert names(tmp_path / "x.sqlite3.before-0001") == ["old"]


async def test_a_migration_that_fails_leaves_the_schema_as_it_was(db: Database, package: str, tmp_path: Path) -> None:
    await ensure_schema(db, package)
    add_second(tmp_path, package, more="raise RuntimeError('broken')")
    with pytest.raises(RuntimeError, match="broken"):
        await ensure_schema(db, package)
    assert await stored_revision(db) == "0001"
    assert names(tmp_path / "x.sqlite3") == []
    async with db.read() as tx:
        columns = (await tx.execute(text("SELECT name FROM pragma_table_info('things')"))).scalars()
        assert "colour" not in list(columns)


async def test_a_newer_schema_is_refused_in_a_sentence(db: Database, package: str, tmp_path: Path) -> None:
    add_second(tmp_path, package)
    await ensure_schema(db, package)
    (tmp_path / package / "versions" / "0002_second.py").unlink()
    with pytest.raises(FailedPrecondition, match=r"newer release: it has schema 0002, and this release knows 0001\."):
        await ensure_schema(db, package)


async def test_differences_between_tables_and_migrations_are_named(db: Database, package: str) -> None:
    def tables(*more: Column[str]) -> MetaData:
        metadata = MetaData()
        EventLog(metadata)
        columns = Column("name", String, nullable=False), Column("due_at", UtcDateTime), Column("extra", Json)
        Table("things", metadata, Column("id", Integer, primary_key=True), *columns, *more)
        return metadata

    assert await schema_differences(db, package, tables()) == []
    [difference] = await schema_differences(db, package, tables(Column("colour", String)))
    assert "colour" in difference


async def test_a_schema_that_is_up_to_date_costs_no_alembic(db: Database, package: str, tmp_path: Path) -> None:
    await ensure_schema(db, package)
    script = f"""
import asyncio, sys
from service_kit.database import Database
from service_kit.migrate import ensure_schema
async def main():
    db = Database("sqlite+aiosqlite:///{tmp_path}/x.sqlite3")
    await ensure_schema(db, "{package}")
    await db.close()
asyncio.run(main())
sys.exit("alembic was imported" if "alembic" in sys.modules else 0)
"""
    paths = f"{tmp_path}:{Path(__file__).parents[2]}"
    subprocess.run([sys.executable, "-c", script], check=True, env={"PYTHONPATH": paths})  # noqa: ASYNC221


@pytest.mark.parametrize("content", [b"hello " * 1000, b"SQLite format 3\0" + b"\xff" * 8000])
async def test_a_file_that_is_damaged_is_refused_in_a_sentence(
    db: Database, package: str, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "x.sqlite3").write_bytes(content)
    with pytest.raises(FailedPrecondition, match="restore the data folder from a backup"):
        await ensure_schema(db, package)


async def test_a_file_that_cannot_be_opened_is_refused_in_a_sentence(package: str, tmp_path: Path) -> None:
    before = set(threading.enumerate())
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/nowhere/x.sqlite3")
    try:
        with pytest.raises(FailedPrecondition, match="cannot be opened or written"):
            await ensure_schema(database, package)
    finally:
        await database.close()
        # The driver does not wait for the thread of a connection that it could not open, which still needs the loop.
        for thread in set(threading.enumerate()) - before:
            if "_connection_worker_thread" in thread.name:
                await asyncio.to_thread(thread.join)
