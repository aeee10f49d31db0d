"""A running asset service for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service_kit.clock import ManualClock
from tests.asset_service.harness import Harness, running


@pytest.fixture
def clock() -> ManualClock:
    """Return the clock that the service and its database follow."""
    return ManualClock()


@pytest.fixture
async def harness(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Harness]:
    """Run the service."""
    async with running(tmp_path, clock) as harness:
        yield harness
