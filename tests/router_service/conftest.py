"""A router, two replicas of one, or its identities, for every test that asks for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest
import pytest_asyncio

from router_service.__main__ import Service
from router_service.storage.metadata import metadata
from service_kit import settings as kit_settings
from service_kit.channels import connect
from service_kit.clock import ManualClock
from service_kit.database import Database
from service_kit.database_clock import DatabaseClock
from tests.router_service.desk import Desk
from tests.router_service.replicas import Assets, House, Replica
from tests.router_service.support import Router, running_router


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of a module on the databases that it names in DATABASES; on SQLite without."""
    if "router" in metafunc.fixturenames:
        metafunc.parametrize("router", getattr(metafunc.module, "DATABASES", ("sqlite",)), indirect=True)


@pytest_asyncio.fixture
async def router(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Router]:
    """Give a running router beside an asset service."""
    url = request.getfixturevalue("migrated_postgres_url") if request.param == "postgresql" else ""
    async with running_router(tmp_path, **{"core.database_url": url}) as running:
        yield running


@pytest_asyncio.fixture
async def house(tmp_path: Path, migrated_postgres_url: str) -> AsyncIterator[House]:
    """Give two replicas that do nothing by themselves."""
    clock, assets = ManualClock(datetime.now(UTC)), Assets()
    settings = kit_settings.for_tests(tmp_path, **{"core.database_url": migrated_postgres_url})
    async with AsyncExitStack() as stack:
        replicas = []
        for _ in range(2):
            db = await Database.open_service(settings, "router", clock=clock)
            stack.push_async_callback(db.close)
            channel = connect("127.0.0.1:1")
            stack.push_async_callback(channel.close)
            replicas.append(Replica(Service(settings, db, DatabaseClock(db), channel), assets))
        third = Database(migrated_postgres_url, schema="router", clock=clock)
        stack.push_async_callback(third.close)
        yield House(replicas[0], replicas[1], assets, clock, third)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    desk = Desk(tmp_path)
    async with desk.db.write() as tx:
        await tx.run_sync(metadata.create_all)
    yield desk
    await desk.db.close()
