"""Errors as clients of OpenAI's API read them: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service_kit.errors import AtelierError, DeadlineExceeded, Internal, Unavailable

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
}
_REPEAT_HELPS = (Internal, Unavailable, DeadlineExceeded)


def error_body(error: AtelierError, status: int, request_id: str) -> Any:
    """Return an error: `param` is the first field to blame, `code` the stable reason."""
    other = "server_error" if status >= 500 else "invalid_request_error"
    return {
        "error": {
            "message": error.message,
            "type": _TYPES.get(status, other),
            "param": error.fields[0].field if error.fields else None,
            "code": error.reason.value,
        }
    }


def error_headers(error: AtelierError, status: int) -> Mapping[str, str]:
    """Tell the clients, which repeat every 409, 429 and 5xx unasked, where that cannot help."""
    asked = status in (409, 429) or status >= 500
    if asked and error.retry_after is None and not isinstance(error, _REPEAT_HELPS):
        return {"x-should-retry": "false"}
    return {}
