"""How far a job is, told as lines: what clients read that poll instead of watching."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from atelier.router.v1 import job_pb2
from gateway.dialects.jobs import Jobs, has_ended, job_of
from service_kit.errors import AtelierError

PEEK = timedelta(milliseconds=250)
"""How long a poll waits for a running job to say how far it is."""

_BAR = 10


@dataclass(slots=True)
class Live:
    """What a running job says of itself at this moment."""

    lines: list[str] = field(default_factory=list)
    fraction: float | None = None


async def peek(jobs: Jobs, job: job_pb2.Job) -> Live:
    """Return what a job says of itself; nothing for one that does not run, or says nothing for a moment."""
    live = Live()
    if job.state != job_pb2.JOB_STATE_RUNNING:
        return live
    try:
        async with asyncio.timeout(PEEK.total_seconds()), aclosing(jobs.watch(job.job_id)) as events:
            async for event in events:
                kind, changed = event.WhichOneof("event"), job_of(event)
                if kind == "log":
                    live.lines.append(event.log.line)
                if kind == "progress":
                    live.fraction = event.progress.fraction
                if kind == "progress" or (changed is not None and has_ended(changed)):
                    break
    except (TimeoutError, AtelierError):
        # Only the colour of an answer: the job itself has been read.
        return live
    return live


def bar(job: job_pb2.Job, fraction: float) -> str:
    """Return progress as tqdm prints it, which the clients' patterns find: ` 42%|████▏     | 5/12`."""
    settings = job.generation_settings
    total = max(1, settings.steps * max(1, settings.quantity))
    done = min(total, round(fraction * total))
    filled = round(fraction * _BAR)
    return f"{round(fraction * 100):3d}%|{'█' * filled}{' ' * (_BAR - filled)}| {done}/{total}"


def history(job: job_pb2.Job) -> list[tuple[datetime, str]]:
    """Return what is known for good of the course of a job, with its times in UTC."""
    lines = [(moment(job.created_at), "Accepted.")]
    lines += [(moment(job.created_at), f"Warning: {warning.message}") for warning in job.warnings]
    for stage in job.stages:
        if stage.HasField("started_at"):
            lines.append((moment(stage.started_at), f"Started by {stage.worker_type}, attempt {stage.attempt}."))
    if job.HasField("finished_at"):
        lines.append((moment(job.finished_at), _end(job)))
    return lines


def seconds_worked(job: job_pb2.Job) -> float | None:
    """Return the seconds from the start of a job to its end; None for one that has not both."""
    if not job.HasField("started_at") or not job.HasField("finished_at"):
        return None
    return max(0.0, (moment(job.finished_at) - moment(job.started_at)).total_seconds())


def moment(stamp: Timestamp) -> datetime:
    """Return a moment in UTC."""
    return stamp.ToDatetime(UTC)


def why(job: job_pb2.Job) -> str:
    """Return why a job that ended has no result, in a sentence."""
    if job.state == job_pb2.JOB_STATE_CANCELLED:
        return "The request was cancelled."
    return job.failure.message or "The request failed."


def _end(job: job_pb2.Job) -> str:
    if job.state == job_pb2.JOB_STATE_SUCCEEDED:
        missing = [output.failure.message for output in job.outputs if output.HasField("failure")]
        return " ".join([f"Delivered {job.delivered} of {job.requested}.", *missing]) if job.requested else "Done."
    return why(job)
