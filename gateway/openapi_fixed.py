"""The hand-written routes in the OpenAPI document; `gateway.app` serves them."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.descriptor import Descriptor

from gateway import openapi_errors as errors
from gateway.examples import EXAMPLES
from gateway.openapi_schemas import Json, Schemas
from gateway.openapi_streams import merged_stream

_BYTES: Json = {"schema": {"type": "string", "format": "binary"}}
_STATUS = {
    "type": "string",
    "enum": ["serving", "degraded", "not_serving"],
    "description": "`degraded` when only what is not required is missing.",
}


def fixed_operations(schemas: Schemas, sources: Mapping[str, Descriptor]) -> dict[str, Json]:
    """Return the operations by path and method; `sources` are the messages that the merged stream carries."""
    schemas.components["Health"] = _health_schema()
    return {
        "/v1/events": {"get": _events(schemas, sources)},
        "/v1/items.zip": _items_zip(),
        "/v1/health": {"get": _health()},
        "/media/{bucket}/{key}": {"get": _media()},
        "/openapi.json": {"get": _document()},
    }


def _operation(name: str, summary: str, description: str) -> Json:
    return {"operationId": name, "tags": ["Gateway"], "summary": summary, "description": f"{summary}. {description}"}


def _events(schemas: Schemas, sources: Mapping[str, Descriptor]) -> Json:
    cursor: Json = {"type": "string"}
    after = {
        "name": "after",
        "in": "query",
        "description": "The `id` of the last event that was seen.",
        "schema": cursor,
    }
    header = {**after, "name": "Last-Event-ID", "in": "header", "description": "The same; it wins over `after`."}
    return {
        **_operation(
            "WatchEvents",
            "Follows the caller's jobs, assets and items in one stream",
            "Each source begins with its snapshot, or goes on after the cursor. A source that is down is announced, "
            "and the others go on. Safe to repeat with the last `id`.",
        ),
        "parameters": [after, header],
        "security": [{"bearer": []}, {"api_key": []}, {"session_cookie": []}],
        "responses": {
            "200": {"description": "One event after the other.", "content": merged_stream(schemas, sources)},
            **errors.references(errors.EVERYWHERE | {401}),
        },
    }


def _items_zip() -> Json:
    """Return both operations: what `ListItems` takes stands in its own."""
    archive = {"description": "The archive.", "content": {"application/zip": _BYTES}}
    shared = {
        "security": [{"bearer": []}, {"api_key": []}, {"session_cookie": []}],
        "responses": {"200": archive, **errors.references(errors.EVERYWHERE | {400, 401, 404, 503})},
    }
    text = (
        "Takes what `ListItems` takes, but for pages: everything that matches is in the archive, 10,000 files at most, "
        "by their titles. Files are stored, not deflated. What was deleted meanwhile is named in `missing.txt`. An "
        "archive that breaks off is not whole: repeat. Safe to repeat."
    )
    item_ids = {"type": "array", "items": {"type": "string"}, "maxItems": 1000, "description": "Only these items."}
    query = {
        "name": "item_ids",
        "in": "query",
        "description": "Only these items. Every other field of `ListItems` narrows as it does there.",
        "schema": {key: value for key, value in item_ids.items() if key != "description"},
        "example": [EXAMPLES["DownloadItems"].query["item_ids"]],
    }
    body = {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "object", "properties": {"item_ids": item_ids}},
                "example": EXAMPLES["DownloadManyItems"].body,
            }
        },
    }
    return {
        "get": {**_operation("DownloadItems", "Returns items as one archive", text), "parameters": [query], **shared},
        "post": {
            **_operation("DownloadManyItems", "Returns items as one archive, chosen by a body", text),
            "requestBody": body,
            **shared,
        },
    }


def _health() -> Json:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Health"}}}
    return {
        **_operation(
            "GetHealth",
            "Tells how the gateway and the services behind it are",
            "The body is the same for both statuses. Open to everybody.",
        ),
        "security": [],
        "responses": {
            "200": {"description": "Everything that is required serves.", "content": content},
            "503": {"description": "Something that is required does not serve.", "content": content},
            **errors.references({403}),
        },
    }


def _health_schema() -> Json:
    name = {"type": "string", "description": "Its name."}
    status = {"type": "string", "description": "`serving`, `not_serving`, `unknown`, or `unreachable`."}
    dependency = {"type": "object", "required": ["name", "status"], "properties": {"name": name, "status": status}}
    service = {
        "type": "object",
        "required": ["name", "status", "required", "depends_on"],
        "properties": {
            "name": name,
            "status": status,
            "required": {"type": "boolean", "description": "Whether the gateway is of no use without it."},
            "depends_on": {"type": "array", "items": dependency, "description": "What it needs, and how that is."},
        },
    }
    return {
        "type": "object",
        "description": "How the parts are.",
        "required": ["status", "services"],
        "properties": {
            "status": _STATUS,
            "services": {"type": "array", "items": service, "description": "Each service behind the gateway."},
        },
    }


def _media() -> Json:
    example = EXAMPLES["GetMedia"]
    path = {"bucket": "The logical bucket.", "key": "The key of the file. It has slashes."}
    query = {
        "g": "The generation of the file.",
        "expires": "When the address stops working, in seconds since 1970.",
        "kid": "The key that signed it.",
        "sig": "The signature.",
    }
    parameters = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": text,
            "schema": {"type": "string", "minLength": 1},
        }
        for name, text in path.items()
    ]
    parameters += [
        {"name": name, "in": "query", "required": True, "description": text, "schema": {"type": "string"}}
        for name, text in query.items()
    ]
    for parameter in parameters:
        given = {**example.path, **example.query}[str(parameter["name"])]
        parameter["example"] = str(given)
    whole = {"description": "The file.", "content": {"*/*": _BYTES}}
    return {
        **_operation(
            "GetMedia",
            "Returns a file by its signed address",
            "Take addresses whole from `url` in assets, items and renditions; nothing in them is to be made or "
            "changed. HEAD, `Range`, `If-Range`, `If-None-Match` and `If-Modified-Since` are understood. No key is "
            "needed. Follow redirects: an object store may serve the file by itself.",
        ),
        "security": [],
        "parameters": parameters,
        "responses": {
            "200": whole,
            "206": {"description": "The part that `Range` asked for.", "content": {"*/*": _BYTES}},
            "304": {"description": "The file is the one that the client has."},
            "307": {"description": "The file is at `Location`, until the address that was asked for expires."},
            **errors.references({400, 403, 404, 416, 500}),
        },
    }


def _document() -> Json:
    content = {"application/json": {"schema": {"type": "object", "required": ["openapi"]}}}
    return {
        **_operation("GetOpenApi", "Returns this document", "Open to everybody."),
        "security": [],
        "responses": {
            "200": {"description": "OpenAPI 3.1.", "content": content},
            "304": {"description": "The document is the one that `If-None-Match` names."},
            **errors.references({403}),
        },
    }
