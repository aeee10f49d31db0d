"""JSON schemas of the tables of the dialects: of a body in JSON, of a form, of a parameter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.dialects.fields import MOST, MOST_WIDE, Field, Kind, Treatment, Upload
from gateway.openapi_schemas import Json

_FILE: Json = {"type": "string", "format": "binary"}
_NULL: Json = {"type": "null"}


def body_schema(table: Sequence[Field], about: str, *, form: bool) -> Json:
    """Return the schema of a body; `form`: of a multipart form, where values are texts and files."""
    schema: Json = {"type": "object", "description": about, "properties": {}, "additionalProperties": False}
    for entry in table:
        *parents, name = entry.name.split(".")
        holder = schema
        for parent in parents:
            holder = _inner(holder, parent)
        holder["properties"][name] = {**field_schema(entry, form=form), "description": _about(entry)}
        if entry.required:
            _require(schema, entry.name.split("."))
    return schema


def _inner(schema: Json, name: str) -> Json:
    """Return the schema of an object within another, which the table names before what is in it."""
    found: Json = schema["properties"][name]
    if "properties" not in found:
        about = found.pop("description")
        found.clear()
        found |= {"type": ["object", "null"], "description": about, "properties": {}, "additionalProperties": False}
    return found


def _require(schema: Json, path: Sequence[str]) -> None:
    for name in path:
        required = schema.setdefault("required", [])
        if name not in required:
            required.append(name)
        schema = schema["properties"][name]


def _about(entry: Field) -> str:
    word = {Treatment.MAPPED: "Becomes", Treatment.NOTED: "Noted", Treatment.REFUSED: "Refused"}[entry.treatment]
    return f"{word}: {entry.note}."


def field_schema(entry: Field, *, form: bool) -> Json:
    """Return the schema of one field of a body. Null counts as absent."""
    if entry.treatment is Treatment.REFUSED:
        values: list[Any] = [*entry.harmless, None]
        return {"enum": values}
    single = _single(entry, form=form)
    if entry.repeated:
        items: Json = {"type": "array", "items": single} | ({"minItems": 1} if entry.required else {})
        single = items if form else {"anyOf": [single, items]}
    return single if entry.required or form else _or_null(single)


def _or_null(schema: Json) -> Json:
    """Return the schema of what may be null, too, in the words that readers of the document know."""
    if "anyOf" in schema:
        return {"anyOf": [*schema["anyOf"], _NULL]}
    if "enum" in schema:
        return {"enum": [*schema["enum"], None]}
    if schema in ({}, _NULL):
        return schema
    return {**schema, "type": [schema["type"], "null"]}


def _single(entry: Field, *, form: bool) -> Json:
    if entry.choices:
        return {"enum": list(entry.choices)}
    schema = _PLAIN[entry.kind]
    if entry.kind in (Kind.FILE, Kind.SOURCE):
        return _FILE if form else dict(schema)
    if entry.kind in (Kind.INTEGER, Kind.NUMBER):
        return _number(entry, schema, also_text=entry.also_text)
    # An empty text is nothing.
    return {**schema, "minLength": 1} if entry.required and entry.kind is Kind.TEXT else dict(schema)


def _number(entry: Field, schema: Json, *, also_text: bool) -> Json:
    found = dict(schema)
    most = MOST_WIDE if entry.wide else MOST
    if entry.kind is Kind.INTEGER:
        found |= {"minimum": -most, "maximum": most}
    if entry.minimum is not None:
        found["minimum"] = entry.minimum
    if entry.maximum is not None:
        found["maximum"] = entry.maximum
    return {"anyOf": [found, {"type": "string"}]} if also_text else found


def parameter(entry: Field, place: str) -> Json:
    """Return a parameter of the query or a header: a text, whatever it stands for."""
    schema = {"enum": ["true", "false", "True", "False", "1", "0"]} if entry.kind is Kind.BOOLEAN else None
    found: Json = {
        "name": entry.name,
        "in": place,
        "description": _about(entry) if place == "query" else entry.note,
        "schema": schema or _single(entry, form=True),
        "example": entry.example,
    }
    return found | ({"required": True} if entry.required else {})


def example_of(table: Sequence[Field]) -> Json:
    """Return a small body that a table takes: the examples of what is required, and of objects that hold the rest."""
    holders = {entry.name.partition(".")[0] for entry in table if "." in entry.name}
    found: Json = {}
    for entry in table:
        if entry.required or entry.name in holders:
            example = "https://example.com/heron.png" if isinstance(entry.example, Upload) else entry.example
            found[entry.name] = [example] if entry.repeated else example
    return found


_PLAIN: dict[Kind, Json] = {
    Kind.TEXT: {"type": "string"},
    Kind.INTEGER: {"type": "integer"},
    Kind.NUMBER: {"type": "number"},
    Kind.BOOLEAN: {"type": "boolean"},
    # In JSON there is no way to bring one.
    Kind.FILE: _NULL,
    Kind.SOURCE: {"type": "string", "minLength": 1},
    Kind.OBJECT: {"type": "object"},
    Kind.ANY: {},
}
