"""What clients of fal read: handles, statuses, results, errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from atelier.asset.v1 import asset_pb2
from atelier.router.v1 import job_pb2
from atelier.type.v1 import error_pb2, generation_pb2
from gateway.dialects.progress import Live, bar, history, moment, seconds_worked, why
from service_kit.clock import rfc3339
from service_kit.errors import AtelierError

ROOT = "/fal/queue"
APP = "fal_app"
"""The annotation that keeps the app of a job."""
START_TIMEOUT = "fal_start_timeout"
"""The annotation that keeps how many seconds a job may wait for a worker."""
REQUEST_ID = "x-fal-request-id"
ERROR_TYPE = "x-fal-error-type"
TIMEOUT_TYPE = "x-fal-request-timeout-type"

TIMED_OUT = "The request did not start within the timeout that it asked for."


def urls_of(public_url: str, app: str, job_id: str) -> dict[str, str]:
    """Return the addresses to follow a request. They drop what comes after owner and app."""
    response = f"{public_url}{ROOT}/{app}/requests/{job_id}"
    return {
        "response_url": response,
        "status_url": f"{response}/status",
        "cancel_url": f"{response}/cancel",
    }


def status_of(job: job_pb2.Job, urls: Mapping[str, str], position: int, logs: Iterable[Any] | None) -> dict[str, Any]:
    """Return a status. `position` counts for a request that waits; `logs` are left null when nobody asked."""
    told = {"request_id": job.job_id, **urls}
    if job.state == job_pb2.JOB_STATE_QUEUED:
        return {"status": "IN_QUEUE", **told, "queue_position": position}
    lines = list(logs) if logs is not None else None
    if job.state in (job_pb2.JOB_STATE_RUNNING, job_pb2.JOB_STATE_PUBLISHING):
        return {"status": "IN_PROGRESS", **told, "logs": lines}
    worked = seconds_worked(job)
    metrics = {} if worked is None else {"inference_time": worked}
    status = {"status": "COMPLETED", **told, "logs": lines, "metrics": metrics}
    if job.state != job_pb2.JOB_STATE_SUCCEEDED:
        status |= {"error": error_of(job), "error_type": error_type(job)}
    return status


def logs_of(job: job_pb2.Job, live: Live) -> list[dict[str, str]]:
    """Return what is known of the course of a job."""
    lines = [log_line(line, rfc3339(at)) for at, line in history(job)]
    now = lines[-1]["timestamp"]
    told = [*live.lines, *([bar(job, live.fraction)] if live.fraction is not None else [])]
    return [*lines, *(log_line(line, now) for line in told)]


def log_line(line: str, timestamp: str) -> dict[str, str]:
    """Return one line of the logs."""
    return {"message": line, "level": "INFO", "source": "atelier", "timestamp": timestamp}


def result_of(job: job_pb2.Job, assets: Sequence[asset_pb2.Asset]) -> dict[str, Any]:
    """Return the result of a job that succeeded."""
    if job.HasField("reply"):
        return {"output": job.reply.text, "partial": False, "error": None}
    worked = seconds_worked(job)
    common = {
        "seed": job.generation_settings.seed,
        "prompt": job.enhanced_prompt or job.prompt,
        "timings": {} if worked is None else {"inference": worked},
    }
    files = [_file(asset) for asset in assets if asset.url]
    if job.generation_settings.format == generation_pb2.FORMAT_VIDEO:
        return {"video": files[0] if files else None, **common}
    return {"images": files, **common, "has_nsfw_concepts": [False] * len(files)}


def _file(asset: asset_pb2.Asset) -> dict[str, Any]:
    media = asset.media
    ending = media.content_type.rpartition("/")[2]
    return {
        "url": asset.url,
        "content_type": media.content_type,
        "file_name": f"{asset.asset_id}.{ending}",
        "file_size": media.size_bytes,
        "width": media.width,
        "height": media.height,
    }


def start_limit(job: job_pb2.Job) -> timedelta | None:
    """Return how long a job may wait for a worker; None when it did not say."""
    try:
        return timedelta(seconds=float(job.annotations.get(START_TIMEOUT, "")))
    except (ValueError, OverflowError):
        # Whoever submits a job may write any annotation.
        return None


def timed_out(job: job_pb2.Job) -> bool:
    """Tell whether a job was cancelled because no worker took it in time."""
    limit = start_limit(job)
    if limit is None or job.state != job_pb2.JOB_STATE_CANCELLED or job.HasField("started_at"):
        return False
    return moment(job.finished_at) - moment(job.created_at) >= limit


def error_of(job: job_pb2.Job) -> str:
    """Return why a job has no result, in a sentence."""
    return TIMED_OUT if timed_out(job) else why(job)


def error_type(job: job_pb2.Job) -> str:
    """Return fal's word for why a job has no result."""
    if timed_out(job):
        return "request_timeout"
    if job.state == job_pb2.JOB_STATE_CANCELLED:
        return "client_cancelled"
    if job.failure.reason == error_pb2.ERROR_REASON_ATTEMPTS_EXHAUSTED:
        return "runner_disconnected"
    return "runner_server_error"


def error_status(job: job_pb2.Job) -> int:
    """Return the HTTP status of the result of a job that has none. Clients repeat none of these unasked."""
    if timed_out(job):
        return 504
    return 499 if job.state == job_pb2.JOB_STATE_CANCELLED else 500


def error_headers_of(job: job_pb2.Job) -> dict[str, str]:
    """Return the headers of the result of a job that has none."""
    headers = {REQUEST_ID: job.job_id, ERROR_TYPE: error_type(job)}
    return {**headers, TIMEOUT_TYPE: "user"} if timed_out(job) else headers


def error_body(error: AtelierError, status: int, request_id: str) -> Any:
    """Return an error: a list of fields as pydantic has it, or one sentence."""
    if status != 422 or not error.fields:
        return {"detail": error.message}
    return {
        "detail": [
            {
                "loc": ["body", *_location(problem.field)],
                "msg": problem.message,
                "type": error.reason.value,
            }
            for problem in error.fields
        ]
    }


def _location(path: str) -> list[str | int]:
    parts = path.replace("]", "").replace("[", ".").split(".")
    return [int(part) if part.isdecimal() else part for part in parts]


def error_headers(error: AtelierError, status: int) -> Mapping[str, str]:
    """Name the kind of an error; with it clients know that it is ours, and no proxy's."""
    kind = {429: "rate_limited", 504: "request_timeout"}.get(
        status, "bad_request" if status < 500 else "internal_error"
    )
    return {ERROR_TYPE: kind}
