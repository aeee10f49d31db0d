"""Whatever is killed with SIGKILL around a webhook: the receiver is told, under one id."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass

import grpc
import pytest
import pytest_asyncio

from atelier.router.v1 import router_service_pb2 as pb
from atelier.router.v1 import webhook_service_pb2 as hooks
from atelier.router.v1 import webhook_service_pb2_grpc
from service_kit.channels import connect, key_tokens
from service_kit.ids import new_id
from service_kit.keyring import Keyrings
from tests.gateway.receivers import Receiver
from tests.support.processes import ENDS_WITHIN_S, Client, Processes, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

DELIVERED = hooks.WEBHOOK_DELIVERY_STATE_DELIVERED


@dataclass
class Site:
    """A router, an asset service and a gateway as processes, and somebody's receiver."""

    processes: Processes
    client: Client
    log: webhook_service_pb2_grpc.WebhookServiceAsyncStub
    receiver: Receiver

    async def restart(self, part: str, *, crash_point: str = "") -> None:
        if self.processes.runs(part):
            await self.processes.kill(part)
        await self.processes.start(part, crash_point=crash_point)

    async def submit(self) -> str:
        request = pb.GenerateContentRequest(prompt="x", model="sdxl", format=1)  # type: ignore[arg-type]
        request.webhook.url, request.idempotency_key = self.receiver.url, new_id()
        async with asyncio.timeout(ENDS_WITHIN_S):
            while True:
                with suppress(grpc.aio.AioRpcError):
                    return (await self.client.jobs.GenerateContent(request)).job_id
                await asyncio.sleep(0.05)

    async def cancel(self, job_id: str) -> None:
        """Cancel a job. The router may die of it."""
        with suppress(grpc.aio.AioRpcError):
            await self.client.jobs.CancelJob(pb.CancelJobRequest(job_id=job_id))

    async def delivery(self, job_id: str, is_it: Callable[[hooks.WebhookDelivery], bool]) -> hooks.WebhookDelivery:
        """Wait until the delivery of a job is as it should be."""
        request = hooks.ListWebhookDeliveriesRequest(job_id=job_id)
        async with asyncio.timeout(ENDS_WITHIN_S):
            while True:
                with suppress(grpc.aio.AioRpcError):
                    found = (await self.log.ListWebhookDeliveries(request)).deliveries
                    if found and is_it(found[0]):
                        return found[0]
                await asyncio.sleep(0.05)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    folder = tmp_path_factory.mktemp("webhooks")
    receiver = Receiver([204])
    server = await asyncio.start_server(receiver.talk, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    settings = {"OUTGOING_ALLOW": "127.0.0.1/32", "GATEWAY_LISTEN": "127.0.0.1:0", "OUTGOING_WEBHOOK_TIMEOUT": "30s"}
    async with running(folder, **settings) as (processes, client):
        keys = Keyrings(folder / "data" / "keys")
        identity = connect(processes.router_target)
        channel = connect(processes.router_target, tokens=key_tokens(identity, keys.read_key_file("admin.key")))
        yield Site(processes, client, webhook_service_pb2_grpc.WebhookServiceStub(channel), receiver)
        await channel.close()
        await identity.close()
    server.close()


async def test_a_router_that_dies_after_the_end_of_a_job_has_told_of_it(site: Site) -> None:
    await site.restart("router_service", crash_point="router.cancel.committed")
    await site.restart("gateway")
    job_id = await site.submit()
    await site.cancel(job_id)
    assert await site.processes.died("router_service") == -9
    await site.restart("router_service")
    delivery = await site.delivery(job_id, lambda one: one.state == DELIVERED)
    assert [got.headers["webhook-id"] for got in site.receiver.got] == [delivery.delivery_id]


async def test_a_router_that_dies_before_it_notes_an_answer_is_told_again(site: Site) -> None:
    before = len(site.receiver.got)
    await site.restart("router_service", crash_point="router.webhooks.report.before_commit")
    job_id = await site.submit()
    await site.cancel(job_id)
    assert await site.processes.died("router_service") == -9
    await site.restart("router_service")
    delivery = await site.delivery(job_id, lambda one: one.state == DELIVERED)
    told = [got.headers["webhook-id"] for got in site.receiver.got[before:]]
    assert set(told) == {delivery.delivery_id}


async def test_a_gateway_that_dies_while_it_posts_loses_nothing(site: Site) -> None:
    before = len(site.receiver.got)
    site.receiver.stalled = asyncio.Event()
    job_id = await site.submit()
    await site.cancel(job_id)
    first = (await site.receiver.wait_for(before + 1))[-1]
    await site.processes.kill("gateway")
    site.receiver.stalled.set()
    delivery = await site.delivery(job_id, lambda one: one.attempts == 0)
    # By itself it would be due again when the lease lapses.
    await site.log.RedeliverWebhook(hooks.RedeliverWebhookRequest(delivery_id=delivery.delivery_id))
    await site.restart("gateway")
    await site.delivery(job_id, lambda one: one.state == DELIVERED)
    again = (await site.receiver.wait_for(before + 2))[-1]
    assert first.headers["webhook-id"] == again.headers["webhook-id"] == delivery.delivery_id
    assert first.body == again.body
