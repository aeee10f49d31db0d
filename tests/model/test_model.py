"""Router and asset service against the sentences of their protocol, with crashes between any two durable steps."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

import asset_service.__main__
from service_kit import crash
from tests.model import processes
from tests.model.house import Probe, open_house
from tests.model.machine import Machine

# How long to look, and from where; CONTRIBUTING.md tells of these. Without a seed every run is the same.
EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "0"))
STEPS = int(os.environ.get("MODEL_STEPS", "40"))
SEED = os.environ.get("MODEL_SEED", "")
# A failure is found in seconds and made small in minutes.
SHRINKS = bool(os.environ.get("MODEL_SHRINKS"))


def test_whatever_happens_every_accepted_job_ends_once(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asset_service.__main__, "Probe", Probe)
    monkeypatch.setattr(crash, "reach", processes.reach)
    with asyncio.Runner() as runner:
        runner.get_loop().set_task_factory(processes.task_factory)
        stack = AsyncExitStack()
        house = runner.run(open_house(tmp_path, stack, database_url=database_url))
        seen: Counter[str] = Counter()

        class Example(Machine):
            pass

        if SEED:
            seed(int(SEED))(Example)
        Example.house, Example.loop, Example.seen = house, runner, seen
        try:
            run_state_machine_as_test(
                Example,
                settings=settings(
                    max_examples=EXAMPLES or (8 if database_url else 16),
                    stateful_step_count=STEPS,
                    deadline=None,
                    derandomize=not SEED,
                    database=None,
                    phases=(Phase.generate, Phase.shrink) if SHRINKS else (Phase.generate,),
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(stack.aclose())
    if os.environ.get("MODEL_TELLS"):
        print(sorted(seen.items()), sorted(house.reached.items()), sorted(house.deaths.items()), sep="\n")
