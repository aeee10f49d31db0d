"""`WebhookService`: decode, one call, encode."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from atelier.router.v1 import webhook_service_pb2 as pb
from atelier.router.v1 import webhook_service_pb2_grpc
from router_service import webhook_wire, wire
from router_service.moment_wire import moment
from router_service.pools import Pools
from router_service.webhooks import Leased, Webhooks
from service_kit.identity import Owner, current_caller

_DEFAULT_PAGE = 50
_DEFAULT_LEASE = timedelta(minutes=1)


class WebhookServicer(webhook_service_pb2_grpc.WebhookServiceServicer):
    """Webhooks over gRPC."""

    def __init__(self, webhooks: Webhooks, pools: Pools) -> None:
        self._webhooks = webhooks
        self._pools = pools

    async def ListWebhookDeliveries(
        self, request: pb.ListWebhookDeliveriesRequest, context: Any
    ) -> pb.ListWebhookDeliveriesResponse:
        page = await self._webhooks.list(
            current_caller().owner,
            job_id=request.job_id,
            state=webhook_wire.state_from_proto(request.state),
            page_size=request.page_size if request.HasField("page_size") else _DEFAULT_PAGE,
            page_token=request.page_token,
        )
        deliveries = [webhook_wire.delivery_to_proto(delivery) for delivery in page.deliveries]
        return pb.ListWebhookDeliveriesResponse(deliveries=deliveries, next_page_token=page.next_page_token)

    async def RedeliverWebhook(self, request: pb.RedeliverWebhookRequest, context: Any) -> pb.RedeliverWebhookResponse:
        delivery = await self._webhooks.redeliver(request.delivery_id, current_caller().owner)
        return pb.RedeliverWebhookResponse(delivery=webhook_wire.delivery_to_proto(delivery))

    async def GetWebhookSecret(self, request: pb.GetWebhookSecretRequest, context: Any) -> pb.GetWebhookSecretResponse:
        secret, created_at = await self._webhooks.secret(current_caller().owner)
        return pb.GetWebhookSecretResponse(secret=secret.reveal(), created_at=moment(created_at))

    async def RotateWebhookSecret(
        self, request: pb.RotateWebhookSecretRequest, context: Any
    ) -> pb.RotateWebhookSecretResponse:
        secret, until = await self._webhooks.rotate(current_caller().owner)
        return pb.RotateWebhookSecretResponse(secret=secret.reveal(), previous_ends_at=moment(until))

    async def LeaseDeliveries(self, request: pb.LeaseDeliveriesRequest, context: Any) -> pb.LeaseDeliveriesResponse:
        lease_for = request.lease.ToTimedelta() if request.HasField("lease") else _DEFAULT_LEASE
        leased = await self._webhooks.lease(
            limit=request.limit,
            lease_for=lease_for,
            most_per_owner=request.most_per_owner if request.HasField("most_per_owner") else request.limit,
            busy=[Owner(owner.tenant_id, owner.owner_id) for owner in request.busy],
        )
        return pb.LeaseDeliveriesResponse(deliveries=[self._leased(one) for one in leased])

    async def ReportDeliveries(self, request: pb.ReportDeliveriesRequest, context: Any) -> pb.ReportDeliveriesResponse:
        await self._webhooks.report([webhook_wire.report_from_proto(report) for report in request.reports])
        return pb.ReportDeliveriesResponse()

    def _leased(self, leased: Leased) -> pb.LeasedDelivery:
        return pb.LeasedDelivery(
            delivery=webhook_wire.delivery_to_proto(leased.delivery),
            owner=wire.owner_to_proto(leased.delivery.owner),
            job=wire.job_to_proto(leased.job, self._pools),
            lease=leased.delivery.lease,
            secrets=[secret.reveal() for secret in leased.secrets],
        )
