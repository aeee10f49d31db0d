"""Paths of leases that the model takes too rarely to rely on; each step of them is checked as all of its steps are."""

from __future__ import annotations

from router_service.domain import JobState
from tests.model.conftest import Opens
from tests.model.house import ACK_TIMEOUT, LEASE_TTL
from tests.model.machine import Machine
from tests.model.workers import SLOTS, Leased, Worker
from tests.model.world import TICK


def test_what_waits_for_its_references_is_not_leased(model: Opens) -> None:
    machine = model("")()
    machine.begin([4], False)
    machine.step(machine.lease_round(machine.router(0)))
    assert machine.state.jobs[machine.jobs[0]].state is JobState.QUEUED
    machine.step(machine.settle_due([machine.router(0)]))
    machine.step(machine.lease_round(machine.router(0)))
    assert machine.state.jobs[machine.jobs[0]].state is JobState.RUNNING
    machine.teardown()


def test_who_lost_a_lease_to_another_can_do_nothing_under_it(model: Opens) -> None:
    machine = model("")()
    machine.begin([8], False)
    one, first = given(machine)
    lose(machine)
    other, second = given(machine)
    assert one is not other
    assert second.ref[2] == first.ref[2] + 1
    for leased in (first, second):
        machine.step(machine._heartbeat(one, [leased.ref]))
        machine.step(machine.say_outcome(one, leased, "good"))
        machine.step(machine.hand_back(one, leased))
        assert second.ref[0] in machine.state.leases
    machine.step(machine.say_outcome(other, second, "good"))
    assert machine.state.jobs[second.ref[0]].state is JobState.PUBLISHING
    machine.teardown()


def test_who_has_a_lease_again_can_do_nothing_under_the_one_before(model: Opens) -> None:
    machine = model("")()
    machine.begin([8], False)
    machine.step(machine.workers[1].credit(0))
    one, first = given(machine)
    lose(machine)
    machine.step(one.credit(SLOTS))
    again, second = given(machine)
    assert again is one
    machine.step(machine._heartbeat(one, [first.ref]))
    machine.step(machine.say_outcome(one, first, "good"))
    machine.step(machine.hand_back(one, first))
    assert second.ref[0] in machine.state.leases
    machine.teardown()


def test_who_hands_a_lease_back_gets_nothing_before_it_asks(model: Opens) -> None:
    machine = model("")()
    machine.begin([8], False)
    machine.step(machine.workers[1].credit(0))
    worker, leased = given(machine)
    machine.step(machine.say_started(worker, leased))
    assert machine.state.jobs[leased.ref[0]].current.attempt == 1
    machine.step(machine.hand_back(worker, leased))
    assert machine.state.jobs[leased.ref[0]].current.attempt == 0
    machine.step(machine.lease_round(machine.router(0)))
    assert machine.state.jobs[leased.ref[0]].state is JobState.QUEUED
    machine.teardown()


def test_who_comes_back_has_what_it_names_and_nothing_else(model: Opens) -> None:
    machine = model("")()
    machine.begin([8, 8], True)
    worker, kept = next((each, leased) for each in machine.workers for leased in each.leases.values())
    machine.step(machine._connect(worker, machine.router(0), [kept.ref]))
    assert {row.job_id for row in machine.state.leases.values() if row.holder == worker.holder} == {kept.ref[0]}
    machine.step(machine._connect(worker, machine.router(0), []))
    assert machine.state.jobs[kept.ref[0]].state is JobState.QUEUED
    machine.teardown()


def test_what_was_lost_may_be_kept_by_its_holder_and_by_nobody_else(model: Opens) -> None:
    machine = model("")()
    machine.begin([8], True)
    worker, leased = taken(machine)
    machine.house.clock.advance(LEASE_TTL + TICK)
    machine.step(machine.reap(0, 1, 0))
    assert machine.state.jobs[leased.ref[0]].state is JobState.QUEUED
    [other] = [each for each in machine.workers if each is not worker]
    machine.step(machine.say_outcome(other, leased, "good"))
    machine.step(machine._connect(other, machine.router(0), [leased.ref]))
    assert machine.state.jobs[leased.ref[0]].state is JobState.QUEUED
    worker.leases[leased.ref] = leased
    machine.step(machine._connect(worker, machine.router(0), [leased.ref]))
    assert machine.state.jobs[leased.ref[0]].state is JobState.RUNNING
    machine.step(machine.say_outcome(worker, leased, "good"))
    assert machine.state.jobs[leased.ref[0]].state is JobState.PUBLISHING
    machine.teardown()


def given(machine: Machine) -> tuple[Worker, Leased]:
    """Have the only job leased. Returns the lease, and who has it."""
    machine.step(machine.lease_round(machine.router(0)))
    return taken(machine)


def taken(machine: Machine) -> tuple[Worker, Leased]:
    """Return the lease that was given, and who has it."""
    found = machine.lease(0)
    assert found is not None
    return found


def lose(machine: Machine) -> None:
    """Let nobody acknowledge in time."""
    machine.house.clock.advance(ACK_TIMEOUT + TICK)
    machine.step(machine.reap(0, 1, 0))
