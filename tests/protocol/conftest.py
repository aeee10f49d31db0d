"""A system for each test, and a worker of each kind: the bare one of these tests, and the runtime that is shipped."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from tests.protocol.harness import BareSubject, Gate, RuntimeSubject, Subject, System, running_system

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _engines_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "workers")]))


@pytest_asyncio.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    """Give a system with one router, `a`."""
    async with running_system(tmp_path) as running:
        await running.start_router()
        yield running


@pytest_asyncio.fixture
async def replicas(tmp_path: Path, migrated_postgres_url: str) -> AsyncIterator[System]:
    """Give a system with two routers on one PostgreSQL, `a` and `b`."""
    async with running_system(tmp_path, migrated_postgres_url) as running:
        await running.start_router("a")
        await running.start_router("b")
        yield running


@pytest_asyncio.fixture(params=[BareSubject, RuntimeSubject], ids=["bare", "runtime"])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    """Give a worker that is not started yet."""
    made: Subject = request.param()
    yield made
    await made.kill()


@pytest.fixture
def gate(tmp_path: Path) -> Callable[[], Gate]:
    """Make gates at which work waits."""
    made: list[Gate] = []

    def make() -> Gate:
        made.append(Gate(tmp_path / f"gate-{len(made)}"))
        return made[-1]

    return make
