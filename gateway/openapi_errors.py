"""How the OpenAPI document tells errors: the one shape, every reason, and which statuses an operation can answer."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus

import grpc

from atelier.type.v1 import error_pb2
from gateway.openapi_schemas import Json, Schemas
from gateway.status import HTTP_STATUS

_CODES = {code.name: status for code, status in HTTP_STATUS.items() if code is not grpc.StatusCode.OK}
_CODE = re.compile(r"\b(" + "|".join(sorted(_CODES, key=len, reverse=True)) + r")\b")
_OF_HTTP_ONLY = {
    413: "The body is larger than the limit.",
    415: "The body is of another type than the operation takes.",
    416: "The range that was asked for lies beyond the end of the file.",
}
EVERYWHERE = frozenset({400, 403, 429, 500, 503, 504})
"""What any operation can answer: a malformed request, a host that is not ours, too much, a fault, a service away."""


def statuses_told(*texts: str) -> set[int]:
    """Return the HTTP statuses of the gRPC codes that comments name."""
    return {_CODES[name] for text in texts for name in _CODE.findall(text)}


def error_schema(schemas: Schemas) -> Json:
    """Return the schema of the native error shape."""
    reasons = schemas.enum(error_pb2.DESCRIPTOR.enum_types_by_name["ErrorReason"], sent=False)
    field = {
        "type": "object",
        "required": ["field", "message"],
        "properties": {
            "field": {"type": "string", "description": "Its path, such as `reference_images[0].strength`."},
            "message": {"type": "string", "description": "The limit and the value, in words."},
        },
    }
    properties = {
        "status": {
            "type": "string",
            "enum": sorted(_CODES),
            "description": "The name of the gRPC code.",
        },
        "reason": reasons,
        "message": {"type": "string", "description": "One sentence for a person."},
        "fields": {"type": "array", "items": field, "description": "The fields that are to blame; often none."},
        "request_id": {"type": "string", "description": "Finds the request in the log."},
        "retry_after": {
            "type": ["number", "null"],
            "description": "Seconds to wait before repeating; null where repeating does not help.",
        },
    }
    error = {"type": "object", "required": list(properties), "properties": properties, "description": "The error."}
    return {
        "type": "object",
        "description": "What every error is answered with.",
        "required": ["error"],
        "properties": {"error": error},
    }


def responses() -> dict[str, Json]:
    """Return the responses that operations refer to, by the names that `reference` gives."""
    return {_name(status): _response(status) for status in sorted({*_CODES.values(), *_OF_HTTP_ONLY})}


def references(statuses: Iterable[int]) -> dict[str, Json]:
    """Return the responses of an operation for these statuses."""
    return {str(status): {"$ref": f"#/components/responses/{_name(status)}"} for status in sorted(statuses)}


def _name(status: int) -> str:
    return f"Error{status}"


def _response(status: int) -> Json:
    codes = sorted(name for name, found in _CODES.items() if found == status)
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Client closed request"
    text = _OF_HTTP_ONLY.get(status) or " or ".join(f"`{code}`" for code in codes)
    headers: Json = {}
    if status == 401:
        headers["WWW-Authenticate"] = {"schema": {"type": "string"}, "description": "How to say who one is."}
    if status in (429, 503):
        headers["Retry-After"] = {"schema": {"type": "integer"}, "description": "Seconds to wait before repeating."}
    found: Json = {
        "description": f"{phrase}: {text}",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    return found | ({"headers": headers} if headers else {})
