"""How a job that made nothing is told to a client that waited for what it makes."""

from __future__ import annotations

from datetime import timedelta

from atelier.router.v1 import job_pb2
from atelier.type.v1 import error_pb2
from gateway.status import HttpProblem
from service_kit.errors import DeadlineExceeded, ErrorReason, FailedPrecondition

_CLIENTS_FAULT = (ErrorReason.REFERENCE_UNREADABLE, ErrorReason.INVALID_VALUE)


def reason_of(failure: job_pb2.Failure) -> ErrorReason:
    """Return why something failed; `unspecified` for a reason that this release does not know."""
    try:
        return ErrorReason(error_pb2.ErrorReason.Name(failure.reason).removeprefix("ERROR_REASON_").lower())
    except ValueError:
        return ErrorReason.UNSPECIFIED


def problem_of(job: job_pb2.Job) -> HttpProblem:
    """Return what a job that was cancelled (409) or has failed (400 for a request that cannot be done, else 500) says.

    None of them is worth a repetition: a repeated request would be answered by the same job.
    """
    if job.state == job_pb2.JOB_STATE_CANCELLED:
        return HttpProblem(FailedPrecondition("The job was cancelled.", ErrorReason.CANCELLED), status=409)
    reason = reason_of(job.failure)
    error = FailedPrecondition(job.failure.message or "The job has failed.", reason)
    return HttpProblem(error, status=400 if reason in _CLIENTS_FAULT else 500)


def not_ended(job: job_pb2.Job, waited: timedelta) -> DeadlineExceeded:
    """Return what is said of a job that takes longer than anybody waits for it. It goes on."""
    return DeadlineExceeded(
        f"The job {job.job_id} has not ended after {waited.total_seconds():.0f} s. It goes on: a repetition that is "
        "marked as a retry waits for the same job."
    )
