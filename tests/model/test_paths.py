"""Paths that the model takes too rarely to rely on; each step of them is checked as all of its steps are."""

from __future__ import annotations

from datetime import timedelta

import pytest

from router_service.domain import JobState
from service_kit.errors import ErrorReason
from tests.model.conftest import Opens
from tests.model.house import ACK_TIMEOUT, LEASE_TTL, MAX_LEASES
from tests.model.machine import Machine
from tests.model.workers import SLOTS, Leased, Worker
from tests.model.world import TICK, Work


def test_a_client_that_repeats_itself_has_one_job_and_one_hold(model: Opens) -> None:
    machine = model("")()
    machine.begin([8], False)
    for _ in range(2):
        machine.step(machine.send([machine.router(0)], 0, 3, 0))
    assert len(machine.jobs) == 2
    assert len(machine.state.holds) == 1
    machine.teardown()


def test_an_ack_of_an_old_lease_says_nothing_of_the_new_one(model: Opens) -> None:
    machine = model("")()
    machine.begin([8], False)
    machine.step(machine.lease_round(machine.router(0)))
    first = taken(machine)
    machine.house.clock.advance(ACK_TIMEOUT + TICK)
    machine.step(machine.reap(0, 1, 0))
    machine.step(machine.lease_round(machine.router(0)))
    second = taken(machine)
    assert first[0] is not second[0]
    machine.step(machine.say_started(*first))
    assert not machine.state.leases[machine.jobs[0]].acknowledged
    machine.teardown()


@pytest.mark.parametrize("how", ["handed back", "stopped"])
def test_a_stage_that_nobody_brings_to_an_end_is_leased_so_often_and_no_more(model: Opens, how: str) -> None:
    machine = model("")()
    machine.begin([8], False)
    for _ in range(MAX_LEASES):
        machine.step(machine.lease_round(machine.router(0)))
        worker, leased = taken(machine)
        machine.step(give_back(machine, worker, leased, how))
        machine.step(worker.credit(SLOTS))
    job = machine.state.jobs[machine.jobs[0]]
    assert job.state is JobState.FAILED
    assert job.failure is not None
    assert job.failure.reason is ErrorReason.ATTEMPTS_EXHAUSTED
    machine.teardown()


def give_back(machine: Machine, worker: Worker, leased: Leased, how: str) -> Work:
    """End a lease without any result."""
    return machine.hand_back(worker, leased) if how == "handed back" else machine.say_outcome(worker, leased, how)


def test_a_router_that_has_just_started_believes_nobody_lost(model: Opens) -> None:
    machine = model("")()
    machine.begin([8], True)
    job_id = machine.jobs[0]
    machine.house.clock.advance(timedelta(seconds=20))
    machine.router(0).process.kill()
    machine.step(machine.discard_reference(0, 0, 0))
    machine.house.clock.advance(LEASE_TTL - timedelta(seconds=10))
    machine.step(machine.reap(0, 1, 0))
    assert machine.state.jobs[job_id].state is JobState.RUNNING
    machine.house.clock.advance(timedelta(seconds=11))
    machine.step(machine.reap(0, 1, 0))
    assert machine.state.jobs[job_id].state is JobState.QUEUED
    machine.teardown()


def taken(machine: Machine) -> tuple[Worker, Leased]:
    """Return the lease that was given, and who has it."""
    found = machine.lease(0)
    assert found is not None
    return found
