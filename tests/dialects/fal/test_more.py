"""What fal's Python client does not do itself: webhooks, the proxy of browsers and its storage, text."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.dialects.conftest import damaged
from tests.gateway.receivers import Receiver
from tests.support.system import System

pytestmark = pytest.mark.asyncio(loop_scope="session")

SMALL: dict[str, Any] = {"prompt": "a heron", "image_size": {"width": 128, "height": 128}, "num_inference_steps": 2}
QUEUE = "https://queue.fal.run/fal-ai/sdxl"


@pytest_asyncio.fixture(loop_scope="session")
async def http(system: System) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Key {system.key()}"}
    async with httpx.AsyncClient(base_url=system.url, headers=headers, trust_env=False, timeout=20) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="session")
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver([200])
    server = await asyncio.start_server(made.talk, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()


async def proxied(http: httpx.AsyncClient, method: str, target: str, body: Any = None) -> httpx.Response:
    return await http.request(method, "/fal/proxy", json=body, headers={"x-fal-target-url": target})


async def test_a_webhook_has_the_body_of_fal(http: httpx.AsyncClient, receiver: Receiver) -> None:
    ways = {"fal_webhook": receiver.url}
    request_id = (await http.post("/fal/queue/fal-ai/sdxl", json=SMALL, params=ways)).json()["request_id"]
    told = json.loads((await receiver.wait_for(1))[0].body)
    result = (await http.get(f"/fal/queue/fal-ai/sdxl/requests/{request_id}")).json()
    assert (told["request_id"], told["status"], told["error"]) == (request_id, "OK", None)
    assert told["payload"]["images"][0]["file_name"] == result["images"][0]["file_name"]
    long = {**SMALL, "num_inference_steps": 200, "num_images": 8}
    request_id = (await http.post("/fal/queue/fal-ai/sdxl", json=long, params=ways)).json()["request_id"]
    await http.put(f"/fal/queue/fal-ai/sdxl/requests/{request_id}/cancel")
    told = json.loads((await receiver.wait_for(2))[1].body)
    assert (told["request_id"], told["status"]) == (request_id, "ERROR")
    assert told["payload"]["error_type"] == "client_cancelled"


async def test_a_webhook_that_may_not_be_reached_is_refused(http: httpx.AsyncClient) -> None:
    response = await http.post("/fal/queue/fal-ai/sdxl", json=SMALL, params={"fal_webhook": "http://10.0.0.1/"})
    assert (response.status_code, response.json()["detail"][0]["loc"][1]) == (422, "fal_webhook")


async def test_the_proxy_serves_what_each_call_names(http: httpx.AsyncClient) -> None:
    submitted = (await proxied(http, "POST", QUEUE, SMALL)).json()
    target = f"{QUEUE}/requests/{submitted['request_id']}"
    stream = await proxied(http, "GET", f"{target}/status/stream?logs=1")
    events = [json.loads(line[6:]) for line in stream.text.splitlines() if line.startswith("data: ")]
    assert (events[-1]["status"], events[-1]["logs"][-1]["message"]) == ("COMPLETED", "Delivered 1 of 1.")
    assert len((await proxied(http, "GET", target)).json()["images"]) == 1
    late = await proxied(http, "PUT", f"{target}/cancel")
    assert (late.status_code, late.json()["status"]) == (400, "ALREADY_COMPLETED")
    assert (await proxied(http, "DELETE", target)).status_code == 405
    assert (await proxied(http, "GET", QUEUE)).status_code == 405


async def test_a_file_is_brought_without_a_key(http: httpx.AsyncClient, picture: bytes) -> None:
    target = "https://rest.fal.ai/storage/upload/initiate?storage_type=fal-cdn-v3"
    told = (await proxied(http, "POST", target, {"content_type": "image/png", "file_name": "teal.png"})).json()
    async with httpx.AsyncClient(trust_env=False) as anybody:
        for _ in range(2):
            assert (await anybody.put(told["upload_url"], content=picture)).status_code == 200
        assert (await anybody.put(damaged(told["upload_url"]), content=picture)).status_code == 401
        assert (await anybody.put(told["upload_url"].partition("?")[0], content=picture)).status_code == 422
    body = {**SMALL, "image_url": told["file_url"]}
    response = await http.post("/fal/run/fal-ai/sdxl/image-to-image", json=body)
    assert len(response.json()["images"]) == 1


async def test_text_is_written_and_streamed(http: httpx.AsyncClient) -> None:
    body = {"prompt": "Name a bird.", "system_prompt": "Be brief.", "max_tokens": 32, "temperature": 0.5, "top_p": 0.9}
    whole = (await http.post("/fal/run/fal-ai/chat", json=body)).json()
    assert whole["output"]
    streamed = await http.post("/fal/run/fal-ai/chat/stream", json=body)
    pieces = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: ")]
    assert pieces[-1]["partial"] is False
    for piece in pieces[:-1]:
        assert pieces[-1]["output"].startswith(piece["output"])


async def test_who_comes_again_after_a_connection_broke_gets_what_is_being_made(
    http: httpx.AsyncClient, system: System
) -> None:
    # So many steps that it still runs when it is left, however late that is.
    body = {**SMALL, "prompt": "left while it ran", "num_inference_steps": 200}

    async def ids() -> list[str]:
        headers = {"authorization": f"Bearer {system.key()}"}
        jobs = (await http.get("/v1/jobs?page_size=200", headers=headers)).json()["jobs"]
        return [job["job_id"] for job in jobs if job["prompt"] == body["prompt"]]

    waiting = asyncio.create_task(http.post("/fal/run/fal-ai/sdxl", json=body))
    # The API tells it only to those who ask.
    while not await ids():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    again = await http.post("/fal/run/fal-ai/sdxl", json=body)
    assert [again.headers["x-fal-request-id"]] == await ids()
    # That was answered: who asks once more wants another.
    anew = await http.post("/fal/queue/fal-ai/sdxl", json=body)
    await http.put(anew.json()["cancel_url"])
    assert len(await ids()) == 2
