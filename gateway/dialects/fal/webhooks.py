"""What is posted to a `fal_webhook`: the result, or why there is none."""

from __future__ import annotations

from typing import Any

from atelier.router.v1 import job_pb2
from gateway.dialects.fal import answers
from gateway.render import dump
from gateway.webhooks.bodies import Delivery


def render(delivery: Delivery) -> bytes:
    """Return the body for a request that has ended."""
    job = delivery.job
    told: dict[str, Any] = {"request_id": job.job_id, "gateway_request_id": job.job_id}
    if job.state == job_pb2.JOB_STATE_SUCCEEDED:
        return dump({**told, "status": "OK", "error": None, "payload": answers.result_of(job, delivery.assets)})
    payload = {"detail": answers.error_of(job), "error_type": answers.error_type(job)}
    return dump({**told, "status": "ERROR", "error": answers.error_of(job), "payload": payload})
