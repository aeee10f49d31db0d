"""What can go wrong, as exceptions. The API's own answers keep status, reason, fields and request id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atelier_client.models import Job


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One field that was refused: its path, such as `reference_images[0].strength`, and a sentence."""

    field: str
    message: str


class AtelierError(Exception):
    """Anything that this client raises by itself.

    Attributes:
        message: one sentence for a person.
        status: the API's status, such as `INVALID_ARGUMENT`; empty when the API did not answer.
        reason: the stable reason, such as `out_of_range`; empty when the API did not answer.
        fields: the fields that were refused.
        request_id: what finds the request in the server's log; empty when the API did not answer.
        retry_after: seconds after which a repeat makes sense, when the API said so.
        http_status: the HTTP status; None when the API did not answer.
    """

    def __init__(
        self,
        message: str,
        *,
        status: str = "",
        reason: str = "",
        fields: tuple[FieldProblem, ...] = (),
        request_id: str = "",
        retry_after: float | None = None,
        http_status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.reason = reason
        self.fields = fields
        self.request_id = request_id
        self.retry_after = retry_after
        self.http_status = http_status


class Refused(AtelierError):
    """The API answered with an error."""


class InvalidRequest(Refused):
    """A field is unknown or has a value that is not accepted; `fields` names it."""


class NotAuthenticated(Refused):
    """The key is missing, wrong, revoked or expired."""


class NotAllowed(Refused):
    """The key is good, but may not do this."""


class NotFound(Refused):
    """There is no such object, or it belongs to somebody else."""


class Unavailable(Refused):
    """A part of Atelier cannot be reached at the moment, and repeating did not help."""


class Unreachable(AtelierError):
    """No answer came: the address is wrong, nothing listens there, or the connection broke again and again."""


class Timeout(AtelierError):
    """It took longer than the limit that was given. What was asked for may still go on."""


class JobFailed(AtelierError):
    """The job ended without a result; `job` has it all."""

    def __init__(self, job: Job) -> None:
        failure = job.failure
        said = failure.message if failure and failure.message else f"The job ended as {job.state}."
        super().__init__(said, status=job.state, reason=failure.reason if failure else job.state)
        self.job = job


class BadReply(AtelierError):
    """What answered does not speak Atelier's API."""


class DownloadFailed(AtelierError):
    """The bytes that came are not those that were stored; nothing was kept."""


_CLASSES: dict[str, type[Refused]] = {
    "INVALID_ARGUMENT": InvalidRequest,
    "OUT_OF_RANGE": InvalidRequest,
    "UNAUTHENTICATED": NotAuthenticated,
    "PERMISSION_DENIED": NotAllowed,
    "NOT_FOUND": NotFound,
    "UNAVAILABLE": Unavailable,
}


def refusal(body: Any, *, http_status: int | None = None, retry_after: float | None = None) -> AtelierError:
    """Return the exception for an error in the API's shape, or for an answer that has another shape."""
    error = body.get("error") if isinstance(body, Mapping) else None
    if not isinstance(error, Mapping):
        return BadReply(
            f"The answer (HTTP {http_status}) is not one of Atelier's. Does the address lead to an Atelier gateway?",
            http_status=http_status,
        )
    status = str(error.get("status", ""))
    if status == "DEADLINE_EXCEEDED":
        chosen: type[AtelierError] = Timeout
    else:
        chosen = _CLASSES.get(status, Refused)
    said = error.get("retry_after")
    return chosen(
        str(error.get("message", "")) or f"The request was refused ({status or http_status}).",
        status=status,
        reason=str(error.get("reason", "")),
        fields=tuple(_field_problems(error.get("fields"))),
        request_id=str(error.get("request_id", "")),
        retry_after=_seconds(said) if said else retry_after,
        http_status=http_status,
    )


def _field_problems(entries: Any) -> list[FieldProblem]:
    if not isinstance(entries, list):
        return []
    return [
        FieldProblem(str(entry.get("field", "")), str(entry.get("message", "")))
        for entry in entries
        if isinstance(entry, Mapping)
    ]


def _seconds(value: Any) -> float | None:
    """Return seconds from `1.5`, `"1.5"` or `"1.5s"`; None for anything else."""
    try:
        return float(str(value).removesuffix("s"))
    except ValueError:
        return None
