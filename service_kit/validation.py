"""The limits on request fields in the contracts (`atelier.type.v1.limits`), enforced before a servicer runs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from atelier.type.v1 import limits_pb2
from service_kit.errors import ErrorReason, FieldProblem, InvalidArgument

_NUMBERS = frozenset(
    {
        FieldDescriptor.CPPTYPE_INT32,
        FieldDescriptor.CPPTYPE_INT64,
        FieldDescriptor.CPPTYPE_UINT32,
        FieldDescriptor.CPPTYPE_UINT64,
    }
    | {FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT}
)
_Problem = tuple[ErrorReason, FieldProblem]


def check_limits(message: Message) -> None:
    """Check every field of a request, also within its messages and lists.

    Raises:
        InvalidArgument: names every field that is missing or outside its limits, with the limit and the value.
    """
    problems = list(_problems(message, ""))
    if not problems:
        return
    reasons = {reason for reason, _ in problems}
    reason = reasons.pop() if len(reasons) == 1 else ErrorReason.OUT_OF_RANGE
    raise InvalidArgument.of([problem for _, problem in problems], reason)


def limits_of(field: FieldDescriptor) -> limits_pb2.FieldLimits | None:
    """Return the limits that a field carries, or None when it has none."""
    options = field.GetOptions()
    if not options.HasExtension(limits_pb2.limits):
        return None
    limits: limits_pb2.FieldLimits = options.Extensions[limits_pb2.limits]
    return limits


def default_of(field: FieldDescriptor) -> str:
    """Return what the absence of a field means, as text. Raises ValueError when the contract does not say."""
    limits = limits_of(field)
    if limits is None or not limits.default_value:
        raise ValueError(f"{field.full_name} has no default")
    return limits.default_value


class _Field(NamedTuple):
    """A field that needs a look, with what the look asks first: a descriptor answers slowly."""

    name: str
    descriptor: FieldDescriptor
    limits: limits_pb2.FieldLimits | None
    is_repeated: bool
    is_message: bool
    has_presence: bool
    required: bool
    required_unless: str


@lru_cache(maxsize=512)
def _fields(descriptor: Descriptor) -> tuple[_Field, ...]:
    """Return the fields that need a look: those with limits, and messages that may hold such fields."""
    found = []
    for field in descriptor.fields:
        limits = limits_of(field)
        own_message = field.message_type is not None and field.message_type.full_name.startswith("atelier.")
        if limits is not None or own_message:
            found.append(
                _Field(
                    field.name,
                    field,
                    limits,
                    is_repeated=field.is_repeated,
                    is_message=field.message_type is not None,
                    has_presence=field.has_presence,
                    required=limits is not None and limits.required,
                    required_unless=limits.required_unless if limits is not None else "",
                )
            )
    return tuple(found)


def _problems(message: Message, prefix: str) -> Iterable[_Problem]:
    for name, field, limits, is_repeated, is_message, has_presence, required, other in _fields(message.DESCRIPTOR):
        value = getattr(message, name)
        if is_repeated:
            if required or value:
                yield from _list_problems(f"{prefix}{name}", field, value, limits)
        elif is_message:
            if message.HasField(name):
                yield from _problems(value, f"{prefix}{name}.")
            elif required:
                yield _missing(f"{prefix}{name}")
        elif limits is not None:
            present = message.HasField(name) if has_presence else True
            if other and not value and not message.HasField(other):
                yield ErrorReason.MISSING_FIELD, FieldProblem(f"{prefix}{name}", f"is required unless {other} is sent")
            elif present:
                yield from _value_problems(f"{prefix}{name}", field, value, limits)
            elif required:
                yield _missing(f"{prefix}{name}")


def _list_problems(
    path: str, field: FieldDescriptor, values: Any, limits: limits_pb2.FieldLimits | None
) -> Iterable[_Problem]:
    if limits is not None and limits.required and not values:
        yield _missing(path)
    if limits is not None and limits.HasField("max_items") and len(values) > limits.max_items:
        yield _outside(path, f"must have at most {limits.max_items} elements, got {len(values)}")
        return
    if limits is not None and limits.each_apart:
        return
    if field.message_type is None:
        if limits is not None:
            yield from (_without_zero(f"{path}[{index}]") for index, value in enumerate(values) if _has_zero(value))
        return
    if field.message_type.GetOptions().map_entry:
        return
    for index, value in enumerate(values):
        yield from _problems(value, f"{path}[{index}].")


def _value_problems(
    path: str, field: FieldDescriptor, value: Any, limits: limits_pb2.FieldLimits
) -> Iterable[_Problem]:
    if field.cpp_type in _NUMBERS:
        # A required number is one that was sent: 0 is a value.
        yield from _number_problems(path, value, limits)
    elif limits.required and not value:
        yield _missing(path)
    elif limits.HasField("max_length") and len(value) > limits.max_length:
        unit = "bytes" if isinstance(value, bytes) else "characters"
        yield _outside(path, f"must be at most {limits.max_length} {unit} long, got {len(value)}")
    elif _has_zero(value):
        yield _without_zero(path)
    elif limits.one_of and value and value not in limits.one_of:
        known = ", ".join(limits.one_of)
        yield ErrorReason.INVALID_VALUE, FieldProblem(path, f"must be one of {known}, got {str(value)[:64]!r}")


def _has_zero(value: Any) -> bool:
    # Not every database, file format or program that a text passes through can hold it.
    return isinstance(value, str) and "\0" in value


def _without_zero(path: str) -> _Problem:
    return ErrorReason.INVALID_VALUE, FieldProblem(path, "must not contain the character U+0000")


def _number_problems(path: str, value: float, limits: limits_pb2.FieldLimits) -> Iterable[_Problem]:
    low = limits.minimum if limits.HasField("minimum") else -math.inf
    high = limits.maximum if limits.HasField("maximum") else math.inf
    if not low <= value <= high:
        yield _outside(path, f"must be {_range(low, high)}, got {_number(value)}")


def _range(low: float, high: float) -> str:
    if low == -math.inf:
        return f"at most {_number(high)}"
    return f"at least {_number(low)}" if high == math.inf else f"{_number(low)}..{_number(high)}"


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else str(value)


def _missing(path: str) -> _Problem:
    return ErrorReason.MISSING_FIELD, FieldProblem(path, "is required and must not be empty")


def _outside(path: str, message: str) -> _Problem:
    return ErrorReason.OUT_OF_RANGE, FieldProblem(path, message)
