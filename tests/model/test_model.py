"""Router and asset service against the sentences of their protocol, with crashes between any two durable steps."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.conftest import Opens

# How long to look, and from where; CONTRIBUTING.md tells of these. Without a seed every run is the same.
EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "0"))
STEPS = int(os.environ.get("MODEL_STEPS", "40"))
SEED = os.environ.get("MODEL_SEED", "")
# A failure is found in seconds and made small in minutes.
SHRINKS = bool(os.environ.get("MODEL_SHRINKS"))


def test_whatever_happens_every_accepted_job_ends_once(model: Opens, database_url: str) -> None:
    machine = model(database_url)
    if SEED:
        seed(int(SEED))(machine)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES or (6 if database_url else 12),
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=not SEED,
            database=None,
            phases=(Phase.generate, Phase.shrink) if SHRINKS else (Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )
    if os.environ.get("MODEL_TELLS"):
        for counted in (machine.seen, machine.house.reached, machine.house.deaths):
            print(sorted(counted.items()))
