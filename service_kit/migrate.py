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

from sqlalchemy import Connection, MetaData, inspect, text

from service_kit.database import Database
from service_kit.errors import FailedPrecondition
from service_kit.storage_errors import opening_database

_ENVIRONMENT = Path(__file__).parent / "alembic_environment"
_REVISION = re.compile(r"(\d{4})_\w+\.py")


async def ensure_schema(db: Database, package: str) -> None:
    """Bring a service's schema up to date at its start.

    Raises:
        FailedPrecondition: the schema is newer than this release, or the file cannot be used; nothing was changed.
    """
    with opening_database(db.url.render_as_string()):
        await upgrade(db, package)


async def upgrade(db: Database, package: str) -> str | None:
    """Apply the migrations that are missing, after a copy of a SQLite file that has any already.

    Returns:
        The revision that was reached, or None when there was nothing to do.

    Raises:
        FailedPrecondition: the schema is newer than this release; nothing was changed.
    """
    newest = newest_revision(package)
    stored = await stored_revision(db)
    if stored == newest:
        return None
    if stored is not None and stored > newest:
        raise FailedPrecondition(
            f"The database {db.url.render_as_string()} was made by a newer release: "
            f"it has schema {stored}, and this release knows {newest}. "
            "Start the newer release, or use another data folder."
        )
    if stored is not None and db.is_sqlite and db.url.database:
        await asyncio.to_thread(_copy_file, Path(db.url.database), stored)
    async with db.write() as tx:
        await tx.run_sync(_run_alembic, package)
    return newest


def newest_revision(package: str) -> str:
    """Return the newest revision that a package of migrations has."""
    revisions = [match[1] for path in _versions(package).iterdir() if (match := _REVISION.fullmatch(path.name))]
    if not revisions:
        raise ValueError(f"{package} has no migrations")
    return max(revisions)


async def stored_revision(db: Database) -> str | None:
    """Return the revision that a database has; None when it is empty."""
    async with db.read() as tx:
        if not await tx.run_sync(lambda connection: inspect(connection).has_table("alembic_version")):
            return None
        return (await tx.execute(text("SELECT version_num FROM alembic_version"))).scalar_one_or_none()


async def schema_differences(db: Database, package: str, metadata: MetaData) -> list[str]:
    """Migrate an empty database and say how its schema differs from tables; [] when they agree. For tests."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    await upgrade(db, package)

    def compare(connection: Connection) -> list[str]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return [repr(difference) for difference in compare_metadata(context, metadata)]

    async with db.write() as tx:
        return await tx.run_sync(compare)


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


def _run_alembic(connection: Connection, package: str) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_ENVIRONMENT).replace("%", "%%"))
    config.set_main_option("version_locations", str(_versions(package)).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
