"""Sends webhooks: leases what is due from the router, posts it, and reports what was answered.

Any number of gateways may. One that dies leaves leases behind, which lapse; so a receiver can get a delivery twice.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, timedelta
from functools import partial

import grpc

from atelier.asset.v1 import asset_pb2, asset_service_pb2, asset_service_pb2_grpc
from atelier.router.v1 import webhook_pb2, webhook_service_pb2, webhook_service_pb2_grpc
from atelier.type.v1 import media_pb2
from gateway.webhooks.bodies import Delivery, Renderer
from gateway.webhooks.signing import signed_headers
from service_kit.clock import Clock
from service_kit.destinations import Refused
from service_kit.errors import AtelierError
from service_kit.identity import Owner, on_behalf_of
from service_kit.outgoing import Outgoing, Unreachable
from service_kit.secret import Secret
from service_kit.tasks import BackgroundTasks, end
from service_kit.telemetry import get_logger

log = get_logger(__name__)

_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 5.0
_REPORT_TRIES = 20
_STOP_GRACE_S = 5.0
_MARGIN = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class SenderLimits:
    """How many webhooks are under way at once, and how long a receiver may take."""

    at_once: int
    timeout: timedelta

    @property
    def per_owner(self) -> int:
        """How many of one owner: receivers that never answer must not hold up those of others."""
        return max(1, self.at_once // 4)

    @property
    def lease(self) -> timedelta:
        """For how long deliveries are leased: longer than all that is done with one takes."""
        return self.timeout * 2 + _MARGIN


class Sender:
    """Sends until it is stopped."""

    def __init__(
        self,
        router: grpc.aio.Channel,
        assets: grpc.aio.Channel,
        outgoing: Outgoing,
        clock: Clock,
        public_url: str,
        limits: SenderLimits,
        renderers: Mapping[str, Renderer],
    ) -> None:
        """Use channels that carry the gateway's own identity, and renderers by the lower-case name of their dialect."""
        self._router = webhook_service_pb2_grpc.WebhookServiceStub(router)
        self._assets = asset_service_pb2_grpc.AssetServiceStub(assets)
        self._outgoing = outgoing
        self._clock = clock
        self._public_url = public_url.rstrip("/")
        self._limits = limits
        self._renderers = renderers
        self._under_way: set[asyncio.Task[None]] = set()
        self._owners: Counter[Owner] = Counter()
        self._tasks = BackgroundTasks()
        self._ended = asyncio.Event()

    def start(self) -> None:
        """Begin, unless the limits say that this gateway sends none."""
        if self._limits.at_once:
            self._tasks.start("gateway.webhooks", self.run)

    async def stop(self) -> None:
        """Lease no more, let what is under way end for a moment, then break it off: it is sent again."""
        await self._tasks.stop()
        if self._under_way:
            _, left = await asyncio.wait(self._under_way, timeout=_STOP_GRACE_S)
            await end(left)

    async def run(self) -> None:
        """Send what becomes due, until cancelled. While the router is away, ask it less and less often."""
        pause_s = _PAUSE_S
        while True:
            self._ended.clear()
            try:
                found = await self._lease()
            except (grpc.RpcError, AtelierError) as error:
                log.warning("webhooks_delayed", problem=_reason(error))
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
                continue
            pause_s = _PAUSE_S
            if not found:
                await asyncio.sleep(_PAUSE_S)
            elif len(self._under_way) >= self._limits.at_once:
                await self._ended.wait()

    async def _lease(self) -> bool:
        """Take on as much as there is room for. Returns whether there was anything."""
        busy = [owner for owner, count in self._owners.items() if count >= self._limits.per_owner]
        request = webhook_service_pb2.LeaseDeliveriesRequest(
            limit=max(1, min(self._limits.at_once - len(self._under_way), 256)),
            most_per_owner=self._limits.per_owner,
            busy=[media_pb2.Owner(tenant_id=owner.tenant_id, owner_id=owner.owner_id) for owner in busy[:256]],
        )
        request.lease.FromTimedelta(self._limits.lease)
        answer = await self._router.LeaseDeliveries(request)
        for leased in answer.deliveries:
            owner = Owner(leased.owner.tenant_id, leased.owner.owner_id)
            task = asyncio.create_task(self._send(leased, owner), name=f"webhook-{leased.delivery.delivery_id}")
            self._under_way.add(task)
            self._owners[owner] += 1
            task.add_done_callback(partial(self._forget, owner))
        return bool(answer.deliveries)

    def _forget(self, owner: Owner, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._owners[owner] -= 1
        if not self._owners[owner]:
            del self._owners[owner]
        self._ended.set()
        if not task.cancelled() and task.exception() is not None:
            log.error("webhook_fault", error=repr(task.exception()))

    async def _send(self, leased: webhook_service_pb2.LeasedDelivery, owner: Owner) -> None:
        try:
            assets = await self._assets_of(leased, owner)
        except (grpc.RpcError, AtelierError) as error:
            # Not the receiver's fault, so it is no attempt: it is due again when the lease lapses.
            log.warning("webhook_delayed", delivery_id=leased.delivery.delivery_id, problem=_reason(error))
            return
        status, problem = await self._post(leased, assets)
        await self._report(leased, status, problem)

    async def _assets_of(self, leased: webhook_service_pb2.LeasedDelivery, owner: Owner) -> Collection[asset_pb2.Asset]:
        if leased.delivery.event == webhook_pb2.WEBHOOK_EVENT_STARTED or not leased.job.outputs:
            return ()
        request = asset_service_pb2.ListAssetsRequest(job_id=leased.job.job_id)
        answer = await self._assets.ListAssets(request, metadata=on_behalf_of(owner))
        return sorted(answer.assets, key=lambda asset: asset.asset_index)

    async def _post(
        self, leased: webhook_service_pb2.LeasedDelivery, assets: Collection[asset_pb2.Asset]
    ) -> tuple[int, str]:
        """Return the status that was answered, 0 without an answer, and why it is no good one."""
        delivery = leased.delivery
        body = self._render(leased, assets)
        if body is None:
            return 0, "This gateway could not make the body of this dialect."
        secrets = [Secret(text) for text in leased.secrets]
        headers = {
            "content-type": "application/json",
            **signed_headers(delivery.delivery_id, self._clock.now(), body, secrets),
        }
        try:
            status = await self._outgoing.post(delivery.url, body, headers, limit=self._limits.timeout)
        except Refused as refused:
            return 0, f"The address {refused}."
        except Unreachable as problem:
            return 0, str(problem)
        return status, "" if 200 <= status < 300 else f"The receiver answered {status}."

    def _render(self, leased: webhook_service_pb2.LeasedDelivery, assets: Collection[asset_pb2.Asset]) -> bytes | None:
        delivery = leased.delivery
        try:
            # A newer router may know dialects and events that have no name here.
            dialect = webhook_pb2.WebhookDialect.Name(delivery.dialect).removeprefix("WEBHOOK_DIALECT_").lower()
            event = webhook_pb2.WebhookEvent.Name(delivery.event).removeprefix("WEBHOOK_EVENT_").lower()
            happened = Delivery(
                delivery_id=delivery.delivery_id,
                event=event,
                happened_at=delivery.created_at.ToDatetime(UTC),
                job=leased.job,
                assets=tuple(assets),
                public_url=self._public_url,
            )
            return self._renderers[dialect](happened)
        except Exception:
            # Whatever it is, it must not end the sending of all others, and the router is to hear of it.
            log.exception("webhook_not_rendered", delivery_id=delivery.delivery_id, dialect=delivery.dialect)
            return None

    async def _report(self, leased: webhook_service_pb2.LeasedDelivery, status: int, problem: str) -> None:
        report = webhook_service_pb2.DeliveryReport(
            delivery_id=leased.delivery.delivery_id, lease=leased.lease, status=status, error=problem[:500]
        )
        for _ in range(_REPORT_TRIES):
            try:
                await self._router.ReportDeliveries(webhook_service_pb2.ReportDeliveriesRequest(reports=[report]))
            except (grpc.RpcError, AtelierError) as error:
                log.warning("webhook_report_delayed", delivery_id=report.delivery_id, problem=_reason(error))
                await asyncio.sleep(_PAUSE_S)
            else:
                return


def _reason(error: grpc.RpcError | AtelierError) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return str(error)
