"""The one table between domain errors and gRPC status, with `google.rpc` details; and the way back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from service_kit.errors import (
    Aborted,
    AlreadyExists,
    AtelierError,
    DeadlineExceeded,
    ErrorReason,
    FailedPrecondition,
    FieldProblem,
    Internal,
    InvalidArgument,
    NotFound,
    OutOfRange,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)

DOMAIN = "atelier"
DETAILS_KEY = "grpc-status-details-bin"

GRPC_CODES: dict[type[AtelierError], grpc.StatusCode] = {
    InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    Aborted: grpc.StatusCode.ABORTED,
    OutOfRange: grpc.StatusCode.OUT_OF_RANGE,
    ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    Internal: grpc.StatusCode.INTERNAL,
}
_CLASSES = {code: error for error, code in GRPC_CODES.items()}
# What is between us and a service that we need is no business of the client.
_OUR_OWN_FAULTS = (Unauthenticated, PermissionDenied)


def grpc_code(error: AtelierError) -> grpc.StatusCode:
    """Return the code of an error: that of its class, or of the nearest class above it."""
    return next((GRPC_CODES[kind] for kind in type(error).__mro__ if kind in GRPC_CODES), grpc.StatusCode.INTERNAL)


def to_status(error: AtelierError, request_id: str) -> status_pb2.Status:
    """Return the rich status of an error: ErrorInfo and RequestInfo, and where they apply BadRequest and RetryInfo."""
    info = error_details_pb2.ErrorInfo(reason=error.reason.value, domain=DOMAIN)
    details = [_packed(info), _packed(error_details_pb2.RequestInfo(request_id=request_id))]
    if error.fields:
        violation = error_details_pb2.BadRequest.FieldViolation
        violations = [violation(field=problem.field, description=problem.message) for problem in error.fields]
        details.append(_packed(error_details_pb2.BadRequest(field_violations=violations)))
    if error.retry_after is not None:
        delay = Duration()
        delay.FromTimedelta(error.retry_after)
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    return status_pb2.Status(code=grpc_code(error).value[0], message=error.message, details=details)


def from_rpc_error(error: grpc.RpcError) -> AtelierError:
    """Return the domain error that a failed call stands for, exactly as the other service raised it.

    A status that is not ours (a lost connection, a proxy) keeps its code's class and loses its text, which may tell
    addresses.
    """
    code = error.code() if isinstance(error, (grpc.aio.AioRpcError, grpc.Call)) else grpc.StatusCode.UNKNOWN
    kind = Unavailable if code is grpc.StatusCode.CANCELLED else _CLASSES.get(code, Internal)
    status = _rich_status(error)
    info = error_details_pb2.ErrorInfo()
    if status is None or not _unpack(status, info) or info.domain != DOMAIN:
        return kind()
    bad_request, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    _unpack(status, bad_request)
    retry_after = retry.retry_delay.ToTimedelta() if _unpack(status, retry) else None
    fields = [FieldProblem(violation.field, violation.description) for violation in bad_request.field_violations]
    return kind(status.message, _reason(info.reason), fields=fields, retry_after=retry_after)


def dependency_error(error: grpc.RpcError) -> AtelierError:
    """Return what a client is told when a service that we call for it fails.

    What is wrong with the request passes through; that our own identity was refused is a fault of ours.
    """
    known = from_rpc_error(error)
    if isinstance(known, _OUR_OWN_FAULTS):
        return Internal()
    if isinstance(known, Unavailable) and known.retry_after is None:
        known.retry_after = timedelta(seconds=1)
    return known


@contextmanager
def translated() -> Iterator[None]:
    """Raise what a stub raises as a domain error, so that logic need not know gRPC."""
    try:
        yield
    except grpc.RpcError as error:
        raise dependency_error(error) from error


def _packed(message: error_details_pb2.ErrorInfo | AnyMessage) -> AnyMessage:
    wrapper = AnyMessage()
    wrapper.Pack(message)
    return wrapper


def _unpack(status: status_pb2.Status, message: AnyMessage) -> bool:
    return any(detail.Is(message.DESCRIPTOR) and detail.Unpack(message) for detail in status.details)


def _rich_status(error: grpc.RpcError) -> status_pb2.Status | None:
    metadata: Sequence[tuple[str, str | bytes]] = ()
    if isinstance(error, (grpc.aio.AioRpcError, grpc.Call)):
        metadata = [(key, value) for key, value in (error.trailing_metadata() or ())]
    for key, value in metadata:
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None
    return None


def _reason(text: str) -> ErrorReason | None:
    """Return a reason that this release knows; None for one of a newer release."""
    return next((reason for reason in ErrorReason if reason.value == text), None)
