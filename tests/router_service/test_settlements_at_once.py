"""Two replicas at once: every settlement is told, once, and by another when its replica has died."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from router_service.domain import JobState
from router_service.settlement import Postponed, Refused
from tests.router_service.replicas import WAIT_S, House


# --- settlements ------------------------------------------------------------------------------------------------------
async def test_replicas_that_settle_at_once_tell_of_every_job_once(house: House) -> None:
    refs = [await house.running() for _ in range(10)]
    await asyncio.gather(*(house.one.record(ref) for ref in refs))
    sent = await asyncio.gather(house.one.settlement.send_due(), house.other.settlement.send_due())
    assert sum(sent) == 10
    assert sorted(house.assets.settled) == sorted(ref.job_id for ref in refs)
    for ref in refs:
        assert (await house.one.events(ref.job_id))[-2:] == [JobState.PUBLISHING, JobState.SUCCEEDED]


async def test_what_a_replica_claimed_that_died_is_sent_by_another_when_its_time_is_over(house: House) -> None:
    ref = await house.running()
    await house.one.record(ref)
    house.assets.gate.clear()
    dying = asyncio.ensure_future(house.one.settlement.send_due())
    await house.claimed()
    dying.cancel()
    await asyncio.wait([dying])
    house.assets.gate.set()
    assert await house.other.settlement.send_due() == 0
    house.clock.advance(timedelta(seconds=3))
    assert await house.other.settlement.send_due() == 1
    assert (await house.one.job(ref.job_id)).state is JobState.SUCCEEDED


async def test_what_is_handed_over_is_sent_without_being_found_due(house: House) -> None:
    running = asyncio.ensure_future(house.one.settlement.run())
    try:
        ref = await house.running()
        await house.one.record(ref)
        async with asyncio.timeout(WAIT_S):
            # The clock stands still, so that nothing that is claimed becomes due.
            await house.assets.told.wait()
    finally:
        running.cancel()
        await asyncio.wait([running])
    assert house.assets.settled == [ref.job_id]


async def test_what_was_handed_over_in_a_replica_that_died_is_sent_by_another(house: House) -> None:
    claimed = house.one.service.claimed
    claimed.open()
    ref = await house.running()
    await house.one.record(ref)
    assert await house.other.settlement.send_due() == 0
    claimed.close()
    house.clock.advance(timedelta(seconds=3))
    assert await house.other.settlement.send_due() == 1
    assert (await house.one.job(ref.job_id)).state is JobState.SUCCEEDED


async def test_a_claim_holds_as_long_as_its_answer_is_due(house: House) -> None:
    ref = await house.running()
    await house.one.record(ref)
    house.assets.gate.clear()
    slow = asyncio.ensure_future(house.one.claiming_for(timedelta(milliseconds=30)).send_due())
    await house.claimed()
    for _ in range(3):
        house.clock.advance(timedelta(milliseconds=29))
        await house.claimed(within=timedelta(milliseconds=29))
        assert await house.other.settlement.send_due() == 0
    house.assets.gate.set()
    assert await slow == 1
    assert house.assets.settled == [ref.job_id]


async def test_a_settlement_that_two_replicas_sent_ends_the_job_once(house: House) -> None:
    ref = await house.running()
    await house.one.record(ref)
    house.assets.gate.clear()
    # So slow that it does not come to renew its claim.
    first = asyncio.ensure_future(house.one.claiming_for(timedelta(minutes=5)).send_due())
    await house.claimed()
    house.clock.advance(timedelta(minutes=5))
    second = asyncio.ensure_future(house.other.settlement.send_due())
    await house.claimed()
    house.assets.gate.set()
    await asyncio.gather(first, second)
    assert house.assets.settled == [ref.job_id, ref.job_id]
    assert (await house.one.events(ref.job_id)).count(JobState.SUCCEEDED) == 1


async def test_a_refused_settlement_ends_its_job_and_no_other(house: House) -> None:
    refused, postponed, good = [(await house.running()).job_id for _ in range(3)]
    for ref in list(next(iter(house.one.service.sessions)).held.values()):
        await house.one.record(ref)
    house.assets.answers = {refused: Refused("no such owner"), postponed: Postponed("busy")}
    assert await house.one.settlement.send_due() == 2
    states = {job_id: (await house.one.job(job_id)).state for job_id in (refused, postponed, good)}
    assert states == {refused: JobState.FAILED, postponed: JobState.PUBLISHING, good: JobState.SUCCEEDED}
    failure = (await house.one.job(refused)).failure
    assert failure is not None
    assert failure.message == "The outputs could not be published: no such owner"
    house.assets.answers = {}
    house.clock.advance(timedelta(seconds=1))
    assert await house.one.settlement.send_due() == 1
    assert (await house.one.job(postponed)).state is JobState.SUCCEEDED


async def test_a_settlement_that_breaks_the_whole_call_is_told_by_itself(house: House) -> None:
    refs = [await house.running() for _ in range(4)]
    await asyncio.gather(*(house.one.record(ref) for ref in refs))
    house.assets.breaks = {refs[2].job_id}
    assert await house.one.settlement.send_due() == 4
    states = [(await house.one.job(ref.job_id)).state for ref in refs]
    assert states == [JobState.SUCCEEDED, JobState.SUCCEEDED, JobState.FAILED, JobState.SUCCEEDED]
