"""Webhooks from end to end: real services, a real receiver, and the clients that check signatures."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from replicate.webhook import Webhooks, WebhookSigningSecret

from gateway.webhooks import sender
from service_kit.server import Running
from service_kit.settings import for_tests
from tests.gateway.receivers import LIMIT_S, Receiver

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Site:
    """All services but the library, and a client of the operator."""

    http: httpx.AsyncClient
    receive: Callable[..., Awaitable[Receiver]]

    async def cancelled(self, url: str, **webhook: Any) -> str:
        """Submit a job with a webhook and cancel it. Returns its id."""
        body = {"prompt": "a heron", "model": "sdxl", "format": "image", "webhook": {"url": url, **webhook}}
        job_id: str = (await self.http.post("/v1/generate-content", json=body)).raise_for_status().json()["job_id"]
        (await self.http.post(f"/v1/jobs/{job_id}/cancel")).raise_for_status()
        return job_id

    async def deliveries(self, **query: Any) -> list[dict[str, Any]]:
        answer = (await self.http.get("/v1/webhooks/deliveries", params=query)).raise_for_status().json()
        found: list[dict[str, Any]] = answer["deliveries"]
        return found

    async def delivery(self, state: str, **query: Any) -> dict[str, Any]:
        """Wait until a delivery is in a state, and return it."""
        async with asyncio.timeout(LIMIT_S):
            while True:
                for delivery in await self.deliveries(**query):
                    if delivery["state"] == state or (state == "failed once" and delivery["attempts"]):
                        return delivery
                await asyncio.sleep(0.05)

    async def secret(self) -> str:
        return str((await self.http.get("/v1/webhooks/secret")).raise_for_status().json()["secret"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """One for all: each test has jobs and receivers of its own."""
    tmp_path = tmp_path_factory.mktemp("site")
    running: list[Running] = []
    targets: dict[str, Any] = {"outgoing__allow": ("127.0.0.1/32",), "outgoing__webhook_timeout": "2s"}
    for name, settings in {
        "asset_service": ("router__asset_target", "gateway__asset_target"),
        "router_service": ("gateway__router_target",),
        "gateway": (),
    }.items():
        part = await importlib.import_module(f"{name}.__main__").start(for_tests(tmp_path, **targets))
        running.append(part)
        targets |= dict.fromkeys(settings, part.target)
    key = (tmp_path / "keys" / "admin.key").read_text("utf-8").strip()
    async with AsyncExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setattr(sender, "_PAUSE_S", 0.1)

        async def receive(*statuses: int) -> Receiver:
            receiver = Receiver(list(statuses) or [204])
            server = await asyncio.start_server(receiver.talk, "127.0.0.1", 0)
            receiver.port = server.sockets[0].getsockname()[1]
            stack.callback(server.close)
            return receiver

        client = httpx.AsyncClient(
            base_url=f"http://{running[-1].target}", headers={"x-api-key": key}, timeout=20, trust_env=False
        )
        yield Site(await stack.enter_async_context(client), receive)
        for part in reversed(running):
            await part.stop()


async def test_a_receiver_is_told_of_the_end_signed_and_it_is_logged(site: Site) -> None:
    receiver = await site.receive()
    job_id = await site.cancelled(receiver.url)
    got = (await receiver.wait_for(1))[0]
    assert got.json["type"] == "job.completed"
    assert got.json["data"] == {**(await site.http.get(f"/v1/jobs/{job_id}")).json(), "assets": []}
    assert got.headers["content-type"] == "application/json"
    delivery = await site.delivery("delivered", job_id=job_id)
    assert delivery["delivery_id"] == got.headers["webhook-id"]
    assert (delivery["attempts"], delivery["last_status"], delivery["last_error"]) == (1, 204, "")
    assert "next_attempt_at" not in delivery
    assert len(receiver.got) == 1


async def test_the_clients_that_people_have_accept_what_comes(site: Site) -> None:
    receiver = await site.receive()
    old = await site.secret()
    rotated = (await site.http.post("/v1/webhooks/secret/rotate", json={})).raise_for_status().json()
    assert rotated["secret"] == await site.secret() != old
    jobs = {dialect: await site.cancelled(receiver.url, dialect=dialect) for dialect in ("openai", "replicate", "fal")}
    got = {str(one.json["data"]["id"] if "data" in one.json else ""): one for one in await receiver.wait_for(3)}
    event = got[jobs["openai"]]
    for secret in (old, rotated["secret"]):
        client = openai.OpenAI(api_key="unused", webhook_secret=secret)
        assert client.webhooks.unwrap(event.body.decode(), event.headers).type == event.json["type"]
        for one in receiver.got:
            text = one.body.decode()
            Webhooks.validate(headers=one.headers, body=text, secret=WebhookSigningSecret(key=secret))
    with pytest.raises(openai.InvalidWebhookSignatureError):
        openai.OpenAI(api_key="unused", webhook_secret=old).webhooks.unwrap(event.body.decode() + " ", event.headers)


async def test_what_fails_is_tried_again_and_again_by_hand(site: Site) -> None:
    receiver = await site.receive(500, 410, 200)
    job_id = await site.cancelled(receiver.url)
    failed = await site.delivery("failed once", job_id=job_id)
    assert (failed["state"], failed["last_status"]) == ("pending", 500)
    assert failed["last_error"] == "The receiver answered 500."
    assert failed["next_attempt_at"] > failed["last_attempt_at"]
    path = f"/v1/webhooks/deliveries/{failed['delivery_id']}/redeliver"
    assert (await site.http.post(path, json={})).json()["delivery"]["state"] == "pending"
    gone = await site.delivery("given_up", job_id=job_id)
    assert (gone["attempts"], gone["last_status"]) == (2, 410)
    (await site.http.post(path, json={})).raise_for_status()
    assert (await site.delivery("delivered", job_id=job_id))["attempts"] == 3
    assert {got.headers["webhook-id"] for got in receiver.got} == {failed["delivery_id"]}
    assert (await site.http.post("/v1/webhooks/deliveries/none/redeliver", json={})).status_code == 404


async def test_a_redirect_is_not_followed_and_silence_is_a_failure(site: Site) -> None:
    moved, silent = await site.receive(307), await site.receive()
    silent.stalled = asyncio.Event()
    first, second = await site.cancelled(moved.url), await site.cancelled(silent.url)
    assert (await site.delivery("failed once", job_id=first))["last_status"] == 307
    unanswered = await site.delivery("failed once", job_id=second)
    assert (unanswered["last_status"], unanswered["last_error"]) == (
        0,
        "The server did not answer in full within 2 s.",
    )
    assert len(moved.got) == len(silent.got) == 1
    silent.stalled.set()


@pytest.mark.parametrize(
    "url", ["https://10.0.0.1/", "https://localhost:99999/", "ftp://a.example/", "https://u:p@a.example/"]
)
async def test_an_address_that_is_refused_is_refused_at_once(site: Site, url: str) -> None:
    body = {"prompt": "a heron", "model": "sdxl", "format": "image", "webhook": {"url": url}}
    answer = await site.http.post("/v1/generate-content", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["fields"][0]["field"] == "webhook.url"
    jobs = (await site.http.get("/v1/jobs?page_size=200")).json()["jobs"]
    assert {job["job_id"] for job in jobs} == {delivery["job_id"] for delivery in await site.deliveries(page_size=200)}
