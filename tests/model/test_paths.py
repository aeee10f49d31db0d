"""Paths that the model takes too rarely to rely on; each step of them is checked as all of its steps are."""

from __future__ import annotations

from datetime import timedelta

import pytest

from router_service.domain import JobState, OutputState
from service_kit.errors import ErrorReason
from tests.model.conftest import Opens
from tests.model.house import ACK_TIMEOUT, LEASE_TTL, MAX_ATTEMPTS, MAX_LEASES
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


def test_a_stage_that_fails_is_begun_so_often_and_no_more(model: Opens) -> None:
    machine = model("")()
    machine.begin([8], False)
    for _ in range(MAX_ATTEMPTS):
        machine.house.clock.advance(timedelta(seconds=5))
        machine.step(machine.lease_round(machine.router(0)))
        machine.step(machine.say_outcome(*taken(machine), "retryable"))
        machine.step(machine.workers[0].credit(SLOTS))
    job = machine.state.jobs[machine.jobs[0]]
    assert (job.state, job.current.attempt) == (JobState.FAILED, MAX_ATTEMPTS)
    machine.teardown()


@pytest.mark.parametrize("result", ["good", "permanent"])
@pytest.mark.parametrize(("kind", "goes_on"), [(1, True), (2, False)])
def test_a_job_goes_on_with_its_enhancement_or_without_if_its_owner_says_so(
    model: Opens, result: str, kind: int, goes_on: bool
) -> None:
    machine = model("")()
    machine.begin([kind], False)
    machine.step(machine.settle_due([machine.router(0)]))
    machine.step(machine.lease_round(machine.router(0)))
    machine.step(machine.say_outcome(*taken(machine), result))
    job = machine.state.jobs[machine.jobs[0]]
    assert (job.state is JobState.QUEUED) == (goes_on or result == "good")
    machine.teardown()


@pytest.mark.parametrize("fault", ["", "lost", "unanswered", "repeated", "late"])
def test_a_job_with_an_undeclared_output_and_a_bad_line_to_the_workspace_ends_once(model: Opens, fault: str) -> None:
    machine = model("")()
    machine.begin([8], False)
    machine.step(machine.lease_round(machine.router(0)))
    machine.step(machine.say_outcome(*taken(machine), "undeclared"))
    machine.house.hop.faults = [fault] if fault else []
    machine.step(machine.settle_due([machine.router(0)]))
    assert (machine.state.jobs[machine.jobs[0]].state is JobState.SUCCEEDED) == (fault in ("", "repeated"))
    machine.teardown()
    assert machine.state.jobs[machine.jobs[0]].state is JobState.SUCCEEDED


def test_an_output_that_the_store_has_lost_fails_at_its_index(model: Opens) -> None:
    machine = model("")()
    machine.begin([8, 8, 8], False)
    machine.step(machine.lease_round(machine.router(0)))
    worker, leased = next(
        (worker, each) for worker in machine.workers for each in worker.leases.values() if each.quantity > 1
    )
    machine.step(machine.say_outcome(worker, leased, "good"))
    receipt = machine.house.capabilities.verify_receipt(leased.receipts[0])
    machine.watcher.lost.add(receipt.key)
    del machine.house.blobs.files[receipt.bucket, receipt.key]
    machine.step(machine.settle_due([machine.router(0)]))
    job = machine.state.jobs[leased.ref[0]]
    assert [output.state for output in job.outputs] == [OutputState.FAILED, OutputState.DELIVERED]
    assert job.state is JobState.SUCCEEDED
    machine.teardown()


@pytest.mark.parametrize("runs", [False, True])
def test_a_job_that_is_cancelled_stays_so_and_delivers_nothing(model: Opens, runs: bool) -> None:
    machine = model("")()
    machine.begin([8], runs)
    [job_id] = machine.jobs
    for _ in range(2):
        machine.step(machine.cancel_job(machine.router(0), machine.state.jobs[job_id]))
    assert machine.state.entry("settle", job_id) is not None
    machine.step(machine.settle_due([machine.router(0)]))
    assert machine.state.entry("settle", job_id) is None
    assert machine.state.jobs[job_id].state is JobState.CANCELLED
    machine.teardown()


def test_a_batch_of_which_one_picture_came_says_what_became_of_the_other(model: Opens) -> None:
    machine = model("")()
    machine.begin([8, 8], True)
    worker, leased = next(
        (worker, each) for worker in machine.workers for each in worker.leases.values() if each.quantity > 1
    )
    machine.step(machine.say_outcome(worker, leased, "partial"))
    recorded = machine.state.jobs[leased.ref[0]]
    assert recorded.state is JobState.PUBLISHING
    assert [output.state for output in recorded.outputs] == [OutputState.DELIVERED, OutputState.FAILED]
    machine.step(machine.settle_due([machine.router(0)]))
    assert machine.state.jobs[leased.ref[0]].delivered == 1
    machine.teardown()
