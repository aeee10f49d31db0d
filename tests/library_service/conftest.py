"""A house with a library, for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.library_service.house import ADA, House, picture


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        house = House(tmp_path, stack)
        await house.start()
        yield house


@pytest.fixture
async def asset_id(house: House) -> str:
    [asset_id] = await house.make_job(ADA, [(picture("red"), picture("red", format="WEBP"))])
    return asset_id
