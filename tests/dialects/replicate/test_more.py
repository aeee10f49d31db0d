"""What Replicate's Python client does not do by itself: webhooks that arrive, streams without a key, text."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import pytest_asyncio

from atelier.router.v1 import job_pb2
from gateway.dialects.replicate.answers import CANCEL_AFTER, status_of
from tests.dialects.conftest import damaged
from tests.dialects.replicate.test_replicate_1 import SDXL, SMALL, client_of
from tests.gateway.receivers import Receiver
from tests.support.system import System

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session")
async def client(system: System) -> AsyncIterator[Any]:
    made = client_of(system.url, system.key())
    yield made
    await made._async_client.aclose()


@pytest_asyncio.fixture(loop_scope="session")
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver([200])
    server = await asyncio.start_server(made.talk, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()


async def test_a_webhook_is_signed_so_that_the_client_takes_it(client: Any, receiver: Receiver) -> None:
    prediction = await client.predictions.async_create(model=SDXL, input=SMALL, webhook=receiver.url)
    posted = await receiver.wait_for(3)
    secret = await client.webhooks.default.async_secret()
    told = []
    for got in posted:
        client.webhooks.validate(headers=got.headers, body=got.body.decode(), secret=secret, tolerance=60)
        told.append(json.loads(got.body))
    assert {one["id"] for one in told} == {prediction.id}
    assert sorted(one["status"] for one in told) == ["processing", "processing", "succeeded"]
    done = next(one for one in told if one["status"] == "succeeded")
    assert (len(done["output"]), done["input"]) == (1, SMALL)
    with pytest.raises(ValueError, match="invalid"):
        client.webhooks.validate(headers=posted[0].headers, body="{}", secret=secret)


async def test_a_webhook_tells_only_of_what_was_asked(client: Any, receiver: Receiver) -> None:
    ways = {"webhook": receiver.url, "webhook_events_filter": ["completed"]}
    for more in (ways, {"webhook_completed": receiver.url}):
        prediction = await client.predictions.async_create(model=SDXL, input=SMALL, **more)
        await prediction.async_wait()
    told = [json.loads(got.body)["status"] for got in await receiver.wait_for(2)]
    assert told == ["succeeded", "succeeded"]


async def test_a_stream_needs_no_key_where_its_address_is_signed(client: Any, system: System) -> None:
    first, second = [await client.predictions.async_create(model=SDXL, input=SMALL) for _ in range(2)]
    url = first.urls["stream"]
    async with httpx.AsyncClient(trust_env=False) as anybody:
        answer = await anybody.get(url)
        assert (answer.status_code, "event: done" in answer.text) == (200, True)
        grant = url.partition("?grant=")[2]
        elsewhere = second.urls["stream"].partition("?")[0]
        for wrong in (f"{elsewhere}?grant={grant}", url.partition("?")[0], damaged(url), f"{elsewhere}?grant=x"):
            refused = await anybody.get(wrong)
            assert (refused.status_code, refused.json()["status"]) == (401, 401)
        # It opens the stream and nothing else.
        assert (await anybody.get(f"{first.urls['get']}?grant={grant}")).status_code == 401
        # And not for who shows a key that is wrong.
        for wrong_key in ({"x-api-key": "atl_wrong"}, {"authorization": "Bearer atl_wrong"}):
            assert (await anybody.get(url, headers=wrong_key)).status_code == 401
    for prediction in (first, second):
        await prediction.async_wait()


async def test_an_address_works_no_longer_than_the_key_that_it_was_made_with(system: System) -> None:
    async with httpx.AsyncClient(base_url=system.url, headers={"x-api-key": system.key()}, trust_env=False) as admin:
        made = (await admin.post("/v1/keys", json={"owner_id": "leaving"})).json()
        own = client_of(system.url, made["secret"])
        prediction = await own.predictions.async_create(model=SDXL, input=SMALL)
        async with httpx.AsyncClient(trust_env=False) as anybody:
            answer = await anybody.get(prediction.urls["stream"])
            assert (answer.status_code, "event: done" in answer.text) == (200, True)
            assert (await admin.delete(f"/v1/keys/{made['key']['key_id']}")).status_code == 200
            refused = await anybody.get(prediction.urls["stream"])
            assert (refused.status_code, refused.json()["status"]) == (401, 401)
            assert "revoked" in refused.json()["detail"]
        await own._async_client.aclose()


async def test_text_comes_as_it_is_written(client: Any) -> None:
    given = {"prompt": "Name a bird.", "system_prompt": "Be brief.", "max_new_tokens": 32, "temperature": 0.5}
    whole = await client.async_run("any/chat", input={**given, "top_p": 0.9})
    assert whole[0]
    model = await client.models.async_get("any/chat")
    output = model.latest_version.openapi_schema["components"]["schemas"]["Output"]
    assert output["x-cog-array-display"] == "concatenate"
    events = [event async for event in await client.async_stream("any/chat", input=given)]
    text = "".join(event.data for event in events if event.event.value == "output")
    assert (bool(text), events[-1].event.value) == (True, "done")


async def test_pages_show_jobs_that_came_otherwise(client: Any, system: System) -> None:
    async with httpx.AsyncClient(base_url=system.url, headers={"x-api-key": system.key()}, trust_env=False) as http:
        body = {"prompt": "native", "model": "sdxl", "format": "image", "width": 64, "height": 64}
        job_id = (await http.post("/v1/generate-content", json=body)).json()["job_id"]
        found = next(one for one in await client.predictions.async_list() if one.id == job_id)
        assert (found.model, found.input) == ("atelier/sdxl", {"prompt": "native"})
        await http.post(f"/v1/jobs/{job_id}/cancel")


async def test_a_deadline_that_the_client_set_is_a_cancellation() -> None:
    job = job_pb2.Job(state=job_pb2.JOB_STATE_FAILED)
    job.failure.reason = 30  # type: ignore[assignment]
    job.finished_at.FromDatetime(datetime.now(UTC) + timedelta(seconds=5))
    assert status_of(job) == "failed"
    job.annotations[CANCEL_AFTER] = "5"
    assert status_of(job) == "canceled"
