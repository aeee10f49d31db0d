"""A webhook in the shape of OpenAI's events, which its client's `webhooks.unwrap` takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from tests.dialects.openai.test_images import strict
from tests.support.system import System

pytestmark = pytest.mark.asyncio(loop_scope="session")


class Receiver:
    """Takes whatever is posted to it."""

    def __init__(self) -> None:
        self.url = ""
        self.posted: asyncio.Queue[tuple[dict[str, str], bytes]] = asyncio.Queue()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        pairs = [line.split(": ", 1) for line in head.split("\r\n")[1:] if line]
        headers = {name.lower(): value for name, value in pairs}
        body = await reader.readexactly(int(headers["content-length"]))
        await self.posted.put((headers, body))
        writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()


@pytest_asyncio.fixture(loop_scope="session")
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    yield made
    server.close()


async def test_an_event_is_unwrapped_by_the_client(system: System, receiver: Receiver) -> None:
    async with httpx.AsyncClient(headers={"x-api-key": system.key()}, trust_env=False) as http:
        secret = (await http.get(f"{system.url}/v1/webhooks/secret")).json()["secret"]
    async with strict(system) as client:
        answer = await client.images.with_raw_response.generate(
            prompt="a heron", model="sdxl", size="128x128", extra_body={"webhook": receiver.url}
        )
        headers, body = await asyncio.wait_for(receiver.posted.get(), 10)
    async with AsyncOpenAI(api_key="none", webhook_secret=secret) as receiving:
        event = receiving.webhooks.unwrap(body, headers)
        with pytest.raises(openai.InvalidWebhookSignatureError):
            receiving.webhooks.unwrap(body + b" ", headers)
    told = event.to_dict()
    assert told["type"] == "image.completed"
    assert told["data"] == {"id": answer.headers["atelier-job-id"]}
    assert event.id == f"evt_{headers['webhook-id']}"


async def test_an_address_that_may_not_be_reached_is_refused_by_name(system: System) -> None:
    async with strict(system) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.images.generate(prompt="a heron", model="sdxl", extra_body={"webhook": "http://10.0.0.1/"})
    assert caught.value.param == "webhook.url"
