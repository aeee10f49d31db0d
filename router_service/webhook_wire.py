"""Protobuf to domain and back, for webhooks."""

from __future__ import annotations

from typing import Any, TypeVar

from atelier.router.v1 import webhook_pb2
from atelier.router.v1 import webhook_service_pb2 as pb
from router_service.moment_wire import moment
from router_service.webhook_domain import (
    Delivery,
    DeliveryState,
    Report,
    Webhook,
    WebhookDialect,
    WebhookEvent,
)
from service_kit.errors import InvalidArgument

_K = TypeVar("_K", WebhookEvent, WebhookDialect, DeliveryState)
_EVENTS = {event: webhook_pb2.WebhookEvent.Value(f"WEBHOOK_EVENT_{event.name}") for event in WebhookEvent}
_DIALECTS = {one: webhook_pb2.WebhookDialect.Value(f"WEBHOOK_DIALECT_{one.name}") for one in WebhookDialect}
_STATES = {one: pb.WebhookDeliveryState.Value(f"WEBHOOK_DELIVERY_STATE_{one.name}") for one in DeliveryState}


def webhook_from_proto(message: webhook_pb2.Webhook) -> Webhook:
    """Return whom a job is to tell. Raises InvalidArgument for an enum number that nobody knows."""
    events = [_known(_EVENTS, number, f"webhook.events[{index}]") for index, number in enumerate(message.events)]
    dialect = _known(_DIALECTS, message.dialect, "webhook.dialect") if message.dialect else WebhookDialect.NATIVE
    return Webhook(message.url, tuple(dict.fromkeys(events)) or (WebhookEvent.COMPLETED,), dialect)


def state_from_proto(number: int) -> DeliveryState | None:
    """Return the state that a filter names, None when it names none."""
    return _known(_STATES, number, "state") if number else None


def report_from_proto(message: pb.DeliveryReport) -> Report:
    """Return what a receiver answered."""
    return Report(message.delivery_id, message.lease, message.status, message.error)


def delivery_to_proto(delivery: Delivery) -> pb.WebhookDelivery:
    """Return what became of a delivery."""
    return pb.WebhookDelivery(
        delivery_id=delivery.delivery_id,
        job_id=delivery.job_id,
        event=_EVENTS[delivery.event],
        url=delivery.url,
        dialect=_DIALECTS[delivery.dialect],
        state=_STATES[delivery.state],
        attempts=delivery.attempts,
        last_status=delivery.last_status,
        last_error=delivery.last_error,
        created_at=moment(delivery.created_at),
        last_attempt_at=moment(delivery.attempted_at),
        next_attempt_at=moment(delivery.due_at),
    )


def _known(names: dict[_K, Any], number: int, field: str) -> _K:
    for name, known in names.items():
        if known == number:
            return name
    raise InvalidArgument.field(field, f"has no value with the number {number}")
