"""Two replicas at once: a stage is leased once, and nobody waits for what the other one has in hand."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import replace

import pytest

from router_service.domain import JobState
from router_service.generation_domain import Format
from router_service.registry_domain import ConnectedWorker
from router_service.sessions import Session
from router_service.storage.limits import Allowance
from router_service.storage.queue import Candidate, Queue, QueueKey
from tests.router_service.replicas import ANN, House, request


# --- leasing ----------------------------------------------------------------------------------------------------------
async def test_replicas_that_lease_at_once_lease_every_stage_once(house: House) -> None:
    made = {job.job_id for job in await asyncio.gather(*(house.one.submit() for _ in range(40)))}
    sessions = [house.one.connect("one", free=25), house.other.connect("two", free=25)]
    rounds = [replica.service.dispatch.lease_waiting() for _ in range(3) for replica in (house.one, house.other)]
    assert sum(await asyncio.gather(*rounds)) == 40
    held = [ref.job_id for session in sessions for ref in session.held.values()]
    assert sorted(held) == sorted(made)
    assert {ref.fence for session in sessions for ref in session.held.values()} == {1}
    async with house.one.service.storage.read() as tx:
        leases = [*await tx.leases.find_held("key/one"), *await tx.leases.find_held("key/two")]
    assert sorted(lease.ref.job_id for lease in leases) == sorted(made)


async def test_rounds_of_two_pools_lease_no_more_of_an_owner_than_may_run(house: House) -> None:
    async with house.one.service.storage.write() as tx:
        await tx.limits.put(ANN, Allowance(running_jobs=1))
    await house.one.submit()
    video = replace(request(None, "x"), model="wan", format=Format.VIDEO)
    await house.other.service.admission.admit(video, await house.other.service.registry.table(), ANN)
    house.one.connect("one", free=1)
    house.other.connect("two", free=1, worker_type="wan")
    async with house.nothing_committed():
        first = asyncio.ensure_future(house.one.service.dispatch.lease_waiting())
        await house.queued_up(1)
        second = asyncio.ensure_future(house.other.service.dispatch.lease_waiting())
        await house.queued_up(2)
    assert (await first, await second) == (1, 0)


async def test_what_somebody_else_has_locked_is_passed_over_not_waited_for(house: House) -> None:
    locked, free = await house.one.submit(), await house.one.submit()
    session = house.one.connect("one", free=5)
    async with house.locked(locked.job_id):
        assert await house.one.service.dispatch.lease_waiting() == 1
    assert list(session.held) == [free.job_id]
    assert await house.one.service.dispatch.lease_waiting() == 1


async def test_a_free_slot_wakes_the_leasing_unless_the_last_round_left_nothing(house: House) -> None:
    session = house.one.connect("one", free=8)
    dispatch, wake = house.one.service.dispatch, house.one.service.signals.queue

    async def round_with(free: int) -> int:
        session.credits = free + len(session.unacknowledged)
        return await dispatch.lease_waiting()

    def wakes(said_by: Session) -> bool:
        wake.clear()
        dispatch.slots_changed(said_by)
        return wake.is_set()

    await house.one.submit()
    await house.one.submit()
    assert await round_with(free=1) == 1
    assert wakes(session), "one waits still"
    assert await round_with(free=2) == 1
    assert not wakes(session), "nothing waits"
    elsewhere = Session(replace(session.worker, holder="key/two", session="another", worker_types=("video",)))
    assert wakes(elsewhere), "what it takes was not looked for"
    await house.one.submit()
    assert await round_with(free=0) == 0
    assert wakes(session), "something came while no slot was free"
    assert await round_with(free=2) == 1
    assert not wakes(session), "that one is leased"


async def test_a_job_that_came_to_wait_in_another_pool_is_not_leased_to_this_one(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between look and lock, another replica may record the stage that was seen: the job then waits for its next."""
    job = await house.one.submit()
    session = Session(ConnectedWorker("key/chat", "chat's session", ("chat",), (), 1, (), ""))
    session.credits = 1
    house.one.service.sessions.add(session)
    find = Queue.find_candidates

    async def as_it_was(self: Queue, keys: Collection[QueueKey], *, each: int) -> list[Candidate]:
        now = await find(self, {replace(key, worker_type="sdxl") for key in keys}, each=each)
        return [replace(candidate, worker_type="chat") for candidate in now]

    with monkeypatch.context() as patch:
        patch.setattr(Queue, "find_candidates", as_it_was)
        assert await house.one.service.dispatch.lease_waiting() == 0
    assert (await house.one.job(job.job_id)).state is JobState.QUEUED
    house.one.connect("one", free=1)
    assert await house.one.service.dispatch.lease_waiting() == 1
