"""Domain values as JSON and back: dataclasses, enums, tuples, moments (microseconds since 1970 in UTC)."""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, TypeVar

T = TypeVar("T")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_json(value: Any) -> Any:
    """Return what `json` can write for a domain value. Raises TypeError for a type that has no form."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str):
        return value
    if isinstance(value, datetime):
        return (value - _EPOCH) // _MICROSECOND
    if isinstance(value, tuple | list):
        return [to_json(part) for part in value]
    if dataclasses.is_dataclass(value):
        return {field: to_json(getattr(value, field)) for field in _hints(value.__class__)}
    raise TypeError(f"{type(value).__name__} has no JSON form")


def from_json(kind: type[T], value: Any) -> T:
    """Return the domain value of a type from its JSON form. A field that the form lacks takes its default."""
    return typing.cast(T, _decode(kind, value))


def to_bytes(value: Any) -> bytes:
    """Return the JSON text of a domain value as UTF-8."""
    return json.dumps(to_json(value), ensure_ascii=False, separators=(",", ":")).encode()


def from_bytes(kind: type[T], data: bytes) -> T:
    """Return the domain value of a type from its JSON text."""
    return from_json(kind, json.loads(data))


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _decode(kind: Any, value: Any) -> Any:
    if isinstance(kind, types.UnionType):
        return None if value is None else _decode(next(arg for arg in kind.__args__ if arg is not type(None)), value)
    if typing.get_origin(kind) is tuple:
        return tuple(_decode(typing.get_args(kind)[0], part) for part in value)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return kind(**{name: _decode(hint, value[name]) for name, hint in _hints(kind).items() if name in value})
    if kind is datetime:
        return _EPOCH + timedelta(microseconds=value)
    return kind(value)
