"""How schemas come up to date. Alembic is imported only when a database is behind.

A service's migrations are a package with a folder `versions` of files such as `0001_first.py`. A file's digits are its
revision, so that the newest one is known without importing anything.
"""

from __future__ import annotations

import asyncio
import importlib.util
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection, Index, MetaData, inspect, text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.schema import CreateSchema, SchemaItem

from service_kit.database import Database
from service_kit.errors import FailedPrecondition
from service_kit.later_indexes import build_later_indexes
from service_kit.storage_errors import opening_database

_ENVIRONMENT = Path(__file__).parent / "alembic_environment"
_REVISION = re.compile(r"(\d{4})_\w+\.py")
# How long a process waits while another one migrates, and a migration for a table that is in use.
_TURN = "60s"
_TABLE_LOCK = "10s"
_HAS_SCHEMA = text("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = :name)")


async def ensure_schema(db: Database, package: str) -> str | None:
    """Bring a service's schema up to date, and say in a sentence what is wrong with a database that cannot be used.

    Returns:
        The revision that was reached, or None when there was nothing to do.

    Raises:
        FailedPrecondition: the schema is newer than this release, or the file cannot be used; nothing was changed.
        Unavailable: PostgreSQL cannot be reached.
    """
    with opening_database(db.url.render_as_string()):
        return await upgrade(db, package)


async def upgrade(db: Database, package: str, *, to: str | None = None) -> str | None:
    """Apply the migrations that are missing, after a copy of a SQLite file that has any already.

    On PostgreSQL any number of processes may do this at once: one of them migrates, and the others wait for it.

    Args:
        db: the service's database.
        package: its migrations.
        to: the revision to stop at; the newest without one.

    Returns:
        The revision that was reached, or None when there was nothing to do.

    Raises:
        FailedPrecondition: the schema is newer than this release; nothing was changed.
    """
    newest = to or newest_revision(package)
    stored = await stored_revision(db)
    check_not_newer(db, stored, newest)
    if stored == newest:
        await _finish(db, package, newest)
        return None
    if stored is not None and db.is_sqlite and db.url.database:
        await asyncio.to_thread(_copy_file, Path(db.url.database), stored)
    async with db.write() as tx:
        if not db.is_sqlite:
            await _take_turn(db, tx)
            # Another process may have done it meanwhile.
            stored = await tx.run_sync(_revision)
            check_not_newer(db, stored, newest)
        if stored != newest:
            await tx.run_sync(_run_alembic, package, newest)
    await _finish(db, package, newest)
    return None if stored == newest else newest


async def _finish(db: Database, package: str, reached: str) -> None:
    """Build what is built beside whoever uses the tables, once they are as this release has them."""
    if reached == newest_revision(package):
        await build_later_indexes(db, package)


def check_not_newer(db: Database, stored: str | None, newest: str) -> None:
    """Raise FailedPrecondition when a schema is newer than this release."""
    if stored is not None and stored > newest:
        raise FailedPrecondition(
            f"The database {db.url.render_as_string()} was made by a newer release: "
            f"it has schema {stored}, and this release knows {newest}. "
            "Start the newer release, or use another data folder."
        )


async def _take_turn(db: Database, tx: AsyncConnection) -> None:
    """Wait for the one lock under which processes migrate a schema, make the schema, and lift the limits on time.

    The lock goes with the transaction, so a process that dies leaves nothing behind.
    """
    for name, value in (
        ("lock_timeout", _TURN),
        ("statement_timeout", "0"),
        ("idle_in_transaction_session_timeout", "0"),
    ):
        await tx.execute(text(f"SET LOCAL {name} = '{value}'"))
    await db.lock(tx, "migration")
    # A table that is in use must not make everybody queue behind its migration.
    await tx.execute(text(f"SET LOCAL lock_timeout = '{_TABLE_LOCK}'"))
    # Not IF NOT EXISTS alone: that asks for the right to create schemas even when there is nothing to create.
    if db.schema and not (await tx.execute(_HAS_SCHEMA, {"name": db.schema})).scalar_one():
        await tx.execute(CreateSchema(db.schema))


def newest_revision(package: str) -> str:
    """Return the newest revision that a package of migrations has."""
    revisions = [match[1] for path in _versions(package).iterdir() if (match := _REVISION.fullmatch(path.name))]
    if not revisions:
        raise ValueError(f"{package} has no migrations")
    return max(revisions)


async def stored_revision(db: Database) -> str | None:
    """Return the revision that a database has; None when it is empty."""
    async with db.read() as tx:
        return await tx.run_sync(_revision)


async def schema_differences(db: Database, package: str, metadata: MetaData) -> list[str]:
    """Migrate an empty database and say how its schema differs from tables; [] when they agree. For tests."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    await upgrade(db, package)

    def compare(connection: Connection) -> list[str]:
        words = _full_text_indexes(connection)

        def is_ours(thing: SchemaItem, name: str | None, kind: str, reflected: bool, other: object) -> bool:
            if isinstance(thing, Index) and connection.dialect.name == "sqlite":
                return not thing.dialect_options["postgresql"]["using"]
            return kind != "table" or not reflected or not words or not (name or "").startswith(words)

        context = MigrationContext.configure(connection, opts={"compare_type": True, "include_object": is_ours})
        return [repr(difference) for difference in compare_metadata(context, metadata)]

    async with db.write() as tx:
        return await tx.run_sync(compare)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def _full_text_indexes(connection: Connection) -> tuple[str, ...]:
    """Return the names of SQLite's full-text indexes: no metadata can tell of them, nor of the tables behind them."""
    if connection.dialect.name != "sqlite":
        return ()
    query = text("SELECT name FROM sqlite_master WHERE sql LIKE 'CREATE VIRTUAL TABLE%'")
    return tuple(connection.execute(query).scalars())


def _versions(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"there is no package {package}")
    return Path(next(iter(spec.submodule_search_locations))) / "versions"


def _copy_file(path: Path, revision: str) -> None:
    """Copy a SQLite file with what its write-ahead log holds, under a name that tells the revision it has."""
    target = path.with_name(f"{path.name}.before-{revision}")
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(partial)) as copy:
        source.backup(copy)
    shutil.copymode(path, partial)
    partial.replace(target)


def _run_alembic(connection: Connection, package: str, revision: str) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_ENVIRONMENT).replace("%", "%%"))
    config.set_main_option("version_locations", str(_versions(package)).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
