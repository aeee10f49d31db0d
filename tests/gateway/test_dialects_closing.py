"""A stream of a dialect that the gateway breaks off says so: who reads it must not take it for complete."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from atelier.router.v1 import job_pb2, model_pb2, router_service_pb2
from tests.gateway.conftest import World

JOB = "0197d2a5-0b44-7c19-8e21-7f6a90d3c512"
CHAT = {"model": "chat", "messages": [{"role": "user", "content": "x"}], "stream": True}
RESPONSE = {"model": "chat", "input": "x", "stream": True}
IMAGE = {"model": "sdxl", "prompt": "x", "stream": True, "partial_images": 1}
MODEL = model_pb2.Model(name="any", stage=job_pb2.STAGE_KIND_CHAT)


@pytest.fixture
async def world(world: World) -> World:
    """Have a job that is accepted, writes a little, and goes on for ever."""

    async def accept(request: Any, context: Any) -> router_service_pb2.GenerateContentResponse:
        return router_service_pb2.GenerateContentResponse(job_id=JOB)

    async def get(request: Any, context: Any) -> router_service_pb2.GetJobResponse:
        return router_service_pb2.GetJobResponse(job=job_pb2.Job(job_id=JOB, state=job_pb2.JOB_STATE_RUNNING))

    async def watch(request: Any, context: Any) -> Any:
        await context.send_initial_metadata((("atelier-stream", "open"),))
        delta = router_service_pb2.TextDelta(text="A hero", offset=0)
        yield router_service_pb2.WatchJobResponse(text_delta=delta)
        preview = router_service_pb2.Preview(image=b"A hero", content_type="image/png", step=1)
        yield router_service_pb2.WatchJobResponse(preview=preview)
        yield router_service_pb2.WatchJobResponse(state=job_pb2.Job(job_id=JOB, state=job_pb2.JOB_STATE_RUNNING))
        await asyncio.Event().wait()

    async def models(request: Any, context: Any) -> router_service_pb2.ListModelsResponse:
        return router_service_pb2.ListModelsResponse(models=[MODEL])

    world.behaviour.unary |= {"GenerateContent": accept, "GetJob": get, "ListModels": models}
    world.behaviour.streams["WatchJob"] = watch
    return world


@pytest.mark.parametrize(
    ("method", "path", "body", "until", "where"),
    [
        ("POST", "/openai/v1/chat/completions", CHAT, "A hero", ("error", "message")),
        ("POST", "/openai/v1/responses", RESPONSE, "A hero", ("message",)),
        ("POST", "/openai/v1/images/generations", IMAGE, "partial_image", ("error", "message")),
        ("POST", "/fal/run/any/any/stream", {"prompt": "x"}, "A hero", ("error",)),
        ("GET", f"/fal/queue/any/any/requests/{JOB}/status/stream", None, "IN_PROGRESS", ("error",)),
        ("GET", f"/replicate/v1/predictions/{JOB}/stream", None, "A hero", ()),
    ],
)
async def test_the_last_frame_is_the_dialects_error(
    world: World, method: str, path: str, body: Any, until: str, where: tuple[str, ...]
) -> None:
    headers = {"authorization": "Key atl_ann" if path.startswith("/fal") else "Bearer atl_ann"}
    async with world.http.stream(method, path, json=body, headers=headers) as answer:
        text, pieces = "", answer.aiter_text()
        while until not in text:
            text += await anext(pieces)
        assert answer.status_code == 200, text
        stopping = asyncio.ensure_future(world.running.stop())
        # A body that is cut would raise here.
        text += "".join([piece async for piece in pieces])
        await stopping
    assert "[DONE]" not in text
    assert "event: done" not in text
    last = text.removesuffix("\n\n").rpartition("data: ")[2]
    found: Any = json.loads(last) if where else last
    for name in where:
        found = found[name]
    assert found == "The gateway is closing; repeat."


async def test_a_stream_that_begins_while_the_gateway_closes_is_no_complete_one(world: World) -> None:
    world.gateway.context.closing.set()
    answer = await world.http.post(
        "/openai/v1/chat/completions", json=CHAT, headers={"authorization": "Bearer atl_ann"}
    )
    assert "service_unavailable" in answer.text
    assert "[DONE]" not in answer.text
