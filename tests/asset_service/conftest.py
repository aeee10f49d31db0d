"""A running asset service for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service_kit.clock import ManualClock
from tests.asset_service.harness import Harness, running


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    """Return what `core.database_url` is told: empty for SQLite, or a migrated PostgreSQL."""
    backend = getattr(request, "param", "sqlite")
    return "" if backend == "sqlite" else str(request.getfixturevalue("migrated_postgres_url"))


@pytest.fixture
def clock() -> ManualClock:
    """Return the clock that the service and its database follow."""
    return ManualClock()


@pytest.fixture
async def harness(tmp_path: Path, clock: ManualClock, database_url: str) -> AsyncIterator[Harness]:
    """Run the service."""
    async with running(tmp_path, clock, core__database_url=database_url) as harness:
        yield harness
