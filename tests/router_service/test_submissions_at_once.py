"""Two replicas at once: of equal submissions one makes a job, whichever comes second."""

from __future__ import annotations

import asyncio

from router_service.domain import JobState
from router_service.storage.jobs import Wanted
from service_kit.errors import Aborted, ErrorReason
from tests.router_service.replicas import ANN, House


# --- submissions ------------------------------------------------------------------------------------------------------
async def test_one_key_makes_one_job_however_many_submit_it_at_once(house: House) -> None:
    submits = [replica.submit(key="k") for _ in range(16) for replica in (house.one, house.other)]
    jobs = await asyncio.gather(*submits)
    assert len({job.job_id for job in jobs}) == 1
    async with house.one.service.storage.read() as tx:
        assert len(await tx.jobs.find_page(ANN, Wanted(), limit=10)) == 1
    assert await house.other.events(jobs[0].job_id) == [JobState.QUEUED]


async def test_keys_that_come_in_opposite_orders_wait_for_each_other_and_never_in_a_circle(house: House) -> None:
    keys = [f"k{number}" for number in range(32)]
    here = [house.one.submit(key=key) for key in keys]
    there = [house.other.submit(key=key) for key in reversed(keys)]
    jobs = await asyncio.gather(*here, *there)
    assert len({job.job_id for job in jobs}) == 32


async def test_retries_without_a_key_at_two_replicas_at_once_are_one_job(house: House) -> None:
    await house.one.submit(prompt="a harbour")
    async with house.nothing_committed():
        first = asyncio.ensure_future(house.one.submit(is_retry=True))
        await house.queued_up(1)
        second = asyncio.ensure_future(house.other.submit(is_retry=True))
        await house.queued_up(2)
    assert (await first).job_id == (await second).job_id
    submits = [replica.submit(prompt="x", is_retry=True) for _ in range(16) for replica in (house.one, house.other)]
    assert len({job.job_id for job in await asyncio.gather(*submits)}) == 1


async def test_a_retry_waits_for_the_equal_submission_that_is_on_its_way(house: House) -> None:
    await house.one.submit(prompt="a harbour")
    async with house.nothing_committed():
        first = asyncio.ensure_future(house.one.submit())
        await house.queued_up(1)
        retry = asyncio.ensure_future(house.other.submit(is_retry=True))
        await house.queued_up(2)
    assert (await first).job_id == (await retry).job_id
    in_one_batch = await asyncio.gather(house.one.submit(prompt="x"), house.one.submit(prompt="x", is_retry=True))
    assert len({job.job_id for job in in_one_batch}) == 1
    deliberate = await asyncio.gather(*(replica.submit(prompt="y") for replica in (house.one, house.other)))
    assert len({job.job_id for job in deliberate}) == 2


async def test_a_key_with_another_request_is_refused_wherever_it_comes(house: House) -> None:
    submits = [house.one.submit(key="k"), house.other.submit(key="k", prompt="a harbour")]
    results = await asyncio.gather(*submits, return_exceptions=True)
    (refused,) = [result for result in results if isinstance(result, Aborted)]
    assert refused.reason is ErrorReason.IDEMPOTENCY_KEY_REUSED
