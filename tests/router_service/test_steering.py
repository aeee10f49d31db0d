"""Guidance, schedulers, LoRAs and last frames: what is refused, how they travel, and who is given them."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from atelier.router.v1 import chat_pb2, job_pb2
from router_service.storage import codec
from service_kit.errors import AtelierError, ErrorReason
from service_kit.rpc_errors import from_rpc_error
from tests.router_service.support import Router
from tests.router_service.test_admission import upload

STEERED: dict[str, Any] = {
    "guidance": 0.0,
    "scheduler": "euler",
    "loras": [{"name": "ink", "weight": -0.5}, {"name": "grain"}],
}


async def refused(router: Router, **fields: Any) -> AtelierError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await router.submit(**fields)
    return from_rpc_error(caught.value)


async def test_they_reach_the_worker_as_they_were_sent_and_stay_with_the_job(router: Router) -> None:
    scripted = await router.worker(takes_steering=True)
    accepted = await router.submit(**STEERED)
    lease = await scripted.take()
    assert await scripted.deliver(lease) == "recorded"
    job = await router.ended(accepted.job_id)
    for settings in (accepted.generation_settings, lease.spec.settings, job.generation_settings):
        assert (settings.HasField("guidance"), settings.guidance, settings.scheduler) == (True, 0.0, "euler")
        assert [(lora.name, lora.weight) for lora in settings.loras] == [("ink", -0.5), ("grain", 1.0)]


async def test_without_them_nothing_is_said_of_them_and_the_row_is_as_it_was(router: Router) -> None:
    accepted = await router.submit()
    settings = accepted.generation_settings
    assert (settings.HasField("guidance"), settings.scheduler, list(settings.loras)) == (False, "", [])
    async with router.service.storage.read() as tx:
        job = await tx.jobs.get(accepted.job_id)
    document = codec.to_text(job)
    assert not any(name in document for name in ("guidance", "scheduler", "loras", "steered"))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"guidance": 30.5}, "guidance"),
        ({"guidance": float("nan")}, "guidance"),
        ({"scheduler": "x" * 65}, "scheduler"),
        ({"loras": [{"name": ""}]}, "loras[0].name"),
        ({"loras": [{"name": "ink", "weight": 4.1}]}, "loras[0].weight"),
        ({"loras": [{"name": "ink"}, {"name": "ink"}]}, "loras[1].name"),
        ({"loras": [{"name": f"l{index}"} for index in range(9)]}, "loras"),
    ],
)
async def test_what_is_outside_its_limits_is_named(router: Router, fields: dict[str, Any], named: str) -> None:
    error = await refused(router, **fields)
    assert [problem.field for problem in error.fields] == [named]


@pytest.mark.parametrize("name", STEERED)
async def test_they_mean_nothing_where_no_output_is_made(router: Router, name: str) -> None:
    said = {name: STEERED[name]}
    messages = [chat_pb2.ChatMessage(role=chat_pb2.CHAT_ROLE_USER, content="Hello?")]
    for other in (
        {"enhancement_only": True, "format": None},
        {"chat": chat_pb2.Chat(messages=messages), "prompt": "", "model": "chat", "format": None},
    ):
        error = await refused(router, **{**other, **said})
        assert (error.reason, [problem.field for problem in error.fields]) == (ErrorReason.CONFLICTING_FIELDS, [name])


async def test_a_last_frame_is_for_videos_that_have_a_first(router: Router) -> None:
    last = {"asset_id": "a", "kind": "REFERENCE_KIND_LAST_FRAME"}
    video = {"model": "wan", "format": "FORMAT_VIDEO"}
    error = await refused(router, reference_images=[last])
    assert "is for videos only" in error.message
    error = await refused(router, reference_images=[last], **video)
    assert "needs a reference of kind first_frame beside it" in error.message
    assert [problem.field for problem in error.fields] == ["reference_images[0].kind"]


@pytest.mark.parametrize("field", [*STEERED, "last_frame"])
async def test_who_does_not_know_them_is_not_given_them_and_the_job_says_so(router: Router, field: str) -> None:
    old = await router.worker("old")
    fields: dict[str, Any] = {field: STEERED.get(field)}
    if field == "last_frame":
        asset_id = await upload(router)
        kinds = ("REFERENCE_KIND_FIRST_FRAME", "REFERENCE_KIND_LAST_FRAME")
        fields = {
            "model": "wan",
            "format": "FORMAT_VIDEO",
            "reference_images": [{"asset_id": asset_id, "kind": kind} for kind in kinds],
        }
    accepted = await router.submit(**fields)
    plain = await router.submit()
    lease = await old.take()
    assert lease.ref.job_id == plain.job_id
    await old.heartbeat(lease)
    await router.service.reaper.refresh_pools()
    job = await router.job(accepted.job_id)
    assert job.state == job_pb2.JOB_STATE_QUEUED
    assert "knows guidance, schedulers, LoRAs and last frames" in job.stages[0].waits_for
    assert "Update it" in job.stages[0].waits_for
    new = await router.worker("new", takes_steering=True)
    assert (await new.take()).ref.job_id == accepted.job_id


async def test_its_prompt_may_be_enhanced_by_who_does_not_know_them(router: Router) -> None:
    old = await router.worker("old", worker_types=["chat"])
    new = await router.worker("new", worker_types=["sdxl"], takes_steering=True)
    accepted = await router.submit(enhance_prompt=True, **STEERED)
    await old.finish(await old.take(), text="a lighthouse in a storm")
    lease = await new.take()
    assert (lease.ref.job_id, lease.spec.prompt) == (accepted.job_id, "a lighthouse in a storm")
    assert lease.spec.settings.scheduler == "euler"


async def test_an_unconnected_pool_says_what_to_start(router: Router) -> None:
    accepted = await router.submit(guidance=7)
    job = await router.job(accepted.job_id)
    assert "No worker of type sdxl is connected" in job.stages[0].waits_for
    assert "--types sdxl" in job.stages[0].waits_for


async def test_the_order_among_owners_holds_over_both_pools(router: Router) -> None:
    """What is steered neither overtakes what came before nor waits behind what came later."""
    first = await router.submit()
    second = await router.submit(guidance=7)
    third = await router.submit()
    scripted = await router.worker(takes_steering=True, free=3, slots=3)
    leases = [(await scripted.hear("lease")).lease.ref.job_id for _ in range(3)]
    assert leases == [accepted.job_id for accepted in (first, second, third)]
