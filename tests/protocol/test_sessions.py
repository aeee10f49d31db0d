"""A worker's sessions: the later one counts, here and at another replica; a router that goes down lets nobody in."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from atelier.router.v1 import job_pb2
from atelier.worker.v1 import worker_service_pb2 as pb
from tests.protocol.harness import GRACE, LIMIT_S, System, until
from tests.protocol.test_bad_workers import end_of, refused


async def test_a_later_session_ends_the_earlier(system: System) -> None:
    router = system.routers["a"]
    earlier = await router.worker("one")
    await router.submit()
    lease = await earlier.take()
    later = await router.worker("one", leases=[lease.ref])
    assert list(later.welcome.kept) == [lease.ref]
    code, sentence, _ = await end_of(earlier)
    assert code is grpc.StatusCode.ABORTED
    assert sentence.startswith("The worker one has begun another session with the same key")
    assert await later.deliver(lease) == "recorded"


@pytest.mark.parametrize("says", ["heartbeat", "outcome"])
async def test_a_later_session_at_another_replica_fences_the_earlier(replicas: System, says: str) -> None:
    here, there = replicas.routers["a"], replicas.routers["b"]
    earlier = await here.worker("one", free=1)
    accepted = await here.submit()
    lease = await earlier.take()
    await earlier.heartbeat(lease)
    later = await there.worker("one", free=0, leases=[lease.ref])
    assert list(later.welcome.kept) == [lease.ref]
    # None of this counts, and the lease is not called lost: it is the worker's, in its later session.
    if says == "heartbeat":
        await earlier.say(heartbeat=pb.Heartbeat(leases=[lease.ref]))
    else:
        failed = pb.StageFailure(failure=job_pb2.Failure(message="from the past"))
        await earlier.say(outcome=pb.Outcome(ref=lease.ref, completion_id="past", failure=failed))
    code, _, _ = await end_of(earlier)
    assert code is grpc.StatusCode.ABORTED
    assert not (await later.heartbeat(lease)).lost
    assert await later.deliver(lease) == "recorded"
    assert (await there.ended(accepted.job_id)).state == job_pb2.JOB_STATE_SUCCEEDED


async def test_a_worker_that_was_forgotten_keeps_its_session_and_its_work(system: System) -> None:
    """Nobody has begun another session: the row went because nobody was heard of for long."""
    router = system.routers["a"]
    one = await router.worker("one", free=1)
    accepted = await router.submit()
    lease = await one.take()
    async with router.service.storage.write() as tx:
        await tx.registry.worker_gone(one.welcome.session_epoch)
    assert not (await one.heartbeat(lease)).lost
    async with router.service.storage.read() as tx:
        assert [worker.holder.partition("/")[2] for worker in await tx.registry.list_workers(seen_within=GRACE)] == [
            "one"
        ]
    assert await one.deliver(lease) == "recorded"
    assert (await router.ended(accepted.job_id)).state == job_pb2.JOB_STATE_SUCCEEDED


async def test_what_an_earlier_session_hands_back_stays(replicas: System) -> None:
    here, there = replicas.routers["a"], replicas.routers["b"]
    earlier = await here.worker("one", free=1)
    await here.submit()
    lease = await earlier.take()
    await earlier.heartbeat(lease)
    later = await there.worker("one", free=0, leases=[lease.ref])
    await earlier.say(lease_reject=pb.LeaseReject(ref=lease.ref, reason="from the past"))
    await earlier.say(heartbeat=pb.Heartbeat())
    await end_of(earlier)
    assert not (await later.heartbeat(lease)).lost


async def test_a_router_that_goes_down_lets_nobody_in(system: System) -> None:
    router = system.routers["a"]
    staying = await router.worker("staying", free=0)
    draining = asyncio.create_task(router.service.workers.drain())
    await staying.hear("drain")
    within = (await staying.hear("reconnect")).reconnect.within.ToTimedelta()
    assert 0 < within.total_seconds() < 1
    code, sentence, _ = await refused(router, "newcomer")
    assert (code, sentence) == (
        grpc.StatusCode.UNAVAILABLE,
        "The router is going down: connect again, to another one if there is one.",
    )
    code, _, _ = await end_of(staying)
    assert code is grpc.StatusCode.UNAVAILABLE
    async with asyncio.timeout(LIMIT_S):
        await draining


async def test_what_was_said_before_the_end_is_applied(system: System) -> None:
    router = system.routers["a"]
    going = await router.worker("going", free=1)
    accepted = await router.submit()
    lease = await going.take()
    await going.say(lease_reject=pb.LeaseReject(ref=lease.ref, reason="the worker goes down"))
    async with asyncio.timeout(LIMIT_S):
        await going.call.done_writing()
    assert await going.end() is grpc.StatusCode.OK
    job = await router.job(accepted.job_id)
    assert (job.state, job.stages[0].attempt) == (job_pb2.JOB_STATE_QUEUED, 0)
    await until(lambda: len(router.service.sessions) == 0)
