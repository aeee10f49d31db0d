"""From JSON to dataclasses, leniently: unknown fields are kept in `raw`, absent ones take their zero."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache
from typing import Any, TypeVar, cast

from atelier_client.errors import BadReply

T = TypeVar("T")
Converter = Callable[[Any], Any]


def decode(cls: type[T], data: Any) -> T:
    """Build a dataclass from a JSON object.

    Every model has a field `raw`, which receives the object as it came. Enum values are plain text, of any value.

    Raises:
        BadReply: a value has a type that the field cannot have.
    """
    if not isinstance(data, Mapping):
        raise BadReply(f"The reply has {data!r:.80} where a {cls.__name__} belongs.")
    values: dict[str, Any] = {}
    for name, convert in _plan(cast(Any, cls)).items():
        if name == "raw":
            values["raw"] = data
        elif data.get(name) is not None:
            try:
                values[name] = convert(data[name])
            except (TypeError, ValueError, binascii.Error) as error:
                raise BadReply(f"The reply has {data[name]!r:.80} as {cls.__name__}.{name}: {error}.") from error
    return cls(**values)


@cache
def _plan(cls: Any) -> dict[str, Converter]:
    hints = typing.get_type_hints(cls)
    return {field.name: _converter(hints[field.name]) for field in dataclasses.fields(cls)}


def _converter(hint: Any) -> Converter:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return _converter(next(part for part in arguments if part is not types.NoneType))
    if origin is tuple:
        return _tuple_of(_converter(arguments[0]))
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return lambda value: decode(hint, value)
    return _SCALARS.get(hint, lambda value: value)


def _tuple_of(convert: Converter) -> Converter:
    def converted(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValueError("a list was expected")
        return tuple(convert(part) for part in value)

    return converted


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a text was expected")
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool):
        raise ValueError("a number was expected")
    return int(value)


def _fraction(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError("a number was expected")
    return float(value)


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false was expected")
    return value


_SCALARS: dict[Any, Converter] = {
    str: _text,
    int: _whole,
    float: _fraction,
    bool: _truth,
    bytes: base64.b64decode,
    datetime: datetime.fromisoformat,
}
