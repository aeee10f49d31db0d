"""The storages of all services on both databases, and a record of what the tests call."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
import pytest_asyncio
from psycopg import sql

import asset_service.storage
import library_service.storage
import router_service.storage
from service_kit.clock import ManualClock
from service_kit.database import Database
from service_kit.migrate import upgrade
from tests.storage.exercised import BACKENDS, Recorder, storage_classes
from tests.support.postgres import SERVICES, Databases, metadata_of
from tests.support.shipped_models import CHAT, SHIPPED

_RECORDER = Recorder()
_LAST = "test_exercised.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ask what was exercised when everything else has run."""
    items.sort(key=lambda item: item.path.name == _LAST and item.path.parent == Path(__file__).parent)


@pytest.fixture(scope="session")
def recorder() -> Iterator[Recorder]:
    with _RECORDER.recording(storage_classes()):
        yield _RECORDER


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, recorder: Recorder) -> str:
    """The database that a test runs on; each test runs on both."""
    recorder.backend = request.param
    return str(request.param)


@pytest.fixture
def clock() -> ManualClock:
    """What both databases take for the time."""
    return ManualClock()


@pytest.fixture(scope="session")
def sqlite_templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a migrated file for each service, to be copied."""
    folder = tmp_path_factory.mktemp("templates")

    async def migrate() -> None:
        for service in SERVICES:
            db = Database(f"sqlite+aiosqlite:///{folder / service}.sqlite3")
            await upgrade(db, f"{service}_service.storage.migrations")
            await db.close()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, migrate()).result()
    return folder


@pytest.fixture(scope="session")
def shared_url(postgres: Databases) -> Iterator[str]:
    """Give one migrated database to all tests, each of which finds it empty: a copy costs more than most tests."""
    url = postgres.create()
    yield url
    postgres.drop(url)


def empty(url: str) -> None:
    """Delete what a test wrote; what the migrations wrote stays."""
    tables = [
        f"{service}.{table.name}" for service in SERVICES for table in reversed(metadata_of(service).sorted_tables)
    ]
    kept = {f"{service}.event_source" for service in SERVICES}
    rows = dict.fromkeys(("router.models", "router.chat_models"), " WHERE name <> ALL (%(shipped)s)")
    with psycopg.connect(url, options="-c lock_timeout=5000") as connection:
        for table in tables:
            if table not in kept:
                statement = sql.SQL(f"DELETE FROM {table}{rows.get(table, '')}")
                connection.execute(statement, {"shipped": [row["name"] for row in (*SHIPPED, *CHAT)]})


@pytest_asyncio.fixture
async def open_database(
    request: pytest.FixtureRequest, backend: str, clock: ManualClock, tmp_path: Path
) -> AsyncIterator[Callable[[str], Database]]:
    """Give what opens a service's database, migrated and empty; called again it opens the same one once more."""
    opened: list[Database] = []

    def open_it(service: str) -> Database:
        if backend == "postgresql":
            db = Database(request.getfixturevalue("shared_url"), schema=service, clock=clock)
        else:
            path = tmp_path / f"{service}.sqlite3"
            if not path.exists():
                shutil.copyfile(request.getfixturevalue("sqlite_templates") / path.name, path)
            db = Database(f"sqlite+aiosqlite:///{path}", clock=clock)
        opened.append(db)
        return db

    # What is asked for in a running loop must be there already.
    prepared = request.getfixturevalue("shared_url" if backend == "postgresql" else "sqlite_templates")
    yield open_it
    for db in opened:
        await db.close()
    if backend == "postgresql":
        await asyncio.to_thread(empty, prepared)


@pytest.fixture
def router(open_database: Callable[[str], Database]) -> router_service.storage.Storage:
    return router_service.storage.Storage(open_database("router"))


@pytest.fixture
def asset_(open_database: Callable[[str], Database]) -> asset_service.storage.Storage:
    return asset_service.storage.Storage(open_database("asset"))


@pytest.fixture
def library(open_database: Callable[[str], Database]) -> library_service.storage.Storage:
    return library_service.storage.Storage(open_database("library"))
