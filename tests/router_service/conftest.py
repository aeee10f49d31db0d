"""A router for every test that asks for one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.router_service.support import Router, running_router


@pytest_asyncio.fixture
async def router(tmp_path: Path) -> AsyncIterator[Router]:
    """Give a running router beside an asset service."""
    async with running_router(tmp_path) as running:
        yield running
