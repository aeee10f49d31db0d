"""The sender by itself: floods, receivers and services that are away, bodies that cannot be made, the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import grpc
import pytest

from atelier.asset.v1 import asset_pb2, asset_service_pb2, asset_service_pb2_grpc
from atelier.router.v1 import webhook_pb2, webhook_service_pb2_grpc
from atelier.router.v1 import webhook_service_pb2 as hooks
from gateway.dialects.registry import RENDERERS
from gateway.webhooks import sender as sender_module
from gateway.webhooks.bodies import Delivery, Renderer
from gateway.webhooks.sender import Sender, SenderLimits
from service_kit.clock import SystemClock
from service_kit.destinations import Destinations
from service_kit.ids import new_id
from service_kit.outgoing import Outgoing, Resolver, open_tls
from tests.gateway.receivers import LIMIT_S, Receiver

SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Router(webhook_service_pb2_grpc.WebhookServiceServicer, asset_service_pb2_grpc.AssetServiceServicer):
    """Gives out what a test has put down, as the router does, and notes what is reported."""

    def __init__(self) -> None:
        self.waiting: list[hooks.LeasedDelivery] = []
        self.reports: dict[str, hooks.DeliveryReport] = {}
        self.reported = asyncio.Condition()
        self.asked: list[hooks.LeaseDeliveriesRequest] = []
        self.failures: list[grpc.StatusCode] = []
        self.assets: list[asset_pb2.Asset] | None = []

    def put(self, url: str, owner: str = "ann", **delivery: Any) -> str:
        """Put a delivery down. Returns its id."""
        leased = hooks.LeasedDelivery(
            delivery=hooks.WebhookDelivery(
                **{"delivery_id": new_id(), "url": url, "event": 3, "dialect": 1, **delivery}
            ),
            lease=1,
            secrets=[SECRET],
        )
        leased.owner.owner_id = owner
        leased.job.job_id = new_id()
        leased.job.outputs.add()
        self.waiting.append(leased)
        return leased.delivery.delivery_id

    async def LeaseDeliveries(self, request: Any, context: Any) -> hooks.LeaseDeliveriesResponse:
        if self.failures:
            await context.abort(self.failures.pop(0), "as the test says")
        self.asked.append(request)
        given: list[hooks.LeasedDelivery] = []
        for one in list(self.waiting):
            mine = sum(other.owner == one.owner for other in given)
            if len(given) < request.limit and mine < request.most_per_owner and one.owner not in request.busy:
                given.append(one)
                self.waiting.remove(one)
        return hooks.LeaseDeliveriesResponse(deliveries=given)

    async def ReportDeliveries(self, request: Any, context: Any) -> hooks.ReportDeliveriesResponse:
        async with self.reported:
            self.reports |= {report.delivery_id: report for report in request.reports}
            self.reported.notify_all()
        return hooks.ReportDeliveriesResponse()

    async def ListAssets(self, request: Any, context: Any) -> asset_service_pb2.ListAssetsResponse:
        if self.assets is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "down")
        return asset_service_pb2.ListAssetsResponse(assets=self.assets)

    async def report(self, delivery_id: str) -> hooks.DeliveryReport:
        async with asyncio.timeout(LIMIT_S), self.reported:
            await self.reported.wait_for(lambda: delivery_id in self.reports)
            return self.reports[delivery_id]


Receive = Callable[..., Awaitable[Receiver]]
Begin = Callable[..., Sender]


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender_module, "_PAUSE_S", 0.02)
    monkeypatch.setattr(sender_module, "_STOP_GRACE_S", 0.2)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as opened:
        yield opened


@pytest.fixture
def router() -> Router:
    return Router()  # type: ignore[abstract]


@pytest.fixture
async def begin(router: Router, stack: AsyncExitStack) -> Begin:
    server = grpc.aio.server()
    webhook_service_pb2_grpc.add_WebhookServiceServicer_to_server(router, server)
    asset_service_pb2_grpc.add_AssetServiceServicer_to_server(router, server)
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
    await server.start()
    stack.push_async_callback(server.stop, None)
    stack.push_async_callback(channel.close)
    resolver = Resolver()
    stack.callback(resolver.close)
    outgoing = Outgoing(Destinations(["127.0.0.1/32"]), resolver, open_tls(""))

    def start(at_once: int = 8, timeout_s: float = 5, renderers: Mapping[str, Renderer] = RENDERERS) -> Sender:
        limits = SenderLimits(at_once, timedelta(seconds=timeout_s))
        made = Sender(channel, channel, outgoing, SystemClock(), "http://127.0.0.1:1/", limits, renderers)
        made.start()
        stack.push_async_callback(made.stop)
        return made

    return start


@pytest.fixture
async def receive(stack: AsyncExitStack) -> Receive:
    async def make(*statuses: int) -> Receiver:
        receiver = Receiver(list(statuses) or [204])
        server = await asyncio.start_server(receiver.talk, "127.0.0.1", 0)
        receiver.port = server.sockets[0].getsockname()[1]
        stack.callback(server.close)
        return receiver

    return make


async def test_a_flood_to_a_dead_receiver_holds_up_nobody_else(router: Router, begin: Begin, receive: Receive) -> None:
    dead, good = await receive(), await receive()
    dead.stalled = asyncio.Event()
    for _ in range(50):
        router.put(dead.url, "ann")
    begin(at_once=8)
    await dead.wait_for(2)
    delivered = [router.put(good.url, "bob") for _ in range(5)]
    assert [(await router.report(one)).status for one in delivered] == [204] * 5
    assert len(dead.got) == 2, "no more than a quarter of the places are one owner's"
    assert [owner.owner_id for owner in router.asked[-1].busy] == ["ann"]
    dead.stalled.set()


async def test_all_of_a_long_queue_is_sent(router: Router, begin: Begin, receive: Receive) -> None:
    receiver = await receive()
    put = [router.put(receiver.url, f"owner-{number % 7}") for number in range(100)]
    begin(at_once=8)
    assert {(await router.report(one)).status for one in put} == {204}
    assert len(receiver.got) == 100


async def test_what_is_not_the_receivers_fault_is_no_attempt(router: Router, begin: Begin, receive: Receive) -> None:
    receiver = await receive()
    router.assets = None
    router.put(receiver.url)
    begin()
    started = router.put(receiver.url, event=1)
    assert (await router.report(started)).status == 204
    assert list(router.reports) == [started]
    assert len(receiver.got) == 1


def test_every_dialect_of_the_contracts_has_a_renderer() -> None:
    names = {
        name.removeprefix("WEBHOOK_DIALECT_").lower() for name in webhook_pb2.WebhookDialect.DESCRIPTOR.values_by_name
    }
    assert set(RENDERERS) == names - {"unspecified"}


async def test_a_body_that_cannot_be_made_is_said(router: Router, begin: Begin, receive: Receive) -> None:
    def broken(delivery: Delivery) -> bytes:
        raise KeyError("no such thing")

    receiver = await receive()
    begin(renderers={"native": RENDERERS["native"], "fal": broken})
    # The last one is a dialect of a later release.
    for delivery_id in [router.put(receiver.url, dialect=dialect) for dialect in (3, 4, 99)]:
        report = await router.report(delivery_id)
        assert (report.status, report.error) == (0, "This gateway could not make the body of this dialect.")
    assert (await router.report(router.put(receiver.url))).status == 204


async def test_an_address_that_is_refused_is_said_and_not_connected_to(router: Router, begin: Begin) -> None:
    begin()
    report = await router.report(router.put("http://127.0.0.2:1/"))
    assert (report.status, report.error) == (
        0,
        "The address leads to an address that is not public, and that outgoing.allow does not name.",
    )


async def test_a_router_that_is_away_is_asked_again(router: Router, begin: Begin, receive: Receive) -> None:
    receiver = await receive()
    router.failures = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED]
    begin()
    assert (await router.report(router.put(receiver.url))).status == 204


async def test_assets_come_by_index(router: Router, begin: Begin, receive: Receive) -> None:
    receiver = await receive()
    router.assets = [asset_pb2.Asset(asset_id=name, asset_index=index) for index, name in ((1, "b"), (0, "a"))]
    begin()
    router.put(receiver.url)
    (got,) = await receiver.wait_for(1)
    assert [asset["asset_id"] for asset in got.json["data"]["assets"]] == ["a", "b"]


async def test_the_end_waits_a_moment_and_breaks_off(router: Router, begin: Begin, receive: Receive) -> None:
    slow = await receive()
    slow.stalled = asyncio.Event()
    sender = begin()
    router.put(slow.url)
    await slow.wait_for(1)
    await sender.stop()
    assert router.reports == {}, "it is sent again when the lease lapses"
    slow.stalled.set()


async def test_a_gateway_can_leave_sending_to_others(router: Router, begin: Begin, receive: Receive) -> None:
    receiver = await receive()
    begin(at_once=0)
    # It would have asked first, and for 1.
    begin(at_once=8)
    assert (await router.report(router.put(receiver.url))).status == 204
    assert all(request.limit > 1 for request in router.asked)
