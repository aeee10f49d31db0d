"""Limits of an owner hold over all replicas, and a retry is known by each of them."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from atelier.identity.v1 import identity_service_pb2 as identity
from atelier.router.v1 import router_service_pb2_grpc
from tests.router_service.support import Router
from tests.router_service.test_admission import RETRY, request
from tests.router_service.test_limits import allow, running, submit_all


async def test_two_replicas_take_exactly_as_many_as_may_wait(replicas: tuple[Router, Router]) -> None:
    await allow(replicas[0], queued_jobs=10)
    accepted, refused = await submit_all(
        [router.jobs.GenerateContent(request()) for _ in range(32) for router in replicas]
    )
    assert (len(set(accepted)), len(refused)) == (10, 54)
    # Another limit is known to the one at once, to the other after two seconds.
    await allow(replicas[0], queued_jobs=12)
    accepted, _ = await submit_all([replicas[0].submit() for _ in range(8)])
    assert len(accepted) == 2
    await allow(replicas[0], queued_jobs=20)
    replicas[0].clock.advance(timedelta(seconds=2.1))
    accepted, _ = await submit_all([router.submit() for _ in range(16) for router in replicas])
    assert len(accepted) == 8


async def test_two_replicas_lease_exactly_as_many_as_may_run(replicas: tuple[Router, Router]) -> None:
    await allow(replicas[0], running_jobs=3)
    one, other = replicas
    for number, (router, kind) in enumerate(((one, "sdxl"), (other, "wan")) * 2):
        await router.worker(f"w{number}", worker_types=[kind], free=4)
    pairs = (("sdxl", "FORMAT_IMAGE"), ("wan", "FORMAT_VIDEO")) * 4
    await asyncio.gather(*(router.submit(model=m, format=f) for m, f in pairs for router in replicas))
    for _ in range(4):
        await asyncio.gather(*(router.service.dispatch.lease_waiting() for router in replicas))
    assert await running(one) == 3


async def test_two_replicas_take_and_lease_exactly_as_many_of_a_key_as_may(replicas: tuple[Router, Router]) -> None:
    one, other = replicas
    made = await one.identities.CreateKey(identity.CreateKeyRequest(owner_id="ann", queued_jobs=10, running_jobs=3))
    stubs = [
        router_service_pb2_grpc.RouterServiceStub(await router.channel_with(made.secret, router.target))
        for router in replicas
    ]
    accepted, refused = await submit_all([stub.GenerateContent(request()) for _ in range(24) for stub in stubs])
    assert (len(set(accepted)), len(refused)) == (10, 38)
    for number, router in enumerate(replicas):
        await router.worker(f"w{number}", slots=8, free=8)
    for _ in range(4):
        await asyncio.gather(*(router.service.dispatch.lease_waiting() for router in replicas))
    async with other.service.storage.read() as tx:
        counted = [await tx.limits.count_running([made.key.key_id]), await tx.limits.count_queued([made.key.key_id])]
    assert [count[made.key.key_id] for count in counted] == [3, 7]
    # Those that wait are seven again: three more may.
    accepted, _ = await submit_all([stub.GenerateContent(request()) for _ in range(8) for stub in stubs])
    assert len(accepted) == 3


async def test_retries_at_two_replicas_at_once_are_one_job(replicas: tuple[Router, Router]) -> None:
    calls = [router.jobs.GenerateContent(request(), metadata=RETRY) for _ in range(16) for router in replicas]
    accepted, refused = await submit_all(calls)
    assert (len(accepted), len(set(accepted)), refused) == (32, 1, [])
