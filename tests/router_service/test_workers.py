"""Workers as the router sees them: how they come and go, what they take, and what is said of them."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import grpc
import pytest

from atelier.router.v1 import job_pb2
from atelier.router.v1 import router_service_pb2 as pb
from atelier.worker.v1 import worker_service_pb2 as worker
from router_service.domain import JobState
from service_kit.paging import encode_page_token
from tests.router_service.support import Router, ScriptedWorker

DATABASES = ("sqlite", "postgresql")


async def test_a_worker_that_drains_gets_no_more_and_finishes_what_it_has(router: Router) -> None:
    one = await router.worker("one")
    first = await router.submit()
    lease = await one.take()
    await one.say(drain=worker.Drain())
    await one.heartbeat(lease)
    second = await router.submit()
    other = await router.worker("other")
    assert (await other.take()).ref.job_id == second.job_id
    assert await one.deliver(lease) == "recorded"
    assert (await router.ended(first.job_id)).state == job_pb2.JOB_STATE_SUCCEEDED


async def test_a_router_that_stops_asks_its_workers_to_connect_again(router: Router) -> None:
    one = await router.worker()
    accepted = await router.submit()
    lease = await one.take()
    stopping = asyncio.create_task(router.service.server.stop())
    await one.hear("drain")
    assert (await one.hear("reconnect")).reconnect.within.ToTimedelta() > timedelta(0)
    await stopping
    async with router.service.storage.read() as tx:
        job = await tx.jobs.get(accepted.job_id)
    # What it holds stays its own: it names the lease when it is back.
    assert job is not None
    assert (job.state, job.fence) == (JobState.RUNNING, lease.ref.fence)


async def test_the_first_request_of_a_session_must_be_hello(router: Router) -> None:
    key = router.service.rings.read_key_file("worker.key").reveal()
    channel = await router.channel_with(key, router.target)
    session = ScriptedWorker(channel, router)
    await session.say(credits=worker.Credits(free=1))
    assert await session.end() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_missing_worker_is_visible_and_says_what_to_start(router: Router) -> None:
    accepted = await router.submit()
    stage = (await router.job(accepted.job_id)).stages[0]
    assert "No worker of type sdxl is connected" in stage.waits_for
    assert f"--connect {router.target}" in stage.waits_for
    models = {model.name: model for model in (await router.jobs.ListModels(pb.ListModelsRequest())).models}
    assert models["sdxl"].connected_workers == 0
    one = await router.worker(worker_types=["sdxl"], free=0)
    models = {model.name: model for model in (await router.jobs.ListModels(pb.ListModelsRequest())).models}
    assert (models["sdxl"].connected_workers, models["sdxl"].free_slots, models["sdxl"].hint) == (1, 4, "")
    assert models["wan"].connected_workers == 0
    await one.disconnect()


async def test_an_operator_sees_the_workers_and_what_is_written_on_them(router: Router) -> None:
    one = await router.worker("attic", worker_types=["sdxl"], models=["sdxl"], labels={"room": "attic"}, version="9")
    await router.submit()
    await one.heartbeat(await one.take())
    await router.service.reaper.refresh_pools()
    (seen,) = (await router.jobs.ListWorkers(pb.ListWorkersRequest())).workers
    assert (seen.name, dict(seen.labels), seen.version) == ("attic", {"room": "attic"}, "9")
    assert (list(seen.worker_types), list(seen.models), seen.slots, seen.leases) == (["sdxl"], ["sdxl"], 4, 1)
    assert seen.key_id
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await (await router.stubs_of("ada")).ListWorkers(pb.ListWorkersRequest())
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_workers_come_in_pages_that_no_other_worker_moves(router: Router) -> None:
    workers = {name: await router.worker(name, worker_types=["sdxl"]) for name in ("cellar", "attic", "barn")}
    await router.service.reaper.refresh_pools()
    whole = await router.jobs.ListWorkers(pb.ListWorkersRequest())
    assert ([worker.name for worker in whole.workers], whole.next_page_token) == (["attic", "barn", "cellar"], "")
    first = await router.jobs.ListWorkers(pb.ListWorkersRequest(page_size=2))
    assert [worker.name for worker in first.workers] == ["attic", "barn"]
    # The last of the page goes, and so does one before it.
    for name in ("attic", "barn"):
        await workers[name].disconnect()
    await router.service.reaper.refresh_pools()
    rest = await router.jobs.ListWorkers(pb.ListWorkersRequest(page_size=2, page_token=first.next_page_token))
    assert ([worker.name for worker in rest.workers], rest.next_page_token) == (["cellar"], "")
    for token in ("nothing", encode_page_token("router.workers", [1]), encode_page_token("router.jobs", ["a"])):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await router.jobs.ListWorkers(pb.ListWorkersRequest(page_token=token))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_job_that_waits_for_a_busy_worker_says_so(router: Router) -> None:
    one = await router.worker(slots=1, free=1)
    await router.submit()
    await one.take()
    waiting = await router.submit()
    await router.service.reaper.refresh_pools()
    stage = (await router.job(waiting.job_id)).stages[0]
    assert stage.waits_for == "All workers of type sdxl are busy; 1 waiting."
    other = await router.worker("two", slots=4, free=0)
    stage = (await router.job(waiting.job_id)).stages[0]
    assert stage.waits_for == "A worker of type sdxl is free; it starts in a moment, if no limit holds it."
    await other.disconnect()


async def test_no_more_is_leased_than_the_worker_said_it_takes(router: Router) -> None:
    one = await router.worker(free=2)
    for _ in range(4):
        await router.submit()
    leases = [await one.take(), await one.take()]
    # The next thing that the router says is the answer, not a third lease, also after a round.
    assert not (await one.heartbeat(*leases)).lost
    assert await router.service.dispatch.lease_waiting() == 0
    assert not (await one.heartbeat(*leases)).lost
    await one.say(credits=worker.Credits(free=1))
    leases.append(await one.take())
    assert not (await one.heartbeat(*leases)).lost
    assert await router.service.dispatch.lease_waiting() == 0
    assert not (await one.heartbeat(*leases)).lost
