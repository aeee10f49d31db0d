"""A router for every test that asks for one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

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
