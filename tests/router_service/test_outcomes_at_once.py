"""Two replicas at once: an outcome beside its repeat, a cancel, the reaper or a deadline. The second sees the first."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from unittest.mock import AsyncMock

import pytest

from router_service.domain import JobState
from router_service.recording import DUPLICATE, RECORDED, STALE
from router_service.storage.queue import Queue
from service_kit.errors import AtelierError, ErrorReason, FailedPrecondition
from tests.router_service.replicas import ANN, TTL, House


# --- outcomes, against everything else --------------------------------------------------------------------------------
async def test_of_two_repeats_at_once_one_is_recorded_and_the_other_is_its_duplicate(house: House) -> None:
    ref = await house.running()
    said = await house.in_order(ref.job_id, house.one.record(ref), house.other.record(ref))
    assert said == [RECORDED, DUPLICATE]
    assert await house.one.events(ref.job_id) == [JobState.QUEUED, JobState.RUNNING, JobState.PUBLISHING]


async def test_of_two_outcomes_at_once_the_second_is_stale(house: House) -> None:
    ref = await house.running()
    second = house.other.record(ref, completion_id="d")
    assert await house.in_order(ref.job_id, house.one.record(ref), second) == [RECORDED, STALE]


@pytest.mark.parametrize("cancel_first", [False, True])
async def test_a_cancel_beside_an_outcome(house: House, cancel_first: bool) -> None:
    ref = await house.running()
    cancel, record = house.other.service.ending.cancel(ref.job_id, ANN), house.one.record(ref)
    if cancel_first:
        cancelled, status = await house.in_order(ref.job_id, cancel, record)
        assert (cancelled.state, status) == (JobState.CANCELLED, STALE)
    else:
        status, refused = await house.in_order(ref.job_id, record, cancel)
        assert status == RECORDED
        assert isinstance(refused, FailedPrecondition)
        assert refused.reason is ErrorReason.TOO_LATE
    assert (await house.one.job(ref.job_id)).state is (JobState.CANCELLED if cancel_first else JobState.PUBLISHING)


async def test_an_outcome_that_is_being_recorded_is_not_reaped(house: House) -> None:
    ref = await house.running()
    house.clock.advance(TTL + timedelta(seconds=1))
    async with house.locked(ref.job_id):
        # Its row is in somebody's hands, so the reaper passes on.
        assert await house.other.service.dispatch.take_back_expired(ack_timeout=TTL) == 0
    assert await house.one.record(ref) == RECORDED
    assert await house.other.service.dispatch.take_back_expired(ack_timeout=TTL) == 0


async def test_an_outcome_that_comes_right_after_the_reaper_still_counts_once(house: House) -> None:
    ref = await house.running()
    house.clock.advance(TTL + timedelta(seconds=1))
    reaped = [replica.service.dispatch.take_back_expired(ack_timeout=TTL) for replica in (house.one, house.other)]
    assert sum(await asyncio.gather(*reaped)) == 1
    assert (await house.one.job(ref.job_id)).state is JobState.QUEUED
    house.other.connect("two", free=1)
    record, leased = await asyncio.gather(house.one.record(ref), house.other.service.dispatch.lease_waiting())
    assert (record, leased) in {(RECORDED, 0), (STALE, 1)}


async def test_a_lease_that_is_renewed_under_the_reapers_eyes_is_kept(house: House) -> None:
    ref = await house.running()
    house.clock.advance(TTL + timedelta(seconds=1))
    rules = {"lease_ttl": TTL, "ack_timeout": TTL}
    async with house.third().write() as tx:
        assert await tx.leases.find_expired(**rules, limit=9) == [ref.job_id]
        (session,) = house.one.service.sessions
        assert await house.one.service.dispatch.renew(session, [ref]) == ([], [])
        assert await tx.leases.lock_expired([ref.job_id], **rules) == {}


@pytest.mark.parametrize("deadline_first", [False, True])
async def test_a_deadline_beside_an_outcome(house: House, deadline_first: bool) -> None:
    ref = await house.running()
    house.clock.advance(timedelta(hours=1))
    if deadline_first:
        assert await house.other.service.ending.fail_overdue() == 1
        assert await house.one.record(ref) == STALE
        assert (await house.one.job(ref.job_id)).state is JobState.FAILED
        return
    async with house.locked(ref.job_id):
        record = asyncio.ensure_future(house.one.record(ref))
        await house.queued_up(1)
        assert await house.other.service.ending.fail_overdue() == 0, "it is in somebody's hands"
    assert await record == RECORDED
    assert await house.other.service.ending.fail_overdue() == 0


async def test_a_deadline_looks_again_under_the_lock(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    refs = {"recorded": await house.running(), "overdue": await house.running()}
    assert await house.one.record(refs["recorded"]) == RECORDED
    found = AsyncMock(return_value=[ref.job_id for ref in refs.values()])
    monkeypatch.setattr(Queue, "find_overdue", found)
    assert await house.one.service.ending.fail_overdue() == 0, "neither is overdue"
    house.clock.advance(timedelta(hours=1))
    assert await house.one.service.ending.fail_overdue() == 1
    states = {name: (await house.one.job(ref.job_id)).state for name, ref in refs.items()}
    assert states == {"recorded": JobState.PUBLISHING, "overdue": JobState.FAILED}


async def test_a_deadline_ends_a_job_once_whoever_looks(house: House) -> None:
    refs = [await house.running() for _ in range(3)]
    house.clock.advance(timedelta(hours=1))
    ended = [replica.service.ending.fail_overdue() for replica in (house.one, house.other)]
    assert sum(await asyncio.gather(*ended)) == 3
    for ref in refs:
        assert (await house.one.events(ref.job_id))[-1:] == [JobState.FAILED]
        assert (await house.one.events(ref.job_id)).count(JobState.FAILED) == 1


async def test_acknowledgements_and_outcomes_of_the_same_leases_never_wait_in_a_circle(house: House) -> None:
    refs = [await house.running(acknowledged=False) for _ in range(12)]
    (session,) = house.one.service.sessions
    for ref in reversed(refs):
        house.one.service.dispatch.acknowledge(session, ref)
    acks = [house.one.service.acknowledgements.flush()]
    renewals = [house.one.service.dispatch.renew(session, refs)]
    records = [house.other.record(ref) for ref in refs]
    done = await asyncio.gather(*acks, *renewals, *records)
    assert done[len(acks) + 1 :] == [RECORDED] * 12
    async with house.one.service.storage.read() as tx:
        assert await tx.leases.find_held("key/one") == []


async def test_a_job_that_changed_is_not_overwritten(house: House) -> None:
    job = await house.one.submit()
    async with house.one.service.storage.write() as tx:
        await tx.jobs.save([(job, replace(job, version=2))])
    with pytest.raises(AtelierError):
        async with house.other.service.storage.write() as tx:
            await tx.jobs.save([(job, replace(job, version=2))])
