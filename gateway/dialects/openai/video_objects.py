"""A job that makes a video as OpenAI's clients read it."""

from __future__ import annotations

from typing import Any

from atelier.router.v1 import job_pb2
from atelier.type.v1 import generation_pb2
from gateway.dialects.failures import reason_of
from service_kit.errors import NotFound

REMIXED = "remixed_from_video_id"
SECONDS = "seconds"

_STATUS = {
    job_pb2.JOB_STATE_QUEUED: "queued",
    job_pb2.JOB_STATE_RUNNING: "in_progress",
    job_pb2.JOB_STATE_PUBLISHING: "in_progress",
    job_pb2.JOB_STATE_SUCCEEDED: "completed",
    job_pb2.JOB_STATE_FAILED: "failed",
    job_pb2.JOB_STATE_CANCELLED: "failed",
}
_PUBLISHING = 99


def video(job: job_pb2.Job, *, fraction: float | None = None, expires_at: int | None = None) -> dict[str, Any]:
    """Return a job as a video. `fraction` is how far it is, from 0 to 1; times are in seconds since 1970."""
    ended = job.state == job_pb2.JOB_STATE_SUCCEEDED
    return {
        "id": job.job_id,
        "object": "video",
        "model": job.generation_settings.model,
        "status": _STATUS.get(job.state, "in_progress"),
        "progress": _progress(job, fraction),
        "created_at": job.created_at.seconds,
        "completed_at": job.finished_at.seconds if ended else None,
        "expires_at": expires_at,
        "size": job.generation_settings.size,
        "seconds": job.annotations.get(SECONDS) or seconds_text(job.generation_settings),
        "prompt": job.prompt,
        REMIXED: job.annotations.get(REMIXED) or None,
        "error": _error(job),
    }


def check_video(job: job_pb2.Job) -> job_pb2.Job:
    """Return a job that makes a video. Raises NotFound for one that makes something else."""
    if job.generation_settings.format != generation_pb2.FORMAT_VIDEO:
        raise NotFound.of("video", job.job_id)
    return job


def duration(settings: generation_pb2.GenerationSettings) -> float:
    """Return the length of a video in seconds."""
    return settings.frames / settings.frame_rate if settings.frame_rate else 0.0


def seconds_text(settings: generation_pb2.GenerationSettings) -> str:
    """Return the length of a video as OpenAI writes it: `4`."""
    return f"{duration(settings):g}"


def _progress(job: job_pb2.Job, fraction: float | None) -> int:
    if job.state == job_pb2.JOB_STATE_SUCCEEDED:
        return 100
    if job.state == job_pb2.JOB_STATE_PUBLISHING:
        return _PUBLISHING
    return min(_PUBLISHING, round(100 * (fraction or 0)))


def _error(job: job_pb2.Job) -> dict[str, str] | None:
    if job.state == job_pb2.JOB_STATE_CANCELLED:
        return {"code": "canceled", "message": "The video was cancelled."}
    if job.state == job_pb2.JOB_STATE_FAILED:
        return {"code": reason_of(job.failure).value, "message": job.failure.message or "The video has failed."}
    return None
