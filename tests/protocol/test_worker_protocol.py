"""What a worker and a router owe each other, with a worker on bare stubs and with the runtime that is shipped."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from atelier.router.v1 import job_pb2, router_service_pb2
from router_service.recording import Outcome
from service_kit.errors import Unavailable
from tests.protocol.harness import LIMIT_S, Gate, Subject, System, until
from tests.router_service.support import Router

MakeGate = Callable[[], Gate]


async def test_a_job(system: System, subject: Subject) -> None:
    router = system.routers["a"]
    await subject.start(system, router.target)
    accepted = await router.submit()
    job = await router.ended(accepted.job_id)
    assert (job.state, job.delivered) == (job_pb2.JOB_STATE_SUCCEEDED, 1)
    assert await router.asset_ids(job.job_id) == list(accepted.asset_ids)


async def test_a_batch(system: System, subject: Subject) -> None:
    router = system.routers["a"]
    await subject.start(system, router.target)
    accepted = await router.submit(quantity=3)
    job = await router.ended(accepted.job_id)
    assert (job.state, job.delivered) == (job_pb2.JOB_STATE_SUCCEEDED, 3)
    assert sorted(await router.asset_ids(job.job_id)) == sorted(accepted.asset_ids)


async def test_a_job_of_two_stages(system: System, subject: Subject) -> None:
    router = system.routers["a"]
    await subject.start(system, router.target)
    accepted = await router.submit(enhance_prompt=True)
    job = await router.ended(accepted.job_id)
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED
    assert [stage.kind for stage in job.stages] == [job_pb2.STAGE_KIND_ENHANCE, job_pb2.STAGE_KIND_GENERATE]
    assert job.enhanced_prompt.strip().endswith("in soft morning light")


async def test_a_cancelled_job_frees_its_worker(system: System, subject: Subject, gate: MakeGate) -> None:
    router, here = system.routers["a"], gate()
    await subject.start(system, router.target)
    accepted = await router.submit(prompt=here.prompt)
    os.close(await here.reached())
    await router.jobs.CancelJob(router_service_pb2.CancelJobRequest(job_id=accepted.job_id))
    assert (await router.job(accepted.job_id)).state == job_pb2.JOB_STATE_CANCELLED
    another = await router.submit()
    assert (await router.ended(another.job_id)).state == job_pb2.JOB_STATE_SUCCEEDED
    assert await router.asset_ids(accepted.job_id) == []


async def test_work_goes_on_over_a_restart_of_the_router(system: System, subject: Subject, gate: MakeGate) -> None:
    router, here = system.routers["a"], gate()
    await subject.start(system, router.target)
    accepted = await router.submit(prompt=here.prompt)
    writer = await here.reached()
    await system.stop_router()
    router = await system.start_router()
    await until(lambda: any(accepted.job_id in session.held for session in router.service.sessions))
    os.write(writer, b"go")
    os.close(writer)
    job = await router.ended(accepted.job_id)
    assert (job.state, job.stages[0].attempt) == (job_pb2.JOB_STATE_SUCCEEDED, 1)
    async with router.service.storage.read() as tx:
        stored = await tx.jobs.get(accepted.job_id)
    assert stored is not None
    assert stored.leases == 1


async def test_a_lost_lease_is_dropped(system: System, subject: Subject, gate: MakeGate) -> None:
    router, here = system.routers["a"], gate()
    await subject.start(system, router.target)
    accepted = await router.submit(prompt=here.prompt)
    first = await here.reached()
    (lease,) = (session.held[accepted.job_id] for session in router.service.sessions)
    async with asyncio.timeout(LIMIT_S):
        # Its acknowledgement would renew it.
        while not await is_acknowledged(router, accepted.job_id):
            await router.service.acknowledgements.flush()
    # After a start nobody is believed lost for the life of a lease.
    system.clock.advance(timedelta(seconds=31))
    await router.service.reaper.round()
    # The same worker takes the stage again, under another fence; the first run has left the gate.
    await until(
        lambda: [s.held.get(accepted.job_id, lease).fence for s in router.service.sessions] == [lease.fence + 1]
    )
    second = await here.reached()
    os.write(second, b"go")
    job = await router.ended(accepted.job_id)
    assert (job.state, job.stages[0].attempt, job.delivered) == (job_pb2.JOB_STATE_SUCCEEDED, 2, 1)
    for writer in (first, second):
        os.close(writer)


async def test_an_outcome_is_said_until_it_is_answered(
    system: System, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = system.routers["a"]
    record, said = router.service.recording.record, []

    async def and_break(outcome: Outcome, **who: Any) -> str:
        said.append((outcome.completion_id, await record(outcome, **who)))
        if len(said) == 1:
            raise Unavailable("The answer is lost on its way.")
        return said[-1][1]

    monkeypatch.setattr(router.service.recording, "record", and_break)
    await subject.start(system, router.target)
    accepted = await router.submit()
    job = await router.ended(accepted.job_id)
    assert (job.state, job.delivered) == (job_pb2.JOB_STATE_SUCCEEDED, 1)
    await until(lambda: len(said) == 2)
    assert [status for _, status in said] == ["recorded", "duplicate"]
    assert len({completion_id for completion_id, _ in said}) == 1
    # Then it is forgotten, and the worker takes the next job.
    assert (await router.ended((await router.submit()).job_id)).state == job_pb2.JOB_STATE_SUCCEEDED
    assert [status for _, status in said] == ["recorded", "duplicate", "recorded"]


async def test_a_draining_worker_finishes_and_goes(system: System, subject: Subject, gate: MakeGate) -> None:
    router, here = system.routers["a"], gate()
    await subject.start(system, router.target)
    accepted = await router.submit(prompt=here.prompt)
    writer = await here.reached()
    subject.drain()
    await until(lambda: all(session.draining for session in router.service.sessions))
    left = await router.submit()
    os.write(writer, b"go")
    os.close(writer)
    await subject.ended()
    assert (await router.ended(accepted.job_id)).state == job_pb2.JOB_STATE_SUCCEEDED
    assert (await router.job(left.job_id)).state == job_pb2.JOB_STATE_QUEUED


async def test_what_a_draining_worker_cannot_finish_costs_no_attempt(
    system: System, subject: Subject, gate: MakeGate
) -> None:
    router, here = system.routers["a"], gate()
    await subject.start(system, router.target, grace=timedelta(0))
    accepted = await router.submit(prompt=here.prompt)
    os.close(await here.reached())
    subject.drain()
    await subject.ended()
    job = await router.job(accepted.job_id)
    assert job.state == job_pb2.JOB_STATE_QUEUED
    second = await router.worker("second")
    async with asyncio.timeout(10):
        assert (await second.take()).attempt == 1


async def test_work_goes_on_with_another_replica(replicas: System, subject: Subject, gate: MakeGate) -> None:
    here, targets = gate(), {name: router.target for name, router in replicas.routers.items()}
    await subject.start(replicas, *targets.values())
    accepted = await replicas.routers["a"].submit(prompt=here.prompt)
    writer = await here.reached()
    (name,) = (name for name, router in replicas.routers.items() if len(router.service.sessions))
    (other,) = targets.keys() - {name}
    subject.go_to(targets[other])
    await replicas.stop_router(name)
    router = replicas.routers[other]
    await until(lambda: any(accepted.job_id in session.held for session in router.service.sessions))
    os.write(writer, b"go")
    os.close(writer)
    job = await router.ended(accepted.job_id)
    assert (job.state, job.stages[0].attempt) == (job_pb2.JOB_STATE_SUCCEEDED, 1)


async def is_acknowledged(router: Router, job_id: str) -> bool:
    """Tell whether a lease is known to have arrived."""
    async with router.service.storage.write() as tx:
        return (await tx.leases.lock([job_id]))[job_id].acknowledged
