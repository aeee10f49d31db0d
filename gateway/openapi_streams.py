"""How the OpenAPI document tells streams: OpenAPI 3.1 has no words for server-sent events, so one event is the schema.

Each member of `oneOf` is one kind of event: its name (`event:`), its cursor (`id:`), and the JSON on its `data:` line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from google.protobuf.descriptor import Descriptor

from gateway.openapi_comments import comment
from gateway.openapi_schemas import Json, Schemas

_ERROR = {"$ref": "#/components/schemas/Error"}
_ABOUT = (
    "A stream of server-sent events; the schema is that of one event. Lines that begin with a colon are pings. "
    "Reconnect with the last `id` in the header `Last-Event-ID`, or in the parameter `after`."
)


def stream_of(schemas: Schemas, message: Descriptor) -> Json:
    """Return the content of the answer of a server-streaming RPC."""
    return _content([*_events(schemas, message, ""), _error()])


def merged_stream(schemas: Schemas, sources: Mapping[str, Descriptor]) -> Json:
    """Return the content of the stream that merges others, by the first part of the events' names."""
    source = {
        "type": "object",
        "required": ["source"],
        "properties": {"source": {"type": "string", "enum": list(sources)}},
    }
    events = [event for name, message in sources.items() for event in _events(schemas, message, f"{name}.")]
    down = "A source cannot be reached at the moment; the others go on."
    back = "The source is back; its events go on after the last one."
    events += [_event("unavailable", down, source), _event("resync", back, source)]
    return _content([*events, _error()])


def _events(schemas: Schemas, message: Descriptor, prefix: str) -> Iterable[Json]:
    data = schemas.reply(message)
    for oneof in message.oneofs:
        for member in oneof.fields:
            shape = {"allOf": [data, {"required": [member.name]}]}
            yield _event(f"{prefix}{member.name}", comment(member.full_name), shape)


def _event(name: str, description: str, data: Json) -> Json:
    return {
        "title": name,
        "description": description,
        "type": "object",
        "required": ["event", "data"],
        "properties": {"event": {"const": name}, "id": {"type": "string", "description": "The cursor."}, "data": data},
        "x-event": name,
    }


def _error() -> Json:
    return _event("error", "The stream broke, and why. Nothing follows.", _ERROR)


def _content(events: list[Json]) -> Json:
    schema = {"description": _ABOUT, "oneOf": events, "x-event-names": [event["x-event"] for event in events]}
    return {"text/event-stream": {"schema": schema}}
