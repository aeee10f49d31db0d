"""What receivers are told of a job: the deliveries that a transition of it makes. No I/O."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import datetime

from router_service.domain import FINAL, Job, JobState
from router_service.webhook_domain import Delivery, WebhookEvent


def deliveries_of(before: Job, after: Job) -> Iterator[Delivery]:
    """Yield what a transition of a job makes receivers be told, each with an id that is always the same for it."""
    webhook = after.webhook
    if webhook is None:
        return
    for event, happened_at in _events(before, after):
        if event in webhook.events and happened_at is not None:
            yield Delivery(
                delivery_id=str(uuid.uuid5(uuid.UUID(after.job_id), f"webhook/{event.value}")),
                owner=after.owner,
                job_id=after.job_id,
                event=event,
                dialect=webhook.dialect,
                url=webhook.url,
                created_at=happened_at,
                due_at=happened_at,
            )


def _events(before: Job, after: Job) -> Iterator[tuple[WebhookEvent, datetime | None]]:
    if before.started_at is None and after.started_at is not None:
        yield WebhookEvent.STARTED, after.started_at
    if after.state in FINAL and before.state not in FINAL:
        if after.state is JobState.SUCCEEDED:
            yield WebhookEvent.OUTPUT, after.finished_at
        yield WebhookEvent.COMPLETED, after.finished_at
