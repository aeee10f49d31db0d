"""What an owner may have waiting and running: exactly so many, however many come at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from atelier.identity.v1 import identity_service_pb2 as identity
from atelier.identity.v1 import identity_service_pb2_grpc
from atelier.router.v1 import router_service_pb2 as pb
from atelier.router.v1 import router_service_pb2_grpc
from service_kit.errors import AtelierError, ErrorReason
from service_kit.identity import Owner, Rates
from service_kit.rpc_errors import from_rpc_error
from tests.router_service.support import Router, running_router
from tests.router_service.test_admission import RETRY, request

DATABASES = ("sqlite", "postgresql")
ADMIN = Owner("default", "admin")


async def allow(router: Router, owner_id: str = "admin", **limits: int) -> None:
    """Set the limits of an owner."""
    wanted = identity.PutOwnerLimitsRequest(owner_id=owner_id, limits=identity.OwnerLimits(**limits))
    await router.identities.PutOwnerLimits(wanted)


async def submit_all(calls: Sequence[Any]) -> tuple[list[str], list[AtelierError]]:
    """Submit at once. Returns the ids of the jobs, and what was refused."""
    replies = await asyncio.gather(*calls, return_exceptions=True)
    refused = [from_rpc_error(reply) for reply in replies if isinstance(reply, grpc.RpcError)]
    return [reply.job_id for reply in replies if isinstance(reply, pb.GenerateContentResponse)], refused


async def running(router: Router) -> int:
    """Return how many jobs of the operator run, as the database says."""
    async with router.service.storage.read() as tx:
        return (await tx.limits.count_running([ADMIN]))[ADMIN]


async def test_of_many_at_once_exactly_as_many_wait_as_may(router: Router) -> None:
    await allow(router, queued_jobs=10)
    accepted, refused = await submit_all([router.jobs.GenerateContent(request()) for _ in range(64)])
    assert (len(set(accepted)), len(refused)) == (10, 54)
    error = refused[0]
    assert (error.reason, error.fields[0].field) == (ErrorReason.TOO_MANY_QUEUED_JOBS, "queued_jobs")
    assert "is 10" in error.message and error.retry_after == timedelta(seconds=5)
    await router.jobs.CancelJob(pb.CancelJobRequest(job_id=accepted[0]))
    more, _ = await submit_all([router.jobs.GenerateContent(request()) for _ in range(3)])
    assert len(more) == 1
    # Another owner has limits of its own.
    await (await router.stubs_of("bob")).GenerateContent(request())
    assert len((await router.jobs.ListJobs(pb.ListJobsRequest(page_size=200))).jobs) == 11, (
        "what is refused leaves nothing"
    )


async def test_a_repeat_is_answered_and_never_refused(router: Router) -> None:
    await allow(router, queued_jobs=2)
    keyed = [router.jobs.GenerateContent(request(idempotency_key="k")) for _ in range(8)]
    accepted, refused = await submit_all(keyed)
    assert (len(accepted), len(set(accepted)), refused) == (8, 1, [])
    plain = await router.jobs.GenerateContent(request())
    assert (await router.jobs.GenerateContent(request(), metadata=RETRY)).job_id == plain.job_id
    assert (await router.jobs.GenerateContent(request(idempotency_key="k"))).job_id == accepted[0]
    # A key whose first use was refused is as good as new.
    _, refused = await submit_all([router.jobs.GenerateContent(request(idempotency_key="new")) for _ in range(2)])
    assert len(refused) == 2
    await allow(router, queued_jobs=3)
    await router.jobs.GenerateContent(request(idempotency_key="new"))


async def test_exactly_as_many_run_as_may_in_all_pools_together(router: Router) -> None:
    await allow(router, running_jobs=3)
    sdxl = await router.worker("one", worker_types=["sdxl"], free=3)
    wan = await router.worker("two", worker_types=["wan"], free=4)
    for model, form in (("sdxl", "FORMAT_IMAGE"), ("wan", "FORMAT_VIDEO")) * 4:
        await router.submit(model=model, format=form)
    await router.service.dispatch.lease_waiting()
    assert await running(router) == 3
    theirs = await (await router.stubs_of("bob")).GenerateContent(request())
    mine = [await sdxl.take(), await sdxl.take()]
    assert (await sdxl.take()).ref.job_id == theirs.job_id, "another owner's job runs"
    await wan.take()
    await sdxl.deliver(mine[0])
    await router.service.dispatch.lease_waiting()
    assert await running(router) == 3, "when one ends, the next one starts"
    assert (await wan.take()).ref.job_id


@pytest.mark.parametrize("bounded", ["owner", "key"])
async def test_a_job_that_is_to_be_counted_is_not_leased_as_it_is_accepted(router: Router, bounded: str) -> None:
    await router.service.tasks.stop_one("router.leasing")
    one = await router.worker(free=4)
    await one.heartbeat()
    stub, _ = await router.key_of("ann", **({"running_jobs": 1} if bounded == "key" else {}))
    free, _ = await router.key_of("bob")
    if bounded == "owner":
        await allow(router, "ann", running_jobs=1)
    with router.service.dispatch.leasing():
        unbounded = (await free.GenerateContent(request())).job_id
        assert (await one.take()).ref.job_id == unbounded
        for _ in range(2):
            await stub.GenerateContent(request())
    assert await router.service.dispatch.lease_waiting() == 1


async def test_the_settings_limit_those_for_whom_nothing_was_set(tmp_path: Path) -> None:
    flags = {"router.queued_jobs_per_owner": "1", "router.running_jobs_per_owner": "1"}
    async with running_router(tmp_path, **flags) as router:
        accepted, refused = await submit_all([router.submit() for _ in range(3)])
        assert (len(accepted), len(refused)) == (1, 2)
        await allow(router, queued_jobs=0, running_jobs=0)
        accepted, refused = await submit_all([router.submit() for _ in range(3)])
        assert (len(accepted), len(refused)) == (3, 0)
        one = await router.worker(free=4)
        assert len({(await one.take()).ref.job_id for _ in range(4)}) == 4


async def test_limits_are_set_read_and_erased(router: Router) -> None:
    named = identity.GetOwnerLimitsRequest(owner_id="cat")
    assert (await router.identities.GetOwnerLimits(named)).limits == identity.OwnerLimits()
    await allow(router, "cat", requests_per_minute=9, queued_jobs=0)
    found = (await router.identities.GetOwnerLimits(named)).limits
    assert (found.requests_per_minute, found.HasField("queued_jobs"), found.HasField("running_jobs")) == (
        9,
        True,
        False,
    )
    made = await router.identities.CreateKey(identity.CreateKeyRequest(owner_id="cat", requests_per_minute=5))
    caller = await exchanged(router, made.secret)
    assert caller.rates == Rates(5, 9)
    changed = await router.identities.UpdateKey(identity.UpdateKeyRequest(key_id=made.key.key_id))
    assert not changed.key.HasField("requests_per_minute")
    assert (await exchanged(router, made.secret)).rates == Rates(None, 9)
    await router.jobs.EraseOwner(pb.EraseOwnerRequest(owner_id="cat"))
    assert (await router.identities.GetOwnerLimits(named)).limits == identity.OwnerLimits()
    for call in (
        allow(router, "cat", queued_jobs=1),
        router.identities.UpdateKey(identity.UpdateKeyRequest(key_id="x")),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND)


async def test_the_jobs_of_a_key_are_counted_by_the_key(router: Router) -> None:
    """Two keys of one owner: one may have three waiting, the other as many as it likes."""
    bounded, key_id = await router.key_of("ann", queued_jobs=3)
    free, _ = await router.key_of("ann")
    calls = [bounded.GenerateContent(request()) for _ in range(24)]
    accepted, refused = await submit_all(calls)
    assert (len(set(accepted)), len(refused)) == (3, 21)
    error = refused[0]
    assert (error.reason, error.fields[0].field) == (ErrorReason.TOO_MANY_QUEUED_JOBS, "queued_jobs")
    assert f"queued_jobs of the key {key_id} is 3" in error.message and error.retry_after == timedelta(seconds=5)
    assert len((await submit_all([free.GenerateContent(request()) for _ in range(8)]))[0]) == 8
    await bounded.CancelJob(pb.CancelJobRequest(job_id=accepted[0]))
    assert len((await submit_all([bounded.GenerateContent(request()) for _ in range(4)]))[0]) == 1
    # What the owner may have counts beside it, for both keys.
    await allow(router, "ann", queued_jobs=12)
    accepted, refused = await submit_all([free.GenerateContent(request()) for _ in range(4)])
    assert (len(accepted), len(refused)) == (1, 3)
    assert "of this owner is 12" in refused[0].message
    await allow(router, "ann", queued_jobs=0)
    raised = identity.UpdateKeyRequest(key_id=key_id, queued_jobs=5, running_jobs=7, requests_per_minute=9)
    key = (await router.identities.UpdateKey(raised)).key
    assert (key.queued_jobs, key.running_jobs, key.requests_per_minute) == (5, 7, 9)
    assert len((await submit_all([bounded.GenerateContent(request()) for _ in range(4)]))[0]) == 2


async def test_a_key_that_may_run_no_more_is_in_nobodys_way(router: Router) -> None:
    """Its jobs wait, however many; those of another key of the same owner, behind all of them, run."""
    bounded, _ = await router.key_of("ann", running_jobs=2)
    free, _ = await router.key_of("ann")
    mine = [(await bounded.GenerateContent(request())).job_id for _ in range(24)]
    theirs = [(await free.GenerateContent(request())).job_id for _ in range(2)]
    one = await router.worker(slots=8, free=8)
    leases = [await one.take() for _ in range(4)]
    assert {lease.ref.job_id for lease in leases} == {*mine[:2], *theirs}
    await router.service.dispatch.lease_waiting()
    async with router.service.storage.read() as tx:
        assert await tx.queue.count_waiting() == {"sdxl": 22}
    await one.deliver(next(lease for lease in leases if lease.ref.job_id == mine[0]))
    assert (await one.take()).ref.job_id == mine[2]


async def test_a_session_counts_for_the_key_that_it_comes_from(router: Router) -> None:
    made = await router.identities.CreateKey(identity.CreateKeyRequest(owner_id="ann", queued_jobs=1))
    channel = await router.channel_with(made.secret, router.target)
    code = await identity_service_pb2_grpc.IdentityServiceStub(channel).CreateSignInCode(
        identity.CreateSignInCodeRequest()
    )
    secret = (await router.identities.ExchangeSignInCode(identity.ExchangeSignInCodeRequest(code=code.code))).secret
    caller, key_id = await exchanged(router, secret), made.key.key_id
    assert (caller.session_of, caller.key_id == key_id) == (key_id, False)
    await router_service_pb2_grpc.RouterServiceStub(channel).GenerateContent(request())
    session = router_service_pb2_grpc.RouterServiceStub(await router.channel_with(secret, router.target))
    _, refused = await submit_all([session.GenerateContent(request())])
    assert f"of the key {key_id} is 1" in refused[0].message


async def exchanged(router: Router, secret: str) -> Any:
    """Return whom a key's token speaks for."""
    reply = await router.identities.ExchangeKey(identity.ExchangeKeyRequest(secret=secret))
    return router.service.rings.identity_verifier(router.clock).verify(reply.identity_token)
