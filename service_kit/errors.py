"""What can go wrong, as the domain says it. `rpc_errors` translates to gRPC and back, the gateway to HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import ClassVar, Self


class ErrorReason(StrEnum):
    """Why a request was refused or a job failed: `atelier.type.v1.ErrorReason` in lower case. See docs/errors.md."""

    UNSPECIFIED = "unspecified"
    MALFORMED_REQUEST = "malformed_request"
    UNKNOWN_FIELD = "unknown_field"
    MISSING_FIELD = "missing_field"
    OUT_OF_RANGE = "out_of_range"
    INVALID_VALUE = "invalid_value"
    CONFLICTING_FIELDS = "conflicting_fields"
    UNKNOWN_MODEL = "unknown_model"
    NOT_FOUND = "not_found"
    UNKNOWN_ROUTE = "unknown_route"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    BODY_TOO_LARGE = "body_too_large"
    MISSING_IDENTITY = "missing_identity"
    INVALID_IDENTITY = "invalid_identity"
    EXPIRED_IDENTITY = "expired_identity"
    ACCESS_DENIED = "access_denied"
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    TOO_LATE = "too_late"
    UNSUPPORTED_MEDIA = "unsupported_media"
    DIGEST_MISMATCH = "digest_mismatch"
    INCOMPLETE_UPLOAD = "incomplete_upload"
    INVALID_LEASE = "invalid_lease"
    ALREADY_SETTLED = "already_settled"
    LIMIT_REACHED = "limit_reached"
    SERVICE_UNAVAILABLE = "service_unavailable"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    INTERNAL = "internal"
    ENGINE_FAILED = "engine_failed"
    ENGINE_CRASHED = "engine_crashed"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    JOB_DEADLINE_EXCEEDED = "job_deadline_exceeded"
    REFERENCE_UNREADABLE = "reference_unreadable"
    OUTPUT_LOST = "output_lost"
    ENHANCEMENT_FAILED = "enhancement_failed"
    CANCELLED = "cancelled"
    FAILED_PRECONDITION = "failed_precondition"
    OWNER_ERASED = "owner_erased"
    MEDIA_DAMAGED = "media_damaged"
    MEDIA_TOO_LARGE = "media_too_large"
    MEDIA_DISGUISED = "media_disguised"
    TOO_MANY_REQUESTS = "too_many_requests"
    TOO_MANY_QUEUED_JOBS = "too_many_queued_jobs"


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """What is wrong with one field: its path, such as `reference_images[0].strength`, and the limit and the value."""

    field: str
    message: str


class AtelierError(Exception):
    """Something went wrong in Atelier."""

    default_reason: ClassVar[ErrorReason] = ErrorReason.INTERNAL

    def __init__(
        self,
        message: str = "",
        reason: ErrorReason | None = None,
        *,
        fields: Sequence[FieldProblem] = (),
        retry_after: timedelta | None = None,
    ) -> None:
        """Make an error.

        Args:
            message: one sentence for the client; without one the class's docstring speaks.
            reason: why, for programs; without one the class's own.
            fields: the fields that are to blame.
            retry_after: how long to wait before repeating, where repeating can help.
        """
        self.message = message or (type(self).__doc__ or "").split("\n", 1)[0]
        self.reason = reason or self.default_reason
        self.fields = tuple(fields)
        self.retry_after = retry_after
        super().__init__(self.message)


class InvalidArgument(AtelierError):
    """The request is not valid."""

    default_reason = ErrorReason.INVALID_VALUE

    @classmethod
    def field(cls, name: str, message: str, reason: ErrorReason = ErrorReason.INVALID_VALUE) -> Self:
        """Blame one field: `InvalidArgument.field("quantity", "must be 1..8, got 12", ErrorReason.OUT_OF_RANGE)`."""
        return cls.of([FieldProblem(name, message)], reason)

    @classmethod
    def of(cls, problems: Sequence[FieldProblem], reason: ErrorReason = ErrorReason.INVALID_VALUE) -> Self:
        """Blame several fields; the message repeats the first of them."""
        first = problems[0]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return cls(f"{first.field} {first.message}{more}", reason, fields=problems)


class NotFound(AtelierError):
    """There is no such object."""

    default_reason = ErrorReason.NOT_FOUND

    @classmethod
    def of(cls, kind: str, object_id: str) -> Self:
        """Name the kind and the id. The same words serve for somebody else's object."""
        return cls(f"There is no {kind} with the id {object_id[:64]}.")


class AlreadyExists(AtelierError):
    """It exists already."""

    default_reason = ErrorReason.FAILED_PRECONDITION


class Unauthenticated(AtelierError):
    """The call carries no identity that is valid."""

    default_reason = ErrorReason.INVALID_IDENTITY


class PermissionDenied(AtelierError):
    """The identity may not do this."""

    default_reason = ErrorReason.ACCESS_DENIED


class FailedPrecondition(AtelierError):
    """The object is in a state in which this cannot be done."""

    default_reason = ErrorReason.FAILED_PRECONDITION


class Aborted(AtelierError):
    """Something else changed it at the same moment; repeat."""

    default_reason = ErrorReason.FAILED_PRECONDITION


class OutOfRange(AtelierError):
    """The position is outside what exists."""

    default_reason = ErrorReason.OUT_OF_RANGE


class ResourceExhausted(AtelierError):
    """Too much at once."""

    default_reason = ErrorReason.LIMIT_REACHED


class Unavailable(AtelierError):
    """A service that is needed cannot be reached at the moment."""

    default_reason = ErrorReason.SERVICE_UNAVAILABLE


class DeadlineExceeded(AtelierError):
    """The call took longer than its limit."""

    default_reason = ErrorReason.DEADLINE_EXCEEDED


class Internal(AtelierError):
    """A fault in Atelier. The request id finds it in the log."""

    default_reason = ErrorReason.INTERNAL
