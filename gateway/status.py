"""How errors look over HTTP: the one table gRPC status → HTTP status, and the one native shape."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import grpc

from gateway.http import Reply
from service_kit.errors import (
    AtelierError,
    DeadlineExceeded,
    ErrorReason,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from service_kit.rpc_errors import from_rpc_error, grpc_code

HTTP_STATUS: dict[grpc.StatusCode, int] = {
    grpc.StatusCode.OK: 200,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNKNOWN: 500,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DATA_LOSS: 500,
    grpc.StatusCode.UNAUTHENTICATED: 401,
}
"""The HTTP status of each gRPC status."""

REASON_STATUS: dict[ErrorReason, int] = {
    ErrorReason.METHOD_NOT_ALLOWED: 405,
    ErrorReason.BODY_TOO_LARGE: 413,
}
"""Reasons for which HTTP has a status of its own."""

_RETRY_UNAVAILABLE = timedelta(seconds=1)


class HttpProblem(Exception):
    """An error that only HTTP has: it says its own status and headers."""

    def __init__(
        self, error: AtelierError, *, status: int | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        """Answer `error` with another status than the table's (None: the table's), and with more headers."""
        super().__init__(error.message)
        self.error = error
        self.status = status
        self.headers = dict(headers or {})


def missing_identity() -> Unauthenticated:
    """Return the error of a request without any key or token."""
    return Unauthenticated(
        "The request carries no identity: send an API key as `Authorization: Bearer <key>`.",
        ErrorReason.MISSING_IDENTITY,
    )


def unknown_route(method: str, path: str) -> NotFound:
    """Return the error of a path that nothing serves."""
    return NotFound(f"There is no route {method} {path[:200]}.", ErrorReason.UNKNOWN_ROUTE)


def method_not_allowed(method: str, path: str, allowed: list[str]) -> HttpProblem:
    """Return the error of a path that is served with other methods."""
    names = ", ".join(allowed)
    error = InvalidArgument(f"{path[:200]} takes {names}, not {method[:20]}.", reason=ErrorReason.METHOD_NOT_ALLOWED)
    return HttpProblem(error, headers={"allow": names})


def body_too_large(limit_bytes: int) -> ResourceExhausted:
    """Return the error of a body over the limit."""
    return ResourceExhausted(f"The body is larger than {limit_bytes} bytes.", ErrorReason.BODY_TOO_LARGE)


def malformed(message: str, field: str = "") -> InvalidArgument:
    """Return the error of a request that cannot be read; names the field or header where there is one."""
    if field:
        return InvalidArgument.field(field, message, ErrorReason.MALFORMED_REQUEST)
    return InvalidArgument(message, ErrorReason.MALFORMED_REQUEST)


def of_rpc(error: grpc.RpcError) -> AtelierError:
    """Return the error that a service answered, without what only its operators should read."""
    found = from_rpc_error(error)
    if isinstance(found, Internal):
        return Internal()
    if isinstance(found, Unavailable) and not found.retry_after:
        return Unavailable(retry_after=_RETRY_UNAVAILABLE)
    if isinstance(found, DeadlineExceeded):
        return DeadlineExceeded(reason=found.reason)
    return found


def http_status(error: AtelierError) -> int:
    """Return the HTTP status of an error."""
    return REASON_STATUS.get(error.reason) or HTTP_STATUS[grpc_code(error)]


def error_body(error: AtelierError, request_id: str) -> dict[str, Any]:
    """Return the native shape. `retry_after` is in seconds and null where repeating does not help."""
    return {
        "error": {
            "status": grpc_code(error).name,
            "reason": error.reason.value,
            "message": error.message,
            "fields": [{"field": problem.field, "message": problem.message} for problem in error.fields],
            "request_id": request_id,
            "retry_after": error.retry_after.total_seconds() if error.retry_after else None,
        }
    }


def error_reply(
    problem: AtelierError | HttpProblem,
    request_id: str,
    body: Callable[[AtelierError, int, str], Any] = lambda error, status, request_id: error_body(error, request_id),
) -> Reply:
    """Return the response for an error; `body` makes another shape of the error, its status and the request's id."""
    wrapped = problem if isinstance(problem, HttpProblem) else HttpProblem(problem)
    error = wrapped.error
    status = wrapped.status or http_status(error)
    headers = {"content-type": "application/json", "cache-control": "no-store", **wrapped.headers}
    if status == 401:
        headers["www-authenticate"] = 'Bearer realm="atelier"'
    if error.retry_after:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after.total_seconds())))
    return Reply(status, headers, json.dumps(body(error, status, request_id), ensure_ascii=False).encode())
