"""The OpenAPI 3.1 document: generated from the contracts and their comments; hand-written routes stand beside them."""

from __future__ import annotations

import asyncio
import hashlib
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor

from gateway import openapi_errors as errors
from gateway.dialects.registry import DIALECTS
from gateway.events import SOURCES
from gateway.examples import EXAMPLES, Example
from gateway.http import Exchange, Reply
from gateway.http_rules import FILES, RpcRoute, routes
from gateway.identity import SESSION_COOKIE
from gateway.openapi_comments import comment, summary
from gateway.openapi_dialects import dialect_paths, example_of_endpoint, operation_id
from gateway.openapi_fixed import fixed_operations
from gateway.openapi_schemas import Json, Schemas
from gateway.openapi_streams import stream_of
from gateway.render import dump
from gateway.requests import query_fields
from gateway.schema import message_type
from service_kit.version import __version__

_ABOUT = """\
Prompts become images, videos and richer prompts. One entry point takes a job, any worker does it, every result is
stored exactly once, and kept for good when its owner says so.

- Every request but the open ones carries an API key: `Authorization: Bearer <key>`, or the header `x-api-key`. A
  customer's own service may act for an owner of its tenant with the header `atelier-on-behalf-of: <tenant>/<owner>`.
- Names are snake_case, enums lower case, times UTC with `Z`. Unknown fields, null and values of another type are
  refused, never coerced. An empty text for an enum counts as left out. Replies may get new fields and new enum
  values: take unknown ones as such.
- Every error has the one shape `Error`, with a stable `reason`. Somebody else's object is not found.
- An answer carries `x-request-id`; one that is sent (64 letters, digits, dots, dashes) is kept.
- Page tokens and cursors are opaque.
- Under `/openai`, `/fal` and `/replicate` the gateway speaks the APIs of others: names, errors and streams are theirs.
"""
_UPLOADED = "The file itself. `Content-Type`, `Content-Length` and `Content-Digest` (sha-256), where sent, are checked."


def _as_in_the_contracts(route: RpcRoute) -> tuple[int, int, str]:
    """Return what puts operations in the order of the contracts: what is called most stands first there."""
    service = route.method.containing_service
    return FILES.index(service.file), route.method.index, route.template


@cache
def document() -> Json:
    """Return the document, as JSON values. Made once; nobody may change it."""
    schemas = Schemas()
    schemas.components["Error"] = errors.error_schema(schemas)
    found = routes()
    by_rpc = {route.grpc_path: route for route in found}
    paths: dict[str, Json] = {}
    for route in sorted(found, key=_as_in_the_contracts):
        paths.setdefault(template(route), {})[route.http_method.lower()] = _operation(schemas, route)
    paths |= fixed_operations(schemas, {name: by_rpc[path].method.output_type for name, path in SOURCES.items()})
    paths |= dialect_paths(schemas)
    samples = {**EXAMPLES, **_of_dialects()}
    for path, operations in paths.items():
        for method, operation in operations.items():
            source = _curl(method, path, operation, samples[operation["operationId"]])
            operation["x-codeSamples"] = [{"lang": "curl", "source": source}]
    return {
        "openapi": "3.1.0",
        "info": {"title": "Atelier", "version": __version__, "summary": summary(_ABOUT), "description": _ABOUT},
        "servers": [{"url": "/", "description": "The gateway that serves this document."}],
        "security": [{"bearer": []}, {"api_key": []}],
        "tags": _tags(found),
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.components.items())),
            "responses": errors.responses(),
            "securitySchemes": _security_schemes(),
        },
    }


async def serve_document(exchange: Exchange) -> Reply:
    """Serve the document at `/openapi.json`."""
    content, etag = await asyncio.to_thread(_content)
    headers = {"etag": etag, "cache-control": "no-cache"}
    if exchange.headers.get("if-none-match") == etag:
        return Reply(304, headers)
    return Reply(200, {"content-type": "application/json", **headers}, content)


@cache
def _content() -> tuple[bytes, str]:
    content = dump(document())
    return content, f'"{hashlib.sha256(content).hexdigest()[:32]}"'


def template(route: RpcRoute) -> str:
    """Return the path as the document has it: `{model.name}` is `{name}`, as one shape of path has one name in it."""
    return "/" + "/".join(
        f"{{{_last(segment.field)}}}" if segment.field else segment.text for segment in route.segments
    )


def _last(path: str) -> str:
    return path.rpartition(".")[2]


def _tags(found: list[RpcRoute]) -> list[Json]:
    services = {_tag(route): comment(route.service) for route in found}
    services["Gateway"] = "What the gateway itself answers: merged events, health, media, this document."
    services |= {dialect.title: f"{dialect.title}'s own API, for its clients." for dialect in DIALECTS}
    return [{"name": name, "description": text} for name, text in services.items()]


def _tag(route: RpcRoute) -> str:
    return str(route.method.containing_service.name)


def _security_schemes() -> Json:
    cookie = "Set by ExchangeSignInCode for the page; good for GET only."
    return {
        "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, or an identity token."},
        "api_key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "An API key."},
        "session_cookie": {"type": "apiKey", "in": "cookie", "name": SESSION_COOKIE, "description": cookie},
    }


def _operation(schemas: Schemas, route: RpcRoute) -> Json:
    """Return the operation of a route of the contracts."""
    text = comment(route.method.full_name)
    operation: Json = {
        "operationId": route.operation,
        "tags": [_tag(route)],
        "summary": summary(text),
        "description": text,
        "parameters": _parameters(schemas, route),
        **_body(schemas, route),
        "responses": {**_success(schemas, route), **errors.references(_failures(route, text))},
    }
    if route.open:
        operation["security"] = []
    elif route.http_method == "GET":
        operation["security"] = [{"bearer": []}, {"api_key": []}, {"session_cookie": []}]
    return operation


def _failures(route: RpcRoute, text: str) -> set[int]:
    statuses = errors.EVERYWHERE | errors.statuses_told(text, comment(route.service))
    if not route.open:
        statuses |= {401}
    if route.body:
        statuses |= {413, 415}
    return set(statuses)


def _parameters(schemas: Schemas, route: RpcRoute) -> list[Json]:
    example = EXAMPLES[route.operation]
    found: list[Json] = []
    for path in route.path_fields:
        schema = schemas.of_field(_field(route.method.input_type, path), sent=True)
        told = {"description": schema.pop("description", ""), "schema": schema, "example": example.path[_last(path)]}
        found.append({"name": _last(path), "in": "path", "required": True, **told})
    for name, field in query_fields(route).items():
        schema = schemas.of_field(field, sent=True)
        parameter = {"name": name, "in": "query", "description": schema.pop("description", ""), "schema": schema}
        if field.enum_type is not None and not field.is_repeated:
            parameter["allowEmptyValue"] = True
        found.append(parameter | ({"example": example.query[name]} if name in example.query else {}))
    fields = route.method.input_type.fields_by_name
    if "idempotency_key" in fields:
        found.append(_header("Idempotency-Key", "The field `idempotency_key`, as a header.", 200))
    if route.method.server_streaming and "after" in fields:
        found.append(_header("Last-Event-ID", "The field `after`, as EventSource sends it; it wins.", None))
    return found


def _header(name: str, description: str, max_length: int | None) -> Json:
    schema: Json = {"type": "string"} | ({"maxLength": max_length} if max_length else {})
    return {"name": name, "in": "header", "description": description, "schema": schema}


def _field(message: Descriptor, path: str) -> Any:
    *parents, last = path.split(".")
    for name in parents:
        message = message_type(message.fields_by_name[name])
    return message.fields_by_name[last]


def _body(schemas: Schemas, route: RpcRoute) -> Json:
    if not route.body:
        return {}
    if route.method.client_streaming:
        content: Json = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
        return {"requestBody": {"required": True, "description": _UPLOADED, "content": content}}
    message = route.method.input_type
    prefix = "" if route.body == "*" else f"{route.body}."
    if prefix:
        message = message_type(message.fields_by_name[route.body])
    filled = [path.removeprefix(prefix) for path in route.path_fields]
    schema = schemas.request(message, filled)
    content = {"application/json": {"schema": schema, "example": EXAMPLES[route.operation].body}}
    needed = bool(schemas.components[schema["$ref"].rpartition("/")[2]].get("required"))
    return {"requestBody": {"required": needed, "content": content}}


def _success(schemas: Schemas, route: RpcRoute) -> Json:
    message = route.method.output_type
    if not route.method.server_streaming:
        content: Json = {"application/json": {"schema": schemas.reply(message)}}
        return {"200": {"description": comment(message.full_name), "content": content}}
    found = {"200": {"description": comment(message.full_name), "content": stream_of(schemas, message)}}
    if route.path_fields:
        # Only a stream of one thing can have ended.
        found["204"] = {"description": "The stream was resumed after its last event: do not come back."}
    return found


def _of_dialects() -> dict[str, Example]:
    return {
        operation_id(dialect, endpoint): example_of_endpoint(dialect, endpoint)
        for dialect in DIALECTS
        for endpoint in dialect.endpoints
    }


def _curl(method: str, path: str, operation: Json, example: Example) -> str:
    """Return the example as a command for a shell."""
    for name, value in example.path.items():
        path = path.replace("{" + name + "}", value)
    query = "&".join(f"{name}={value}" for name, value in example.query.items())
    stream = list(operation["responses"].get("200", {}).get("content", {})) == ["text/event-stream"]
    words = ["curl", "-N"] if stream else ["curl"]
    words += [] if method == "get" else ["-X", method.upper()]
    words.append(f"'http://127.0.0.1:7400{path}{'?' if query else ''}{query}'")
    if operation.get("security") != []:
        words += ["-H", '"Authorization: Bearer $KEY"']
    words += [
        f"-H '{parameter['name']}: {parameter['example']}'"
        for parameter in operation.get("parameters", [])
        if parameter["in"] == "header" and parameter.get("required")
    ]
    form = operation.get("requestBody", {}).get("content", {}).get("multipart/form-data") if example.file else None
    if form:
        words += ["-F", f"'content=@{example.file}'"]
    elif example.file:
        words += ["-H", "'Content-Type: image/png'", "--data-binary", f"@{example.file}"]
    elif example.body is not None:
        text = dump(example.body).decode().replace("'", "'\\''")
        words += ["-H", "'Content-Type: application/json'", "-d", f"'{text}'"]
    return " ".join(words)
