"""What webhooks post: one renderer for each dialect, chosen by the dialect of the submission.

A renderer is a function of what it is given alone, because a delivery may be repeated hours later, by another gateway.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from atelier.asset.v1 import asset_pb2
from atelier.router.v1 import job_pb2, router_service_pb2
from gateway.render import dump, to_json
from service_kit.clock import rfc3339


@dataclass(frozen=True, slots=True)
class Delivery:
    """What happened, for a renderer.

    Attributes:
        delivery_id: the same in every repetition; also the header `webhook-id`.
        event: `started`, `output` or `completed`.
        happened_at: when it happened, in UTC.
        job: the job as it was then, as GetJob answers it.
        assets: the job's assets that can be seen now, by index; with URLs that are signed anew for each attempt.
        public_url: the address of the gateway for clients, without a slash at its end.
    """

    delivery_id: str
    event: str
    happened_at: datetime
    job: job_pb2.Job
    assets: Sequence[asset_pb2.Asset]
    public_url: str


Renderer = Callable[[Delivery], bytes]
"""Returns the body as JSON in UTF-8."""


def native(delivery: Delivery) -> bytes:
    """Return the body of the native dialect: `data` is what `GET /v1/jobs/{id}` answers, with the job's assets."""
    answer = to_json(router_service_pb2.GetJobResponse(job=delivery.job))
    body = {
        "type": f"job.{delivery.event}",
        "timestamp": rfc3339(delivery.happened_at),
        "data": {**answer, "assets": [to_json(asset) for asset in delivery.assets]},
    }
    return dump(body)
