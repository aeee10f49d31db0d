"""What a worker is told when it introduces itself, and what it tells of its memory."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from atelier.identity.v1 import identity_service_pb2 as identity
from atelier.router.v1 import job_pb2, model_pb2
from atelier.router.v1 import router_service_pb2 as pb
from atelier.worker.v1 import worker_service_pb2 as worker
from service_kit.rpc_errors import from_rpc_error
from tests.router_service.support import Router, ScriptedWorker


async def refused(router: Router, key: str = "", **hello: Any) -> tuple[grpc.StatusCode, str]:
    key = key or router.service.rings.read_key_file("worker.key").reveal()
    scripted = ScriptedWorker(await router.channel_with(key, router.target), router)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await scripted.hello("one", **hello)
    return caught.value.code(), from_rpc_error(caught.value).message


async def key_for(router: Router, *worker_types: str) -> str:
    request = identity.CreateKeyRequest(owner_id="attic", kind=identity.KEY_KIND_WORKER, worker_types=worker_types)
    made = await router.identities.CreateKey(request)
    assert list(made.key.worker_types) == list(worker_types)
    return made.secret


async def test_a_release_that_is_too_old_is_told_to_update(router: Router) -> None:
    code, message = await refused(router, version="0.0.9")
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "release 0.0.9" in message
    assert "pip install --upgrade atelier-media" in message


@pytest.mark.parametrize("version", ["0.1.0", "0.1", "1.0.0rc1", "", "my own 0.0.1"])
async def test_any_other_release_is_let_in(router: Router, version: str) -> None:
    assert (await router.worker(version=version)).welcome.session_epoch


async def test_a_key_that_is_no_workers_is_told_which_one_is(router: Router) -> None:
    made = await router.identities.CreateKey(identity.CreateKeyRequest(owner_id="attic", kind=identity.KEY_KIND_USER))
    code, message = await refused(router, made.secret)
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert "a user key has not got it. Use a key of the kind worker" in message


async def test_a_key_may_be_for_some_worker_types_only(router: Router) -> None:
    key = await key_for(router, "sdxl", "wan")
    code, message = await refused(router, key, worker_types=["sdxl", "chat"])
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert "is for the worker types sdxl, wan, not for chat: start the worker with --types sdxl,wan" in message
    scripted = ScriptedWorker(await router.channel_with(key, router.target), router)
    async with scripted:
        await scripted.hello("one", worker_types=["wan"])


async def test_only_keys_of_workers_are_for_worker_types(router: Router) -> None:
    for kind, worker_types, field in (
        (identity.KEY_KIND_USER, ["sdxl"], "worker_types"),
        (identity.KEY_KIND_WORKER, ["sdxl", ""], "worker_types[1]"),
    ):
        request = identity.CreateKeyRequest(owner_id="attic", kind=kind, worker_types=worker_types)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await router.identities.CreateKey(request)
        assert [problem.field for problem in from_rpc_error(caught.value).fields] == [field]


async def test_a_model_that_no_job_can_carry_there_is_named_with_what_to_do(router: Router) -> None:
    row = model_pb2.Model(name="parrot", stage=job_pb2.STAGE_KIND_CHAT, worker_type="talk")
    await router.jobs.PutModel(pb.PutModelRequest(model=row))
    scripted = await router.worker(worker_types=["sdxl"], models=["sdxl", "sdxl-base-1.0", "flux"])
    renamed, unknown = scripted.welcome.warnings
    assert "Jobs for the model sdxl-base-1.0 are jobs for sdxl" in renamed
    assert unknown.startswith("No job reaches the model flux of this worker")
    assert unknown.endswith("atelier models add flux --worker-type sdxl --format image")
    scripted = await router.worker("two", worker_types=["talk"], models=["parrot", "heron"], stages=[3])
    assert [text.rpartition(": ")[2] for text in scripted.welcome.warnings] == [
        "atelier models add heron --worker-type talk --stage chat"
    ]
    await router.jobs.DeleteModel(pb.DeleteModelRequest(name="*"))
    filming = await router.worker("films", worker_types=["wan"], models=["wan-14b"])
    command = "atelier models add wan-14b --worker-type wan --format video --format image --frame-rate 16"
    assert filming.welcome.warnings[0].endswith(command)
    many = await router.worker("three", worker_types=["sdxl"], models=[f"m{index}" for index in range(12)])
    assert len(many.welcome.warnings) == 11
    assert "2 more" in many.welcome.warnings[-1]


async def test_models_that_jobs_can_carry_there_are_no_matter(router: Router) -> None:
    for name, hello in (
        ("all", {"models": []}),
        # Where everything goes that no row names.
        ("any", {"models": ["wan", "a-house-model"]}),
        ("talker", {"models": ["chat"], "worker_types": ["chat"], "stages": [3]}),
    ):
        assert list((await router.worker(name, **hello)).welcome.warnings) == []


async def test_what_a_worker_keeps_in_memory_is_listed_with_it(router: Router) -> None:
    scripted = await router.worker()

    async def listed() -> list[model_pb2.LoadedModel]:
        await router.service.reaper.refresh_pools()
        (found,) = (await router.jobs.ListWorkers(pb.ListWorkersRequest())).workers
        return list(found.loaded)

    assert await listed() == []
    loaded = [model_pb2.LoadedModel(name="sdxl", device="cuda:0", size_bytes=7 << 30)]
    for said in (loaded, loaded, []):
        await scripted.say(heartbeat=worker.Heartbeat(loaded=said))
        await scripted.hear("heartbeat_ack")
        assert await listed() == said


async def test_a_worker_that_names_too_many_models_in_memory_is_refused(router: Router) -> None:
    scripted = await router.worker()
    many = [model_pb2.LoadedModel(name=f"m{index}") for index in range(101)]
    await scripted.say(heartbeat=worker.Heartbeat(loaded=many))
    assert await scripted.end() is grpc.StatusCode.INVALID_ARGUMENT
