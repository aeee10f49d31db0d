"""The first release and today's: a worker of the one with a router of the other, in both directions."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import grpc

from atelier.router.v1 import chat_pb2, job_pb2, router_service_pb2
from atelier.worker.v1 import worker_service_pb2 as pb
from tests.protocol import first_release
from tests.protocol.bare_worker import BareWorker
from tests.protocol.harness import BareSubject, Subject, System


def bare_worker_of_the_first_release() -> type[BareWorker]:
    """Return the bare worker as it would be with the stubs of the first release."""
    spec = importlib.util.spec_from_file_location("first_bare_worker", Path(__file__).with_name("bare_worker.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    replaced = {
        "pb": first_release.messages("atelier/worker/v1/worker_service.proto"),
        "up": first_release.messages("atelier/asset/v1/upload_service.proto"),
        "ExchangeKeyRequest": first_release.message_class("atelier.identity.v1.ExchangeKeyRequest"),
        "WorkerServiceStub": first_release.stub("atelier.worker.v1.WorkerService"),
        "UploadServiceStub": first_release.stub("atelier.asset.v1.UploadService"),
        "IdentityServiceStub": first_release.stub("atelier.identity.v1.IdentityService"),
    }
    assert replaced.keys() <= vars(module).keys()
    vars(module).update(replaced)
    found: type[BareWorker] = module.BareWorker
    return found


async def test_a_worker_of_the_first_release_on_todays_router(system: System) -> None:
    router, subject = system.routers["a"], BareSubject(bare_worker_of_the_first_release())
    await subject.start(system, router.target)
    accepted = await router.submit(quantity=2)
    job = await router.ended(accepted.job_id)
    await subject.kill()
    assert (job.state, job.delivered) == (job_pb2.JOB_STATE_SUCCEEDED, 2)
    assert sorted(await router.asset_ids(job.job_id)) == sorted(accepted.asset_ids)


async def test_a_worker_of_the_first_release_is_given_no_conversation(system: System) -> None:
    """It has the worker type, and would take it for something else."""
    router, old = system.routers["a"], BareSubject(bare_worker_of_the_first_release())
    await old.start(system, router.target)
    talk = router_service_pb2.GenerateContentRequest(model="chat", chat=chat_pb2.Chat())
    talk.chat.messages.add(role=chat_pb2.CHAT_ROLE_USER, content="a lighthouse")
    accepted = await router.jobs.GenerateContent(talk)
    # What came later is done before it.
    enhanced = await router.ended((await router.submit(enhancement_only=True, format=None)).job_id)
    assert enhanced.state == job_pb2.JOB_STATE_SUCCEEDED
    assert (await router.job(accepted.job_id)).state == job_pb2.JOB_STATE_QUEUED
    await old.kill()


async def test_a_worker_of_the_first_release_is_given_nothing_that_it_would_drop(system: System) -> None:
    """It does not know guidance, and would make another picture than the one that was asked for."""
    router, old = system.routers["a"], BareSubject(bare_worker_of_the_first_release())
    await old.start(system, router.target)
    accepted = await router.submit(guidance=7.5)
    # What came later is done before it.
    assert (await router.ended((await router.submit()).job_id)).state == job_pb2.JOB_STATE_SUCCEEDED
    assert (await router.job(accepted.job_id)).state == job_pb2.JOB_STATE_QUEUED
    await old.kill()


async def test_todays_worker_on_a_router_of_the_first_release(system: System, subject: Subject) -> None:
    async with first_release.proxy(system.flags["router.asset_target"]) as assets:
        system.flags["router.upload_endpoint"] = assets
        await system.stop_router()
        router = await system.start_router()
        async with first_release.proxy(router.target) as target:
            await subject.start(system, target)
            accepted = await router.submit(quantity=2, enhance_prompt=True)
            job = await router.ended(accepted.job_id)
            await subject.kill()
    assert (job.state, job.delivered) == (job_pb2.JOB_STATE_SUCCEEDED, 2)
    assert sorted(await router.asset_ids(job.job_id)) == sorted(accepted.asset_ids)


async def test_the_proxy_lets_nothing_newer_pass(system: System) -> None:
    newer = pb.Drain().SerializeToString() + b"\xfa\x01\x05newer"
    assert first_release.reencoded(newer, "atelier.worker.v1.Drain") == b""
    async with (
        first_release.proxy(system.routers["a"].target) as target,
        grpc.aio.insecure_channel(target) as channel,
    ):
        newest: Any = channel.unary_unary("/atelier.worker.v1.WorkerService/NewerThanThat")
        call = newest(b"")
        assert await call.code() is grpc.StatusCode.UNIMPLEMENTED
