"""A house for the model, on a loop of its own."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

import asset_service.__main__
from service_kit import crash
from tests.model import processes
from tests.model.house import Probe, open_house
from tests.model.machine import Machine

Opens = Callable[[str], type[Machine]]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opens]:
    """Give what opens a house on a database, by its URL, and returns the machine that lives in it."""
    monkeypatch.setattr(asset_service.__main__, "Probe", Probe)
    monkeypatch.setattr(crash, "reach", processes.reach)
    with asyncio.Runner() as runner:
        runner.get_loop().set_task_factory(processes.task_factory)
        stack = AsyncExitStack()

        def opens(database_url: str) -> type[Machine]:
            house = runner.run(open_house(tmp_path, stack, database_url=database_url))
            return type("Example", (Machine,), {"house": house, "loop": runner, "seen": Counter()})

        yield opens
        runner.run(stack.aclose())
