"""What the OpenAPI document says of an endpoint of a dialect beside its tables: headers that are read, and answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.dialects.fields import Field

Json = dict[str, Any]

TEXT: Json = {"type": "string"}
MAYBE_TEXT: Json = {"type": ["string", "null"]}
WHOLE: Json = {"type": "integer"}
MAYBE_WHOLE: Json = {"type": ["integer", "null"]}
NUMBER: Json = {"type": "number"}
BOOLEAN: Json = {"type": "boolean"}
NULL: Json = {"type": "null"}
MAP: Json = {"type": "object"}
ANYTHING: Json = {}

JSON_TYPE, FORM_TYPE, STREAM_TYPE = "application/json", "multipart/form-data", "text/event-stream"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer that is no error: what it says, and its schema by content type; none for an answer without a body."""

    about: str
    content: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Described:
    """What is told of an endpoint."""

    answers: Mapping[int, Answer]
    """By HTTP status; also errors that have another shape than the dialect's."""
    headers: tuple[Field, ...] = ()
    bodies: tuple[str, ...] = (JSON_TYPE,)
    """The content types of its body, where it has fields."""
    raw: str = ""
    """What the body is where it is a file, no fields; empty elsewhere."""
    refuses: frozenset[int] = frozenset()
    """More statuses that it answers in the dialect's shape of errors."""


def says(schema: Json, about: str = "As the clients of this dialect read it.") -> Answer:
    """Return an answer in JSON."""
    return Answer(about, {JSON_TYPE: schema})


def streams(about: str) -> Answer:
    """Return an answer in server-sent events."""
    return Answer(about, {STREAM_TYPE: TEXT})


def says_or_streams(schema: Json, about: str) -> Answer:
    """Return an answer in JSON, or in server-sent events for a request that asks for them."""
    return Answer(about, {JSON_TYPE: schema, STREAM_TYPE: TEXT})


def one_of(*values: Any) -> Json:
    """Return the schema of a value out of a few."""
    return {"enum": list(values)}


def list_of(items: Json) -> Json:
    """Return the schema of a list."""
    return {"type": "array", "items": items}


def thing(optional: Mapping[str, Json] | None = None, /, **always: Json) -> Json:
    """Return the schema of an object: what is `always` in it, and what may be. It may grow."""
    return {"type": "object", "required": list(always), "properties": {**always, **(optional or {})}}


def maybe(schema: Json) -> Json:
    """Return the schema of what may be null."""
    return {"anyOf": [schema, NULL]}
