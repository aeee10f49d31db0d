"""What clients of Replicate read: predictions, logs, errors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from atelier.asset.v1 import asset_pb2
from atelier.router.v1 import job_pb2
from atelier.type.v1 import error_pb2, generation_pb2
from gateway.dialects.progress import Live, bar, history, moment, seconds_worked, why
from gateway.dialects.replicate.catalogue import OWNER, ROOT, version_id
from gateway.render import dump
from service_kit.clock import rfc3339
from service_kit.errors import AtelierError

MODEL = "replicate_model"
"""The annotation that keeps owner and name, as the client said them."""
INPUT = "replicate_input"
"""The annotation that keeps `input`, as JSON."""
CANCEL_AFTER = "replicate_cancel_after"
"""The annotation that keeps after how many seconds a prediction was to be cancelled."""

STREAM = "stream of a prediction"
"""What the grants in addresses of streams are for."""

_STATUSES = {
    job_pb2.JOB_STATE_QUEUED: "starting",
    job_pb2.JOB_STATE_RUNNING: "processing",
    job_pb2.JOB_STATE_PUBLISHING: "processing",
    job_pb2.JOB_STATE_SUCCEEDED: "succeeded",
    job_pb2.JOB_STATE_FAILED: "failed",
    job_pb2.JOB_STATE_CANCELLED: "canceled",
}


def status_of(job: job_pb2.Job) -> str:
    """Return Replicate's word for the state of a job."""
    if job.failure.reason == error_pb2.ERROR_REASON_JOB_DEADLINE_EXCEEDED and CANCEL_AFTER in job.annotations:
        return "canceled"
    return _STATUSES[job.state]


def prediction_of(job: job_pb2.Job, assets: Sequence[asset_pb2.Asset], public_url: str, live: Live) -> dict[str, Any]:
    """Return a prediction; `live` is what it says of itself while it runs."""
    status = status_of(job)
    output = output_of(job, assets) if status == "succeeded" else None
    url = f"{public_url}{ROOT}/predictions/{job.job_id}"
    return {
        "id": job.job_id,
        "model": job.annotations.get(MODEL, f"{OWNER}/{job.generation_settings.model}"),
        "version": version_id(job.generation_settings.model),
        "status": status,
        "input": input_of(job),
        "output": output,
        "logs": logs_of(job, live),
        "error": why(job) if status == "failed" else None,
        "metrics": _metrics(job),
        "created_at": rfc3339(moment(job.created_at)),
        "started_at": rfc3339(moment(job.started_at)) if job.HasField("started_at") else None,
        "completed_at": rfc3339(moment(job.finished_at)) if job.HasField("finished_at") else None,
        "deadline": rfc3339(moment(job.deadline_at)),
        "data_removed": status == "succeeded" and not output,
        "source": "api",
        "urls": {"get": url, "cancel": f"{url}/cancel", "stream": f"{url}/stream", "web": f"{public_url}/"},
    }


def input_of(job: job_pb2.Job) -> dict[str, Any]:
    """Return what a prediction was made of, as its client sent it; of a job that came otherwise its prompt."""
    kept = job.annotations.get(INPUT)
    if kept is None:
        return {"prompt": job.prompt}
    try:
        value = json.loads(kept)
        dump(value)
    except (ValueError, RecursionError):
        # Whoever submits a job may write any annotation: this is none of ours.
        return {"prompt": job.prompt}
    return value if isinstance(value, dict) else {}


def output_of(job: job_pb2.Job, assets: Sequence[asset_pb2.Asset]) -> Any:
    """Return the output of a job that succeeded: addresses, of one video alone its address, or a list of texts."""
    if job.HasField("reply"):
        return [job.reply.text]
    if not job.outputs:
        return job.enhanced_prompt or None
    urls = [asset.url for asset in assets if asset.url]
    if job.generation_settings.format == generation_pb2.FORMAT_VIDEO and job.requested == 1:
        return urls[0] if urls else None
    return urls or None


def logs_of(job: job_pb2.Job, live: Live) -> str:
    """Return what is known of the course of a job, its last line its progress, as clients parse it."""
    fraction = 1.0 if job.state == job_pb2.JOB_STATE_SUCCEEDED else live.fraction
    lines = [line for _, line in history(job)] + live.lines
    return "\n".join([*lines, *([bar(job, fraction)] if fraction is not None else [])]) + "\n"


def _metrics(job: job_pb2.Job) -> dict[str, Any]:
    worked = seconds_worked(job)
    if worked is None:
        return {}
    total = (moment(job.finished_at) - moment(job.created_at)).total_seconds()
    return {"predict_time": worked, "total_time": max(worked, total)}


def error_body(error: AtelierError, status: int, request_id: str) -> Any:
    """Return an error as a problem (RFC 9457), with the fields to blame."""
    body: dict[str, Any] = {"title": HTTPStatus(status).phrase, "detail": error.message, "status": status}
    if error.fields:
        body["invalid_fields"] = [
            {"type": error.reason.value, "field": problem.field, "description": problem.message}
            for problem in error.fields
        ]
    return body


def error_headers(error: AtelierError, status: int) -> Mapping[str, str]:
    """Tell the clients that repeat every 409 unasked that it cannot help."""
    return {"x-should-retry": "false"} if status == 409 else {}
