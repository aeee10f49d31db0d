"""A request message out of an HTTP request: path, query, body and the headers that stand for fields."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from gateway.http_rules import RpcRoute
from gateway.schema import descriptor_of, is_map, is_plain_message, message_type
from gateway.status import HttpProblem, malformed
from gateway.transcode import Problem, Refused, fill, from_json, from_text, parse_json, refuse, set_field, unknown_hint
from service_kit.errors import ErrorReason, FieldProblem, InvalidArgument

_MAX_PARAMETERS = 100
# Digits are those of ASCII: Python would read those of every script.
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,20})")
_FRACTION = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?")
_IDEMPOTENCY_FIELD = "idempotency_key"


@lru_cache(maxsize=256)
def message_class(descriptor: Descriptor) -> type[Message]:
    """Return the Python class of a message."""
    return message_factory.GetMessageClass(descriptor)


def build(
    route: RpcRoute, path_values: Mapping[str, str], query_string: bytes, body: bytes, headers: Mapping[str, str]
) -> Message:
    """Return the request message of a unary or server-streaming RPC.

    Raises:
        InvalidArgument: names every field that is unknown or has a value that it does not take.
        HttpProblem: the body is not said to be JSON (415).
    """
    message = message_class(route.method.input_type)()
    if route.body:
        _fill_body(message, route, body, headers)
    elif body:
        raise malformed(f"{route.http_method} {route.template} takes no body.")
    fill_path(message, path_values)
    fill_query(message, route, query_string)
    _fill_idempotency_key(message, headers)
    return message


def _fill_body(message: Message, route: RpcRoute, body: bytes, headers: Mapping[str, str]) -> None:
    if not body:
        return
    check_json_type(headers.get("content-type", ""))
    value = parse_json(body)
    if route.body == "*":
        fill(message, value)
    else:
        target = getattr(message, route.body)
        target.SetInParent()
        fill(target, value, route.body)


def check_json_type(content_type: str) -> None:
    """Raise HttpProblem (415) unless a body of this type is JSON in UTF-8."""
    kind, _, parameters = content_type.partition(";")
    charset = re.search(r"charset\s*=\s*\"?([^\s;\"]+)", parameters.lower())
    if kind.strip().lower() == "application/json" and (charset is None or charset[1] in ("utf-8", "utf8")):
        return
    said = f"got {content_type[:60]!r}" if content_type else "got none"
    raise HttpProblem(malformed(f"must be application/json, {said}", "content-type"), status=415)


def fill_path(message: Message, values: Mapping[str, str]) -> None:
    """Set the fields that the path fills. A body that says the same again is taken, one that says another is not."""
    for path, text in values.items():
        parent, field = resolve(message, path)
        if field is None or parent is None:
            raise ValueError(f"{message.DESCRIPTOR.full_name} has no field {path}")
        try:
            value = parse_text(field, text)
        except Refused as refused:
            raise InvalidArgument.field(path, refused.message, refused.reason) from None
        if _is_set(parent, field) and getattr(parent, field.name) != value:
            raise InvalidArgument.field(path, "differs between the path and the body", ErrorReason.CONFLICTING_FIELDS)
        set_field(parent, field, value)


def _is_set(message: Message, field: FieldDescriptor) -> bool:
    return message.HasField(field.name) if field.has_presence else bool(getattr(message, field.name))


def query_pairs(query_string: bytes) -> list[tuple[str, str]]:
    """Return the query's parameters in order.

    Raises:
        InvalidArgument: it is not percent-encoded UTF-8, or has far too many.
    """
    try:
        return parse_qsl(
            query_string.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MAX_PARAMETERS
        )
    except UnicodeError:
        raise malformed("The query is not percent-encoded UTF-8.") from None
    except ValueError:
        raise malformed(f"The query has more than {_MAX_PARAMETERS} parameters.") from None


def fill_query(message: Message, route: RpcRoute, query_string: bytes) -> None:
    """Set the fields that the query names.

    Raises:
        InvalidArgument: names every parameter that is unknown, given twice, or not of its field's type.
    """
    problems: list[Problem] = []
    known = query_fields(route)
    values: dict[str, list[str]] = {}
    for name, text in query_pairs(query_string):
        values.setdefault(name, []).append(text)
    for name, texts in values.items():
        if name not in known:
            problems.append((ErrorReason.UNKNOWN_FIELD, FieldProblem(name[:300], unknown_hint(name, known))))
        else:
            problems += _fill_parameter(message, name, texts)
    refuse(problems)


@lru_cache(maxsize=256)
def _query_fields(descriptor: Descriptor, prefix: str = "", depth: int = 0) -> tuple[tuple[str, FieldDescriptor], ...]:
    found: list[tuple[str, FieldDescriptor]] = []
    for field in descriptor.fields:
        name = f"{prefix}{field.name}"
        if not is_plain_message(field):
            found.append((name, field))
        elif not field.is_repeated and depth < 2:
            found.extend(_query_fields(field.message_type, f"{name}.", depth + 1))
    return tuple(found)


def query_fields(route: RpcRoute) -> dict[str, FieldDescriptor]:
    """Return the parameters that a route takes: every field of the request that neither path nor body fills."""
    if route.body == "*":
        return {}
    return {
        name: field
        for name, field in _query_fields(route.method.input_type)
        if name not in route.path_fields and not (route.body and name.split(".")[0] == route.body)
    }


def _fill_parameter(message: Message, name: str, texts: list[str]) -> Iterable[Problem]:
    parent, field = resolve(message, name)
    if field is None or parent is None:
        return [(ErrorReason.UNKNOWN_FIELD, FieldProblem(name, "is not a known field"))]
    if not field.is_repeated and len(texts) > 1:
        return [(ErrorReason.MALFORMED_REQUEST, FieldProblem(name, "is given twice"))]
    for text in texts:
        try:
            value = parse_text(field, text)
        except Refused as refused:
            return [(refused.reason, FieldProblem(name, refused.message))]
        if field.is_repeated:
            getattr(parent, field.name).append(value)
        else:
            set_field(parent, field, value)
    return []


def resolve(message: Message, path: str) -> tuple[Message | None, FieldDescriptor | None]:
    """Return the message that holds the field of a dotted path, and the field; (None, None) when there is none."""
    *parents, last = path.split(".")
    holder, descriptor = message, descriptor_of(message)
    for name in parents:
        field = descriptor.fields_by_name.get(name)
        if field is None or not is_plain_message(field) or field.is_repeated or is_map(field):
            return None, None
        holder, descriptor = getattr(holder, name), message_type(field)
    return holder, descriptor.fields_by_name.get(last)


def parse_text(field: FieldDescriptor, text: str) -> Any:
    """Return what a text in a path or a query means for a field (for an element, of a list).

    Raises:
        Refused: it is not of the field's type, or the field does not take it.
    """
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        if text not in ("true", "false"):
            raise Refused(ErrorReason.MALFORMED_REQUEST, f"must be true or false, got {text[:60]!r}")
        return text == "true"
    if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        if not _FRACTION.fullmatch(text):
            raise Refused(ErrorReason.MALFORMED_REQUEST, f"must be a number, got {text[:60]!r}")
        return from_json(field, float(text))
    if kind in (FieldDescriptor.CPPTYPE_STRING, FieldDescriptor.CPPTYPE_ENUM, FieldDescriptor.CPPTYPE_MESSAGE):
        return from_text(field, text)
    if not _INTEGER.fullmatch(text):
        raise Refused(ErrorReason.MALFORMED_REQUEST, f"must be a whole number, got {text[:60]!r}")
    return from_json(field, int(text))


def _fill_idempotency_key(message: Message, headers: Mapping[str, str]) -> None:
    """Let the header `Idempotency-Key` fill the field of that name, where the request has one."""
    given = headers.get("idempotency-key")
    if given is None or _IDEMPOTENCY_FIELD not in message.DESCRIPTOR.fields_by_name:
        return
    in_body = getattr(message, _IDEMPOTENCY_FIELD)
    if in_body and in_body != given:
        raise InvalidArgument.field(
            _IDEMPOTENCY_FIELD,
            "differs between the body and the header Idempotency-Key",
            ErrorReason.CONFLICTING_FIELDS,
        )
    setattr(message, _IDEMPOTENCY_FIELD, given)
