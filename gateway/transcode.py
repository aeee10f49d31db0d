"""JSON ⇄ protobuf, as the contracts decide it: snake_case names, lower-case enums, plain numbers, nothing coerced.

protobuf's own mapping takes `"7"`, `1.0`, null and `jobId`, and prints 64-bit integers as text; this one does not.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from gateway.schema import descriptor_of, enum_numbers, is_map, is_plain_message, is_timestamp, message_type
from service_kit.errors import ErrorReason, FieldProblem, InvalidArgument

MAX_INTEGER = (1 << 53) - 1
"""The largest 64-bit integer in JSON: a double holds it exactly (RFC 8259 section 6)."""

_MAX_DEPTH = 32
# Whoever sends a hundred thousand wrong names is not told about each of them.
_MAX_PROBLEMS = 50
_RANGES: dict[int, tuple[int, int]] = {
    FieldDescriptor.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_INT64: (0, MAX_INTEGER),
    FieldDescriptor.CPPTYPE_UINT64: (0, MAX_INTEGER),
}
_FLOATS = (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT)
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)", re.ASCII)
_DURATION = re.compile(r"-?\d{1,12}(\.\d{1,9})?s", re.ASCII)
_WORST_FIRST = (
    ErrorReason.UNKNOWN_FIELD,
    ErrorReason.MALFORMED_REQUEST,
    ErrorReason.INVALID_VALUE,
    ErrorReason.OUT_OF_RANGE,
)

Problem = tuple[ErrorReason, FieldProblem]


class JsonObject(dict[str, Any]):
    """A JSON object that remembers which of its names came twice."""

    repeated: tuple[str, ...] = ()


class Refused(Exception):
    """One value cannot be taken: why, in the words that follow the field's name."""

    def __init__(self, reason: ErrorReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


# --- reading ---------------------------------------------------------------------------------------------------------


def parse_json(content: bytes) -> Any:
    """Return the value that a body holds; objects are JsonObject.

    Raises:
        InvalidArgument: it is not UTF-8, not JSON (RFC 8259), or nested too deep.
    """
    try:
        text = content.decode()
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise _not_json(f"byte {error.start} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise _not_json(f"{error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise _not_json("it is nested too deep") from None
    except ValueError as error:
        raise _not_json(str(error)) from None


def _not_json(why: str) -> InvalidArgument:
    return InvalidArgument(f"The body is not JSON: {why}.", ErrorReason.MALFORMED_REQUEST)


def _object(pairs: list[tuple[str, Any]]) -> JsonObject:
    found = JsonObject(pairs)
    if len(found) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        found.repeated = tuple(name for name, count in counts.items() if count > 1)
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def fill(message: Message, value: Any, path: str = "") -> None:
    """Set the fields that a JSON object names.

    Raises:
        InvalidArgument: names every field that is unknown or has a value that it does not take, by its full path.
    """
    problems: list[Problem] = []
    _fill(message, value, path, problems, 0)
    refuse(problems)


def refuse(problems: list[Problem]) -> None:
    """Raise InvalidArgument for the problems, if there are any; the reason is that of the worst kind, told first."""
    for reason in _WORST_FIRST:
        if any(found is reason for found, _ in problems):
            ordered = sorted(problems, key=lambda problem: _WORST_FIRST.index(problem[0]))
            raise InvalidArgument.of([problem for _, problem in ordered], reason)


def _fill(message: Message, value: Any, path: str, problems: list[Problem], depth: int) -> None:
    if not isinstance(value, JsonObject):
        problems.append(
            _problem(path or "body", ErrorReason.MALFORMED_REQUEST, f"must be an object, got {_shown(value)}")
        )
        return
    if depth > _MAX_DEPTH:
        problems.append(_problem(path, ErrorReason.MALFORMED_REQUEST, "is nested too deep"))
        return
    fields = descriptor_of(message).fields_by_name
    for name in value.repeated[:_MAX_PROBLEMS]:
        problems.append(_problem(_join(path, name), ErrorReason.MALFORMED_REQUEST, "is given twice"))
    for name, given in value.items():
        if len(problems) >= _MAX_PROBLEMS:
            return
        # protobuf cannot even be asked for a name with half of a surrogate pair in it; ours are ASCII.
        field = fields.get(name) if name.isascii() else None
        if field is None:
            problems.append(_problem(_join(path, name), ErrorReason.UNKNOWN_FIELD, unknown_hint(name, fields)))
            continue
        other = _set_member(message, field)
        if other is not None:
            problems.append(
                _problem(_join(path, name), ErrorReason.INVALID_VALUE, f"cannot be given together with {other}")
            )
            continue
        _fill_field(message, field, given, _join(path, name), problems, depth)


def _set_member(message: Message, field: FieldDescriptor) -> str | None:
    """Return the other member of the field's oneof that is already set; None when there is none."""
    oneof = field.containing_oneof
    set_now = message.WhichOneof(oneof.name) if oneof is not None else None
    return set_now if set_now not in (None, field.name) else None


def _fill_field(
    message: Message, field: FieldDescriptor, value: Any, path: str, problems: list[Problem], depth: int
) -> None:
    if value is None:
        problems.append(_problem(path, ErrorReason.MALFORMED_REQUEST, "must not be null; leave it out instead"))
    elif is_map(field):
        _fill_map(message, field, value, path, problems, depth)
    elif field.is_repeated:
        _fill_list(message, field, value, path, problems, depth)
    elif is_plain_message(field):
        target = getattr(message, field.name)
        target.SetInParent()
        _fill(target, value, path, problems, depth + 1)
    else:
        with _noting(problems, path):
            set_field(message, field, from_json(field, value))


def _fill_list(
    message: Message, field: FieldDescriptor, value: Any, path: str, problems: list[Problem], depth: int
) -> None:
    if not isinstance(value, list):
        problems.append(_problem(path, ErrorReason.MALFORMED_REQUEST, f"must be a list, got {_shown(value)}"))
        return
    target = getattr(message, field.name)
    for index, element in enumerate(value):
        if len(problems) >= _MAX_PROBLEMS:
            return
        at = f"{path}[{index}]"
        if element is None:
            problems.append(_problem(at, ErrorReason.MALFORMED_REQUEST, "must not be null"))
        elif is_plain_message(field):
            _fill(target.add(), element, at, problems, depth + 1)
        else:
            with _noting(problems, at):
                target.append(from_json(field, element))


def _fill_map(
    message: Message, field: FieldDescriptor, value: Any, path: str, problems: list[Problem], depth: int
) -> None:
    if not isinstance(value, JsonObject):
        problems.append(_problem(path, ErrorReason.MALFORMED_REQUEST, f"must be an object, got {_shown(value)}"))
        return
    target = getattr(message, field.name)
    entry = message_type(field).fields_by_name["value"]
    for name in value.repeated[:_MAX_PROBLEMS]:
        problems.append(_problem(f"{path}.{name}", ErrorReason.MALFORMED_REQUEST, "is given twice"))
    for name, given in value.items():
        if given is None:
            problems.append(_problem(f"{path}.{name}", ErrorReason.MALFORMED_REQUEST, "must not be null"))
        elif is_plain_message(entry):
            _fill(target[name], given, f"{path}.{name}", problems, depth + 1)
        else:
            with _noting(problems, f"{path}.{name}"):
                target[_text(name)] = from_json(entry, given)


class _noting:
    """Turns Refused into a problem of one path."""

    def __init__(self, problems: list[Problem], path: str) -> None:
        self._problems = problems
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, Refused):
            self._problems.append(_problem(self._path, error.reason, error.message))
            return True
        return False


def from_json(field: FieldDescriptor, value: Any) -> Any:
    """Return what one JSON value means for a field (for an element, of a list).

    Raises:
        Refused: it has another type, or a value that the field does not take.
    """
    kind = field.cpp_type
    if kind in _RANGES:
        return _integer(value, *_RANGES[kind])
    if kind in _FLOATS:
        return _fraction(value)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        if not isinstance(value, bool):
            raise _wrong_type("true or false", value)
        return value
    if not isinstance(value, str):
        raise _wrong_type("a text", value)
    return from_text(field, value)


def from_text(field: FieldDescriptor, text: str) -> Any:
    """Return what a text means for a field whose JSON is a text: string, bytes, enum, Timestamp or Duration.

    Raises:
        Refused: the field does not take it.
    """
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _bytes(text)
    if field.type == FieldDescriptor.TYPE_STRING:
        return _text(text)
    if field.enum_type is not None:
        return _enum(field.enum_type, text)
    if is_timestamp(field):
        return _timestamp(text)
    return _duration(text)


def set_field(message: Message, field: FieldDescriptor, value: Any) -> None:
    """Set a field that is not a list to what `from_json` returned."""
    if isinstance(value, Message):
        getattr(message, field.name).CopyFrom(value)
    else:
        setattr(message, field.name, value)


def unknown_hint(name: str, known: Mapping[str, object]) -> str:
    """Return the words for a name that is not known, with the nearest that is."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"is not a known field; did you mean {near[0]}?" if near else "is not a known field"


def _integer(value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong_type("a whole number", value)
    if not low <= value <= high:
        raise Refused(ErrorReason.OUT_OF_RANGE, f"must be {low}..{high}, got {_shown(value)}")
    return value


def _fraction(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong_type("a number", value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Refused(ErrorReason.OUT_OF_RANGE, "must be a number that a double can hold")
    return number


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Refused(ErrorReason.MALFORMED_REQUEST, "holds half of a surrogate pair, which is no character") from None
    return value


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(ErrorReason.INVALID_VALUE, "must be base64 (RFC 4648 section 4)") from None


def _enum(kind: EnumDescriptor, text: str) -> int:
    number = enum_numbers(kind).get(text)
    if number is None:
        names = ", ".join(name for name in enum_numbers(kind) if name)
        raise Refused(ErrorReason.INVALID_VALUE, f"must be one of {names}; got {_shown(text)}")
    return number


def _timestamp(text: str) -> Timestamp:
    wrong = Refused(
        ErrorReason.INVALID_VALUE, f"must be a time such as 2026-01-31T12:00:00.000001Z, got {_shown(text)}"
    )
    if not _TIMESTAMP.fullmatch(text):
        raise wrong
    found = Timestamp()
    try:
        found.FromDatetime(datetime.fromisoformat(text).astimezone(UTC))
    except (ValueError, OverflowError):
        raise wrong from None
    return found


def _duration(text: str) -> Duration:
    if not _DURATION.fullmatch(text):
        raise Refused(ErrorReason.INVALID_VALUE, f"must be seconds such as 3.5s, got {_shown(text)}")
    found = Duration()
    try:
        found.FromJsonString(text)
    except ValueError:
        raise Refused(ErrorReason.OUT_OF_RANGE, f"is longer than a duration can be: {_shown(text)}") from None
    return found


def _wrong_type(wanted: str, value: Any) -> Refused:
    return Refused(ErrorReason.MALFORMED_REQUEST, f"must be {wanted}, got {_shown(value)}")


def _shown(value: Any) -> str:
    """Return a JSON value as the message shows it: short, and its type where it is long."""
    match value:
        case dict():
            return "an object"
        case list():
            return "a list"
        case int() if not isinstance(value, bool) and abs(value) > 1 << 70:
            return "a far larger number"
        case _:
            text = json.dumps(value)
            return text if len(text) <= 60 else text[:57] + "…"


def _problem(path: str, reason: ErrorReason, message: str) -> Problem:
    # A name comes from the client: what is shown of it must be short and must be text.
    return reason, FieldProblem(path.encode(errors="replace").decode()[:300], message)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
