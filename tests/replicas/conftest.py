"""Two replicas of a router on one PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.router_service.support import WAIT_S, Router, running_replicas


@pytest_asyncio.fixture
async def replicas(tmp_path: Path, migrated_postgres_url: str) -> AsyncIterator[tuple[Router, Router]]:
    """Give two routers that know of each other."""
    async with running_replicas(tmp_path, 2, **{"core.database_url": migrated_postgres_url}) as (one, other):
        async with asyncio.timeout(WAIT_S):
            while one.service.exchange.alone or other.service.exchange.alone:  # noqa: ASYNC110 - nothing tells it
                await asyncio.sleep(0.001)
        yield one, other
