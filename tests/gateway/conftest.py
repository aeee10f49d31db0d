"""A gateway on a free port in front of stand-in services, all over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from gateway.__main__ import Gateway, compose
from service_kit.clock import SystemClock
from service_kit.server import Running
from service_kit.settings import Settings, for_tests
from tests.gateway.fakes import Behaviour, Services


@dataclass
class World:
    """The gateway, what stands behind it, and a client."""

    settings: Settings
    services: Services
    behaviour: Behaviour
    gateway: Gateway
    running: Running
    http: httpx.AsyncClient

    @property
    def port(self) -> int:
        return int(self.running.target.rpartition(":")[2])


MakeWorld = Callable[..., Awaitable[World]]


async def _start(folder: Path, **changes: Any) -> World:
    behaviour = Behaviour()
    services = Services(for_tests(folder), SystemClock(), behaviour)
    settings = for_tests(folder, **{**await services.start(), **changes})
    gateway = compose(settings)
    running = await gateway.start()
    http = httpx.AsyncClient(base_url=f"http://{running.target}", timeout=10, trust_env=False)
    return World(settings, services, behaviour, gateway, running, http)


async def _stop(world: World) -> None:
    await world.http.aclose()
    await asyncio.gather(world.running.stop(), world.services.stop())


@pytest.fixture
async def make_world(tmp_path: Path) -> AsyncIterator[MakeWorld]:
    made: list[World] = []

    async def make(**changes: Any) -> World:
        made.append(await _start(tmp_path, **changes))
        return made[-1]

    yield make
    for world in made:
        await _stop(world)


@pytest.fixture
async def world(make_world: MakeWorld) -> World:
    return await make_world()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def standing_world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """One gateway for all tests of a module that break nothing; `same_world` forgets what the test before did."""
    made = await _start(tmp_path_factory.mktemp("gateway"))
    yield made
    await _stop(made)


@pytest.fixture
def same_world(standing_world: World) -> World:
    standing_world.behaviour.reset()
    standing_world.http.cookies.clear()
    return standing_world
