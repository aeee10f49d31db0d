"""What is posted to the `webhook` of an image or a video: an event as OpenAI posts them, `{"id", "type", "data"}`."""

from __future__ import annotations

from atelier.router.v1 import job_pb2
from atelier.type.v1 import generation_pb2
from gateway.render import dump
from gateway.webhooks.bodies import Delivery

_KINDS = {generation_pb2.FORMAT_IMAGE: "image", generation_pb2.FORMAT_VIDEO: "video"}
_EVENTS = {"started": "in_progress", "output": "output_available"}


def render(delivery: Delivery) -> bytes:
    """Return the body: `video.completed` or `video.failed`, `image.…`, or `response.…` of a text; with the job."""
    job = delivery.job
    ended = "completed" if job.state == job_pb2.JOB_STATE_SUCCEEDED else "failed"
    kind = _KINDS.get(job.generation_settings.format, "response")
    return dump(
        {
            "id": f"evt_{delivery.delivery_id}",
            "object": "event",
            "created_at": int(delivery.happened_at.timestamp()),
            "type": f"{kind}.{_EVENTS.get(delivery.event, ended)}",
            "data": {"id": job.job_id},
        }
    )
