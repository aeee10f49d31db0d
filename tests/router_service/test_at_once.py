"""A job that nobody is before is leased in the transaction that accepts it; any other waits its turn."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from unittest import mock

from atelier.router.v1 import job_pb2
from atelier.router.v1 import router_service_pb2 as pb
from router_service.domain import Job, JobState
from tests.router_service.support import WAIT_S, Router, ScriptedWorker

DATABASES = ("sqlite", "postgresql")


async def alone(router: Router, **hello: Any) -> ScriptedWorker:
    """Let no round run any more, as if it never had its turn, and connect a worker whose credits are known."""
    await router.service.tasks.stop_one("router.leasing")
    one = await router.worker(**hello)
    await one.heartbeat()
    return one


async def state(router: Router, job_id: str) -> JobState:
    return (await _job(router, job_id)).state


async def test_a_job_for_a_free_slot_never_waits(router: Router) -> None:
    one = await alone(router)
    with router.service.dispatch.leasing():
        accepted = await router.submit()
    assert accepted.state == job_pb2.JOB_STATE_QUEUED
    lease = await one.take()
    assert (lease.ref.job_id, lease.ref.fence, lease.attempt) == (accepted.job_id, 1, 1)
    owner = (await _job(router, accepted.job_id)).owner
    async with router.service.storage.read() as tx:
        told = [event.job.state for event in await tx.events.find_after(0, owner=owner)]
    assert told == [JobState.QUEUED, JobState.RUNNING]
    assert await one.deliver(lease) == "recorded"
    assert (await router.ended(accepted.job_id)).state == job_pb2.JOB_STATE_SUCCEEDED


async def test_what_waits_goes_first(router: Router) -> None:
    await router.service.tasks.stop_one("router.leasing")
    older = (await router.submit()).job_id
    one = await router.worker(free=1)
    await one.heartbeat()
    with router.service.dispatch.leasing():
        younger = (await router.submit()).job_id
    assert await state(router, younger) is JobState.QUEUED
    assert await router.service.dispatch.lease_waiting() == 1
    assert (await one.take()).ref.job_id == older


async def test_without_slots_for_all_of_them_jobs_wait_their_turn(router: Router) -> None:
    """More jobs at once than there are slots: a round decides who is next, by what owners are due."""
    await alone(router, free=1)
    with router.service.dispatch.leasing():
        both = await asyncio.gather(router.submit(), router.submit())
        third = await router.submit()
    states = [await state(router, each.job_id) for each in (*both, third)]
    assert states.count(JobState.RUNNING) <= 1
    assert await router.service.dispatch.lease_waiting() == 1 - states.count(JobState.RUNNING)


async def test_a_job_whose_model_nobody_here_takes_waits(router: Router) -> None:
    await router.service.tasks.stop_one("router.leasing")
    one = await router.worker(models=["another"])
    await one.heartbeat()
    with router.service.dispatch.leasing():
        assert await state(router, (await router.submit()).job_id) is JobState.QUEUED


async def test_an_enhancement_is_leased_at_once_to_whoever_enhances(router: Router) -> None:
    await router.service.tasks.stop_one("router.leasing")
    talks = await router.worker("talks", models=["chat"], stages=[job_pb2.STAGE_KIND_CHAT])
    await talks.heartbeat()
    with router.service.dispatch.leasing():
        assert await state(router, (await router.submit(enhancement_only=True, format=None)).job_id) is JobState.QUEUED
    one = await router.worker("one", models=["another"])
    await one.heartbeat()
    assert await router.service.dispatch.lease_waiting() == 1
    with router.service.dispatch.leasing():
        assert await state(router, (await router.submit(enhancement_only=True, format=None)).job_id) is JobState.RUNNING


async def test_a_repeat_is_not_leased_again(router: Router) -> None:
    one = await alone(router)
    with router.service.dispatch.leasing():
        first, again = await asyncio.gather(*(router.submit(idempotency_key="k") for _ in range(2)))
    assert first.job_id == again.job_id
    assert (await one.take()).ref.job_id == first.job_id
    async with router.service.storage.read() as tx:
        assert len(await tx.leases.find_held((await _job(router, first.job_id)).holder)) == 1


async def test_a_lease_that_was_committed_and_never_sent_comes_back(router: Router) -> None:
    """A router that dies between the two leaves a lease that nobody has acknowledged."""
    one = await alone(router)
    service = router.service
    with service.dispatch.leasing(), mock.patch.object(service.dispatch, "hand_over"):
        job_id = (await router.submit()).job_id
    assert await state(router, job_id) is JobState.RUNNING
    router.clock.advance(timedelta(seconds=31))
    await service.dispatch.take_back_expired(ack_timeout=timedelta(seconds=5))
    assert await service.dispatch.lease_waiting() == 1
    lease = await one.take()
    assert (lease.ref.job_id, lease.ref.fence, lease.attempt) == (job_id, 2, 1)


async def test_a_bound_on_what_runs_is_kept(router: Router) -> None:
    """Only a round counts what an owner has running."""
    one = await alone(router)
    shares = router.service.shares
    router.service.dispatch._rounds._shares = type(shares).parse([], most_running=1)
    with router.service.dispatch.leasing():
        jobs = [(await router.submit()).job_id for _ in range(2)]
        await router.service.dispatch.lease_waiting()
    states = [await state(router, job_id) for job_id in jobs]
    assert states == [JobState.RUNNING, JobState.QUEUED]
    assert (await one.take()).ref.job_id == jobs[0]


async def test_a_watcher_sees_that_it_waited_and_that_it_runs(router: Router) -> None:
    one = await router.worker()
    await one.heartbeat()
    seen = []

    async def watch() -> None:
        async with asyncio.timeout(WAIT_S):
            async for told in router.jobs.WatchJobs(pb.WatchJobsRequest()):
                if told.HasField("state"):
                    seen.append(told.state.state)
                if told.HasField("snapshot"):
                    opened.set()
                if len(seen) == 2:
                    return

    opened = asyncio.Event()
    watching = asyncio.create_task(watch())
    await opened.wait()
    await router.submit()
    await watching
    assert seen == [job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_RUNNING]


async def _job(router: Router, job_id: str) -> Job:
    async with router.service.storage.read() as tx:
        return (await tx.jobs.find([job_id]))[job_id]
