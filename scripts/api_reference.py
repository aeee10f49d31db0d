"""Writes docs/api.md from the contracts: `python -m scripts.api_reference`."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor

from atelier.asset.v1 import asset_control_service_pb2
from atelier.type.v1 import access_pb2
from atelier.worker.v1 import worker_service_pb2
from gateway.app import EVENTS
from gateway.http_rules import FILES, routes
from gateway.openapi_comments import comment
from gateway.schema import enum_names, is_duration, is_map, is_timestamp
from scripts.markdown import generated_by, table, write
from service_kit.validation import limits_of

NAME = "api.md"
SERVED = (*FILES, asset_control_service_pb2.DESCRIPTOR, worker_service_pb2.DESCRIPTOR)
"""The contracts that servers answer."""

ACCESS = {
    access_pb2.ACCESS_OPEN: "nobody: it is open",
    access_pb2.ACCESS_USE: "any key of a user, an operator, a session or an internal service",
    access_pb2.ACCESS_ADMIN: "an operator's key",
    access_pb2.ACCESS_WORK: "a worker's key",
    access_pb2.ACCESS_SERVICE: "one of Atelier's own services",
    access_pb2.ACCESS_LEASE: "the lease token of a running stage",
}

_OWN_ROUTES = table(
    ("route", "what it answers", "who may call it"),
    [
        (f"`GET {EVENTS}`", "jobs, assets and items of the caller in one stream", "as for an RPC that needs `use`"),
        ("`GET /v1/health`, `GET /healthz`", "how every service is; 503 when the gateway is of no use", "open"),
        ("`GET /openapi.json`", "the OpenAPI document", "open"),
        ("`GET /media/{bucket}/{key}`", "a file: ranges, ETag, HEAD", "open: the address is signed"),
        ("`GET /`, `GET /docs`, `GET /console/{path}`", "the page, the reader of the OpenAPI document", "open"),
    ],
)

_INTRO = f"""\
# The API

Every operation for clients exists twice: as a route of the gateway (HTTP and JSON) and as an RPC of a service (gRPC).
RPCs without a route are for workers and for Atelier's own services. A running system serves the routes as OpenAPI 3.1
at `/openapi.json`, with schemas, limits and an example for each operation, and a page to read it at `/docs`.

How JSON looks: names are snake_case; enums are lower case (`image`, `queued`); times are UTC with microseconds and `Z`;
integers are numbers; replies print zeros. Unknown fields, `null` and values of another type are refused by path. An
empty text for an enum, in a query or in a body, counts as left out: it is the enum's unspecified value in JSON.
Replies may get new fields and new enum values at any time. Errors: [errors.md](errors.md). Keys and tokens:
[identity.md](identity.md).

## Routes of the gateway alone

{_OWN_ROUTES}

## Streams

Routes that watch answer `text/event-stream`. A stream begins with the comment `: open` and `retry: 1000`. Each event
has a name (`event:`), for durable events a cursor (`id:`), and JSON (`data:`): the message of the RPC. To resume, send
the last `id` back as `Last-Event-ID` or `?after=`; the header wins. An unknown or expired cursor gives a `snapshot`,
never an error or a gap. A stream of one job that is resumed after its last event answers 204, upon which an EventSource
stops. A comment keeps quiet streams open.

`GET {EVENTS}` merges the three owner-wide streams. Its events carry the source in their name: `jobs.state`,
`assets.published`, `items.saved` and so on. A source that is down is told as `unavailable` and later `resync`; the
others go on. Its `id` holds a cursor for each source.
"""


def methods() -> Iterator[MethodDescriptor]:
    """Yield every RPC that a server answers."""
    for file in SERVED:
        for service in file.services_by_name.values():
            yield from service.methods


def render() -> str:
    """Return the whole page."""
    parts = [generated_by("scripts.api_reference"), _INTRO, "## All operations\n", _overview()]
    for file in SERVED:
        for service in file.services_by_name.values():
            parts.append(f"## {service.name}\n\n{_about(service)}\n")
            parts.extend(_operation(method) for method in service.methods)
    return "\n".join(parts)


def _about(service: ServiceDescriptor) -> str:
    return f"`{service.full_name}`. {comment(service.full_name)}"


def _routes_of(method: MethodDescriptor) -> list[str]:
    return [f"{route.http_method} {route.template}" for route in routes() if route.method is method]


def _access(method: MethodDescriptor) -> access_pb2.Access.ValueType:
    access: access_pb2.Access.ValueType = method.GetOptions().Extensions[access_pb2.access]
    return access


def _overview() -> str:
    rows = [
        (
            f"[{method.name}](#{method.name.lower()})",
            ", ".join(f"`{route}`" for route in _routes_of(method)) or "gRPC only",
            access_pb2.Access.Name(_access(method)).removeprefix("ACCESS_").lower(),
        )
        for method in methods()
    ]
    legend = "\n".join(
        f"- `{access_pb2.Access.Name(value).removeprefix('ACCESS_').lower()}`: {who}" for value, who in ACCESS.items()
    )
    return table(("RPC", "route", "access"), rows) + f"\n\nWho may call, by access:\n\n{legend}\n"


def _operation(method: MethodDescriptor) -> str:
    shape = (
        f"{'stream of ' if method.client_streaming else ''}{method.input_type.name} → "
        f"{'stream of ' if method.server_streaming else ''}{method.output_type.name}"
    )
    lines = [f"### {method.name}\n"]
    lines += [f"`{route}`\n" for route in _routes_of(method)]
    lines += [f"{shape}. Needs: {ACCESS[_access(method)]}.\n", comment(method.full_name) + "\n"]
    if method.input_type.fields:
        lines.append(_fields(method.input_type))
    return "\n".join(lines)


def _fields(message: Descriptor) -> str:
    rows = [(f"`{field.name}`", _type(field), _limits(field), comment(field.full_name)) for field in message.fields]
    return (
        table(("field", "type", "limits", "meaning"), [tuple(" ".join(c.split()) for c in row) for row in rows]) + "\n"
    )


def _type(field: FieldDescriptor) -> str:
    if is_map(field):
        return "map"
    return f"list of {_single(field)}" if field.is_repeated else _single(field)


def _single(field: FieldDescriptor) -> str:
    if field.enum_type is not None:
        return " or ".join(f"`{name}`" for name in enum_names(field.enum_type).values() if name)
    if is_timestamp(field):
        return "time"
    if is_duration(field):
        return "duration"
    if field.message_type is not None:
        return str(field.message_type.name)
    return _SCALARS.get(field.cpp_type, "text" if field.type == FieldDescriptor.TYPE_STRING else "bytes")


_SCALARS = {
    FieldDescriptor.CPPTYPE_INT32: "integer",
    FieldDescriptor.CPPTYPE_INT64: "integer",
    FieldDescriptor.CPPTYPE_UINT32: "integer",
    FieldDescriptor.CPPTYPE_UINT64: "integer",
    FieldDescriptor.CPPTYPE_DOUBLE: "number",
    FieldDescriptor.CPPTYPE_FLOAT: "number",
    FieldDescriptor.CPPTYPE_BOOL: "true or false",
}


def _limits(field: FieldDescriptor) -> str:
    limits = limits_of(field)
    if limits is None:
        return ""
    found = ["required"] if limits.required else []
    if limits.required_unless:
        found.append(f"required unless `{limits.required_unless}` is sent")
    if limits.HasField("minimum") or limits.HasField("maximum"):
        low = f"{limits.minimum:.15g}" if limits.HasField("minimum") else ""
        high = f"{limits.maximum:.16g}" if limits.HasField("maximum") else ""
        found.append(f"{low}..{high}" if high else f"at least {low}")
    if limits.HasField("max_length"):
        found.append(f"at most {limits.max_length} long")
    if limits.HasField("max_items"):
        found.append(f"at most {limits.max_items}")
    if limits.one_of:
        found.append("one of " + ", ".join(f"`{text}`" for text in limits.one_of))
    if limits.default_value:
        found.append(f"default {limits.default_value}")
    return "; ".join(found)


if __name__ == "__main__":
    write(NAME, render())
