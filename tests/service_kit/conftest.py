"""Servers for every test that asks for one, and the ways to them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from tests.service_kit.serving import House
from tests.service_kit.wires import Wires


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    await house.server.start()
    yield house
    await house.server.stop()


@pytest.fixture
async def impatient(tmp_path: Path) -> AsyncIterator[House]:
    """Only for who is to be too slow: a busy machine makes others so."""
    house = House(tmp_path, limit=timedelta(milliseconds=300))
    await house.server.start()
    yield house
    await house.server.stop()


@pytest.fixture(params=["grpc", "near"])
async def wires(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Wires]:
    wires = Wires(tmp_path, near=request.param == "near")
    await wires.server.start()
    try:
        yield wires
    finally:
        await wires.server.stop()


@pytest.fixture
async def channel(wires: Wires) -> AsyncIterator[grpc.aio.Channel]:
    async with wires.bare() as channel:
        yield channel
