"""Domain values as JSON and back: dataclasses, enums, tuples, moments (microseconds since 1970 in UTC).

How a type is written and read is worked out once: every job passes here at each of its transitions. A field whose
default is empty (None, "", 0, (), false) is left out while it is empty.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, TypeVar

T = TypeVar("T")
_Step = Callable[[Any], Any]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NEVER = object()
_PLAIN = frozenset({str, int, float, bool})
write = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""Returns the JSON text of what `to_json` has returned."""


def to_json(value: Any) -> Any:
    """Return what `json` can write for a domain value. Raises TypeError for a type that has no form."""
    kind: Any = type(value)
    step = _encoder(kind)
    return value if step is None else step(value)


def from_json(kind: type[T], value: Any) -> T:
    """Return the domain value of a type from its JSON form. A field that the form lacks takes its default."""
    hint: Any = kind
    step = _decoder(hint)
    return typing.cast(T, value if step is None else step(value))


def to_text(value: Any) -> str:
    """Return the JSON text of a domain value."""
    return write(to_json(value))


def to_bytes(value: Any) -> bytes:
    """Return the JSON text of a domain value as UTF-8."""
    return to_text(value).encode()


def from_bytes(kind: type[T], data: bytes) -> T:
    """Return the domain value of a type from its JSON text in UTF-8."""
    return from_json(kind, json.loads(data))


def _fields(kind: Any) -> list[tuple[dataclasses.Field[Any], Any]]:
    hints = typing.get_type_hints(kind)
    return [(field, hints[field.name]) for field in dataclasses.fields(kind)]


def _option(hint: Any) -> Any:
    """Return X for the type `X | None`; None for any other type."""
    if not isinstance(hint, types.UnionType):
        return None
    return next(part for part in hint.__args__ if part is not type(None))


@functools.cache
def _encoder(hint: Any) -> _Step | None:
    """Return how a type is written; None when it is written as it is."""
    option = _option(hint)
    if option is not None:
        return _sparing_none(_encoder(option))
    if typing.get_origin(hint) is tuple:
        return _each(_encoder(typing.get_args(hint)[0]))
    if dataclasses.is_dataclass(hint):
        return _dataclass_encoder(hint)
    if hint is datetime:
        return lambda value: (value - _EPOCH) // _MICROSECOND
    if hint in _PLAIN or hint is type(None):
        return None
    if isinstance(hint, type) and issubclass(hint, Enum):
        return None if issubclass(hint, str) else lambda value: value.value
    raise TypeError(f"{hint} has no JSON form")


@functools.cache
def _decoder(hint: Any) -> _Step | None:
    """Return how a type is read; None when it is read as it is."""
    option = _option(hint)
    if option is not None:
        return _sparing_none(_decoder(option))
    if typing.get_origin(hint) is tuple:
        step = _decoder(typing.get_args(hint)[0])
        return tuple if step is None else lambda values: tuple([step(value) for value in values])
    if dataclasses.is_dataclass(hint):
        return _dataclass_decoder(hint)
    if hint is datetime:
        return lambda value: _EPOCH + timedelta(microseconds=value)
    return None if hint in _PLAIN else typing.cast(_Step, hint)


def _sparing_none(step: _Step | None) -> _Step | None:
    return None if step is None else lambda value: None if value is None else step(value)


def _each(step: _Step | None) -> _Step:
    return list if step is None else lambda values: [step(value) for value in values]


def _dataclass_encoder(kind: Any) -> _Step:
    fields = [(field.name, _encoder(hint), _empty_default(field)) for field, hint in _fields(kind)]

    def encode(value: Any) -> dict[str, Any]:
        form: dict[str, Any] = {}
        for name, step, empty in fields:
            part = getattr(value, name)
            # Only the very default may be lacking: 0 is a value where None is the default.
            if part != empty:
                form[name] = part if step is None else step(part)
        return form

    return encode


def _empty_default(field: dataclasses.Field[Any]) -> Any:
    """Return the default of a field if it is empty; what equals nothing otherwise."""
    is_empty = field.default is not dataclasses.MISSING and not field.default
    return field.default if is_empty else _NEVER


def _dataclass_decoder(kind: Any) -> _Step:
    steps = {field.name: _decoder(hint) for field, hint in _fields(kind)}

    def decode(form: dict[str, Any]) -> Any:
        values = {}
        for name, part in form.items():
            if name in steps:
                step = steps[name]
                values[name] = part if step is None else step(part)
        return kind(**values)

    return decode
