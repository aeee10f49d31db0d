"""The model's processes die where they should, and nothing that they did not commit is left of them."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random

import pytest

from service_kit.identity import Owner
from tests.model.conftest import Opens
from tests.model.processes import Gone

ROOT = Path(__file__).resolve().parents[2]
STEPS = 600
# Not of the life of a job: real processes are killed there, in `test_killed_upkeep.py` and `test_kills.py`.
OTHERS = ("asset.copy_item.", "asset.erase.", "asset.renditions.", "asset.sweep.", "router.erase.", "router.webhooks.")


def test_a_process_dies_at_its_point_and_its_database_and_blobs_refuse_it(model: Opens) -> None:
    machine = model("")()
    machine.begin([8], False)
    router = machine.router(0)
    job_id = machine.jobs[0]

    async def cancel() -> None:
        with pytest.raises(Gone):
            await router.do(lambda service: service.ending.cancel(job_id, Owner("default", "ann")))
        assert not router.process.alive
        with pytest.raises(Gone):
            await router.do(lambda service: service.ending.cancel(job_id, Owner("default", "ann")))

    router.process.fuse = 1
    machine.step(cancel())
    assert router.process.died_at == "router.cancel.before_commit"
    assert machine.state.jobs[job_id].state.value == "queued", "what was not committed did not happen"
    assert machine.router(0) is not router
    machine.teardown()


def test_every_crash_point_of_a_job_is_a_place_to_die(model: Opens) -> None:
    sources = [path for part in ("router_service", "asset_service") for path in (ROOT / part).rglob("*.py")]
    points = {name for path in sources for name in re.findall(r'crash\.reach\("([^"]+)"\)', path.read_text())}
    points = {name for name in points if not name.startswith(OTHERS)}
    machine = model("")()
    machine.begin([3, 8, 1], True)
    dice, left = Random(1), points
    for _ in range(STEPS):
        for _ in machine.roll(dice):
            continue
        alive = [running.process.reached for running in machine.house.routers + machine.house.asset_services]
        reached = {name.partition(":")[2] for name in machine.house.reached}.union(*alive)
        left = points - reached
        if not left:
            break
    machine.teardown()
    assert not left, "the model never comes by there"
