"""protobuf → JSON: zeros are printed; unset messages, members of a oneof and `optional` fields are left out."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from gateway.schema import descriptor_of, enum_names, is_duration, is_map, is_timestamp, message_type
from service_kit.clock import rfc3339

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_Render = Callable[[Any], Any]


def to_json(message: Message) -> dict[str, Any]:
    """Return a message as JSON values, its fields in the order of the contract."""
    return {
        name: render(getattr(message, name))
        for name, render, has_presence in _plan(descriptor_of(message))
        if not has_presence or message.HasField(name)
    }


def to_bytes(message: Message) -> bytes:
    """Return a message as the body of a response."""
    return dump(to_json(message))


def dump(value: Any) -> bytes:
    """Return JSON values as compact UTF-8 on one line. Raises ValueError for a number that JSON does not have."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


@lru_cache(maxsize=1024)
def _plan(descriptor: Descriptor) -> tuple[tuple[str, _Render, bool], ...]:
    return tuple((field.name, _renderer(field), field.has_presence) for field in descriptor.fields)


def _renderer(field: FieldDescriptor) -> _Render:
    if is_map(field):
        entry = _single(message_type(field).fields_by_name["value"])
        return lambda values: {_key(key): entry(value) for key, value in sorted(values.items())}
    single = _single(field)
    if field.is_repeated:
        return lambda values: [single(value) for value in values]
    return single


def _single(field: FieldDescriptor) -> _Render:
    if field.enum_type is not None:
        return _enum(field.enum_type)
    if field.message_type is not None:
        if is_timestamp(field):
            return _timestamp
        return _duration if is_duration(field) else to_json
    if field.type == FieldDescriptor.TYPE_BYTES:
        return lambda value: base64.b64encode(value).decode("ascii")
    if field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return _fraction
    return lambda value: value


def _enum(kind: EnumDescriptor) -> _Render:
    names = enum_names(kind)
    # A newer service may know values that this gateway does not: clients must tolerate unknown ones.
    return lambda number: names.get(number, f"unknown_{number}")


def _key(key: Any) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)


def _fraction(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("JSON has no infinity and no NaN")
    return value


def _timestamp(value: Timestamp) -> str:
    return rfc3339(_EPOCH + timedelta(seconds=value.seconds, microseconds=value.nanos // 1000))


def _duration(value: Duration) -> str:
    sign = "-" if value.seconds < 0 or value.nanos < 0 else ""
    fraction = f".{abs(value.nanos):09}".rstrip("0").rstrip(".")
    return f"{sign}{abs(value.seconds)}{fraction}s"
