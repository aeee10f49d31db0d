"""JSON Schemas (2020-12, as in OpenAPI 3.1) of the contracts' messages, as the gateway reads and writes them."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from atelier.type.v1 import limits_pb2
from gateway.http_rules import told_apart
from gateway.openapi_comments import comment
from gateway.schema import enum_names, is_duration, is_map, is_timestamp, message_type
from gateway.transcode import MAX_INTEGER
from service_kit.validation import limits_of

Json = dict[str, Any]

_INTEGERS: dict[int, Json] = {
    FieldDescriptor.CPPTYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.CPPTYPE_UINT32: {"type": "integer", "format": "int64", "minimum": 0, "maximum": (1 << 32) - 1},
    FieldDescriptor.CPPTYPE_INT64: {"type": "integer", "format": "int64", "minimum": 0, "maximum": MAX_INTEGER},
    FieldDescriptor.CPPTYPE_UINT64: {"type": "integer", "format": "int64", "minimum": 0, "maximum": MAX_INTEGER},
}
_NUMBERS = (*_INTEGERS, FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT)
_NEVER_SENT = "Never sent"
_OUTPUT_ONLY = "Output only"
_NO_LIMITS = limits_pb2.FieldLimits()


class Schemas:
    """Makes schemas as they are asked for, and keeps them as the components of a document.

    What a client sends and what it gets differ: replies print every field and may grow, requests must have what is
    required and may have nothing that is unknown. A message that goes both ways has two schemas.
    """

    def __init__(self) -> None:
        """Begin without any."""
        self.components: dict[str, Json] = {}
        self._made: dict[str, tuple[Descriptor, frozenset[str]]] = {}

    def request(self, message: Descriptor, without: Collection[str] = ()) -> Json:
        """Return a reference to the schema of a body; `without` are the fields that the path fills."""
        name = _name(message)
        name = name if name.endswith("Request") else f"{name}Input"
        if self._is_new(name, message, frozenset(without)):
            fields = [
                field
                for field in message.fields
                if field.name not in without and _OUTPUT_ONLY not in comment(field.full_name)
            ]
            schema: Json = {"type": "object", "description": comment(message.full_name), "additionalProperties": False}
            schema["properties"] = {field.name: self.of_field(field, sent=True) for field in fields}
            required = [field.name for field in fields if (limits_of(field) or _NO_LIMITS).required]
            self.components[name] = schema | ({"required": required} if required else {})
        return _reference(name)

    def reply(self, message: Descriptor) -> Json:
        """Return a reference to the schema of an answer."""
        name = _name(message)
        if self._is_new(name, message, frozenset()):
            schema: Json = {"type": "object", "description": comment(message.full_name)}
            schema["properties"] = {field.name: self.of_field(field, sent=False) for field in message.fields}
            printed = [field.name for field in message.fields if not field.has_presence]
            if printed:
                schema["required"] = printed
            members = [
                member.name for oneof in message.oneofs if not oneof.name.startswith("_") for member in oneof.fields
            ]
            if members:
                schema["oneOf"] = [{"required": [member]} for member in members]
            self.components[name] = schema
        return _reference(name)

    def of_field(self, field: FieldDescriptor, *, sent: bool) -> Json:
        """Return the schema of a field, with its comment; in requests with its limits and default."""
        schema = self._shape(field, sent=sent)
        text = comment(field.full_name)
        if sent:
            limits = limits_of(field) or _NO_LIMITS
            schema |= _limited(field, limits)
            if limits.default_value:
                default = _default(field, limits)
                if default is None:
                    text += f" Default: {limits.default_value}."
                else:
                    schema["default"] = default
        elif _OUTPUT_ONLY in text:
            schema["readOnly"] = True
        return {"description": text, **schema} if text else schema

    def enum(self, kind: EnumDescriptor, *, sent: bool) -> Json:
        """Return a reference to the schema of an enum: its values in lower case; "" in replies, where there is none."""
        texts = {
            name: comment(f"{kind.full_name}.{value.name}")
            for value, name in ((value, enum_names(kind)[value.number]) for value in kind.values)
        }
        never = texts.get("", _NEVER_SENT).startswith(_NEVER_SENT)
        name = kind.name if never or not sent else f"{kind.name}Input"
        shown = {text: told for text, told in texts.items() if text or not (never or sent)}
        listed = "\n".join(f"- `{text or json.dumps(text)}`: {told}" for text, told in shown.items())
        self.components[name] = {
            "type": "string",
            "description": f"{comment(kind.full_name)}\n\n{listed}",
            "enum": list(shown),
            "x-enum-descriptions": shown,
        }
        return _reference(name)

    def _shape(self, field: FieldDescriptor, *, sent: bool) -> Json:
        if is_map(field):
            entry = message_type(field).fields_by_name["value"]
            return {"type": "object", "additionalProperties": self._single(entry, sent=sent)}
        single = self._single(field, sent=sent)
        return {"type": "array", "items": single} if field.is_repeated else single

    def _single(self, field: FieldDescriptor, *, sent: bool) -> Json:
        if field.enum_type is not None:
            return self.enum(field.enum_type, sent=sent)
        if is_timestamp(field):
            return {"type": "string", "format": "date-time"}
        if is_duration(field):
            return {"type": "string", "pattern": r"^-?[0-9]{1,12}(\.[0-9]{1,9})?s$"}
        if field.message_type is not None:
            return self.request(field.message_type) if sent else self.reply(field.message_type)
        if field.cpp_type in _INTEGERS:
            return dict(_INTEGERS[field.cpp_type])
        if field.cpp_type in _NUMBERS:
            return {"type": "number", "format": "double"}
        if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return {"type": "boolean"}
        if field.type == FieldDescriptor.TYPE_BYTES:
            return {"type": "string", "contentEncoding": "base64"}
        return {"type": "string"}

    def _is_new(self, name: str, message: Descriptor, without: frozenset[str]) -> bool:
        """Tell whether a schema is to be made. Raises ValueError for a name that means two things."""
        made = self._made.setdefault(name, (message, without))
        if made != (message, without):
            raise ValueError(f"{made[0].full_name} and {message.full_name} would both be the schema {name}")
        if name in self.components:
            return False
        # A message that holds itself finds its own name here.
        self.components[name] = {}
        return True


def _name(message: Descriptor) -> str:
    return told_apart(message.name, message.file.package)


def _reference(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _limited(field: FieldDescriptor, limits: limits_pb2.FieldLimits) -> Json:
    """Return what the limits of a field are as JSON Schema."""
    found: Json = {}
    if field.is_repeated:
        if limits.required:
            found["minItems"] = 1
        if limits.HasField("max_items"):
            found["maxItems"] = limits.max_items
        return found
    for name in ("minimum", "maximum"):
        if limits.HasField(name):
            value = getattr(limits, name)
            found[name] = int(value) if value.is_integer() else value
    if limits.one_of:
        found["enum"] = list(limits.one_of)
    elif field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        if limits.required:
            found["minLength"] = 1
        if limits.HasField("max_length"):
            found["maxLength"] = limits.max_length
    if limits.example:
        found["examples"] = [limits.example]
    return found


def _default(field: FieldDescriptor, limits: limits_pb2.FieldLimits) -> Any:
    """Return the default as a value of the field; None when it can only be told in words."""
    text = limits.default_value
    if field.cpp_type in _NUMBERS:
        return json.loads(text)
    if field.enum_type is not None:
        return text if text in enum_names(field.enum_type).values() else None
    return text if text in limits.one_of or not limits.one_of else None
