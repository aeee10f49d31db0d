"""Workspace and library against the sentences of their promises, with crashes between any two durable steps."""

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
from tests.model.house import Probe
from tests.workspace_model.house import open_house
from tests.workspace_model.machine import Machine

# How long to look, and from where; CONTRIBUTING.md tells of these. Without a seed every run is the same.
EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "6"))
STEPS = int(os.environ.get("MODEL_STEPS", "30"))
SEED = os.environ.get("MODEL_SEED", "")
SHRINKS = bool(os.environ.get("MODEL_SHRINKS"))


def test_whatever_happens_no_item_is_without_its_blob_and_no_blob_without_its_row(
    tmp_path: Path, migrated_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asset_service.__main__, "Probe", Probe)
    monkeypatch.setattr(crash, "reach", processes.reach)
    with asyncio.Runner() as runner:
        runner.get_loop().set_task_factory(processes.task_factory)
        stack = AsyncExitStack()
        house = runner.run(open_house(tmp_path, stack, database_url=migrated_postgres_url))
        machine = type("Example", (Machine,), {"house": house, "loop": runner, "seen": Counter()})
        if SEED:
            seed(int(SEED))(machine)
        try:
            run_state_machine_as_test(
                machine,
                settings=settings(
                    max_examples=EXAMPLES,
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
            for counted in (vars(machine)["seen"], house.deaths):
                print(sorted(counted.items()))
