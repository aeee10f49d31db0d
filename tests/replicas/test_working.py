"""Two replicas that share the work: a stage waits at one and runs at the other, and whoever cancels is heard."""

from __future__ import annotations

import pytest

from atelier.router.v1 import job_pb2
from atelier.router.v1 import router_service_pb2 as pb
from tests.router_service.support import Router

Replicas = tuple[Router, Router]


@pytest.fixture
def _nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no dispatcher look by itself, so that only what is told wakes it."""
    monkeypatch.setattr("router_service.dispatch.POLL_S", 3600.0)


@pytest.mark.usefixtures("_nobody_looks")
async def test_a_stage_that_waits_at_one_replica_is_leased_by_the_other_at_once(replicas: Replicas) -> None:
    here, there = replicas
    one = await there.worker()
    await one.heartbeat()
    for _ in range(3):
        accepted = await here.submit()
        lease = await one.take()
        assert lease.ref.job_id == accepted.job_id
        assert await one.deliver(lease) == "recorded"
        assert (await here.ended(accepted.job_id)).state == job_pb2.JOB_STATE_SUCCEEDED


async def test_a_stage_that_waits_at_one_replica_is_found_by_the_other_without_any_message(replicas: Replicas) -> None:
    here, there = replicas
    for router in replicas:
        await router.service.tasks.stop_one("router.exchange")
    one = await there.worker()
    accepted = await here.submit()
    assert (await one.take()).ref.job_id == accepted.job_id


async def test_a_cancel_at_one_replica_reaches_the_worker_at_the_other(replicas: Replicas) -> None:
    here, there = replicas
    one = await here.worker()
    accepted = await here.submit()
    lease = await one.take()
    await one.heartbeat(lease)
    cancelled = await there.jobs.CancelJob(pb.CancelJobRequest(job_id=accepted.job_id))
    assert cancelled.job.state == job_pb2.JOB_STATE_CANCELLED
    # It has said nothing meanwhile: nobody answers a heartbeat.
    assert (await one.hear("cancel")).cancel.ref == lease.ref
    with here.service.relay.watch_job(accepted.job_id) as pending:
        assert not pending.progress


async def test_a_cancel_that_nobody_passes_on_comes_with_the_next_heartbeat(replicas: Replicas) -> None:
    here, there = replicas
    for router in replicas:
        await router.service.tasks.stop_one("router.exchange")
    one = await here.worker()
    accepted = await here.submit()
    lease = await one.take()
    await one.heartbeat(lease)
    await there.jobs.CancelJob(pb.CancelJobRequest(job_id=accepted.job_id))
    assert list((await one.heartbeat(lease)).cancelled) == [lease.ref]
