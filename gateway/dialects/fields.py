"""What an endpoint of a dialect takes: a table, field by field, out of which requests are read and documents are made.

A field is mapped, noted (taken and kept on the job as an annotation, without an effect on what is made) or refused.
A field that is in no table is refused by its name, as a value is that cannot be had: nothing is ever ignored.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from service_kit.errors import AtelierError, ErrorReason, FieldProblem, InvalidArgument

_INTEGER = re.compile(r"-?[0-9]{1,20}")
_SHOWN = 60
_MOST_MEMBERS = 500
# What the numbers of the contracts can hold.
MOST, MOST_WIDE = 2**31 - 1, 2**63 - 1


class Treatment(StrEnum):
    """What becomes of a field."""

    MAPPED = "mapped"
    NOTED = "accepted and noted"
    REFUSED = "refused"


class Kind(StrEnum):
    """What a field holds."""

    TEXT = "text"
    INTEGER = "whole number"
    NUMBER = "number"
    BOOLEAN = "true or false"
    FILE = "file"
    SOURCE = "file, URL or data URI"
    OBJECT = "object"
    ANY = "anything"


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that came in a form."""

    filename: str
    content_type: str
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Field:
    """One field of one endpoint. Make one with `mapped`, `noted` or `refused`."""

    name: str
    kind: Kind
    treatment: Treatment
    note: str
    """What it is mapped to, or why it is refused."""
    example: Any
    """A value as a client sends it: one that is taken, or, of a refused field, one that is refused."""
    required: bool = False
    repeated: bool = False
    """Whether it is a list. A single value counts as a list of one."""
    choices: tuple[Any, ...] = ()
    """The values that are taken; any other is refused by name. Empty: every value within the limits."""
    minimum: float | None = None
    maximum: float | None = None
    also_text: bool = False
    """Whether a number may come as text in JSON, too."""
    wide: bool = False
    """Whether a whole number may have 64 bits; others have 32."""
    harmless: tuple[Any, ...] = ()
    """Values of a refused field that ask for nothing, such as its default, and are taken as if it were absent."""

    @property
    def takes(self) -> str:
        """What it takes, in words."""
        if self.choices:
            said = ", ".join(f"`{_plain(choice)}`" for choice in self.choices)
        else:
            said = self.kind.value
            if self.minimum is not None or self.maximum is not None:
                said += f" {_limits(self)}"
        return f"list of {said}" if self.repeated else said


def mapped(name: str, to: str, example: Any, kind: Kind = Kind.TEXT, **more: Any) -> Field:
    """Return a field that is mapped `to` something of the contracts, or that says how the answer looks."""
    return Field(name, kind, Treatment.MAPPED, to, example, **more)


def noted(
    name: str, example: Any, kind: Kind = Kind.TEXT, note: str = "an annotation of the job", **more: Any
) -> Field:
    """Return a field that is taken and kept as an annotation; it has no effect on what is made."""
    return Field(name, kind, Treatment.NOTED, note, example, **more)


def refused(name: str, why: str, example: Any, kind: Kind = Kind.ANY, **more: Any) -> Field:
    """Return a field that is refused: `why` follows its name in the error, such as `cannot be chosen`."""
    return Field(name, kind, Treatment.REFUSED, why, example, **more)


@dataclass(frozen=True, slots=True)
class Values:
    """What a request says, read by a table: values by the names of the fields, absent ones and nulls left out."""

    given: Mapping[str, Any]
    notes: Mapping[str, str]
    """The noted fields as annotations."""

    def __contains__(self, name: str) -> bool:
        """Tell whether a field was given."""
        return name in self.given

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of a field."""
        return self.given.get(name, default)

    def text(self, name: str, default: str = "") -> str:
        """Return the value of a text field."""
        return str(self.given.get(name, default))

    def list(self, name: str) -> list[Any]:
        """Return the values of a repeated field."""
        return list(self.given.get(name, ()))


def read(table: Sequence[Field], given: Mapping[str, Any], *, from_text: bool) -> Values:
    """Read what a request says. `from_text`: numbers and booleans come as texts, as in forms and queries.

    Raises:
        InvalidArgument: names every field that is unknown, refused, missing, or has a value that it does not take.
    """
    if len(given) > _MOST_MEMBERS:
        raise InvalidArgument(f"The request has more than {_MOST_MEMBERS} fields.", ErrorReason.MALFORMED_REQUEST)
    known = {entry.name: entry for entry in table}
    problems: list[tuple[ErrorReason, FieldProblem]] = []
    values: dict[str, Any] = {}
    notes: dict[str, str] = {}
    for name, value in given.items():
        entry = known.get(name)
        if entry is None:
            problems.append((ErrorReason.UNKNOWN_FIELD, FieldProblem(name[:300], _unknown(name, known))))
            continue
        if value is None:
            continue
        try:
            found = _value(entry, value, from_text=from_text)
        except _Refused as refusal:
            problems.append((refusal.reason, FieldProblem(refusal.path or name, refusal.message)))
            continue
        if entry.treatment is Treatment.NOTED:
            notes[name] = _plain(found)
        if entry.treatment is not Treatment.REFUSED:
            values[name] = found
    problems += [
        (ErrorReason.MISSING_FIELD, FieldProblem(entry.name, "is required"))
        for entry in table
        if entry.required and values.get(entry.name) in (None, "", []) and entry.name not in _names(problems)
    ]
    if problems:
        raise InvalidArgument.of([problem for _, problem in problems], problems[0][0])
    return Values(values, notes)


class _Refused(Exception):
    def __init__(self, message: str, reason: ErrorReason = ErrorReason.INVALID_VALUE, path: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.path = path


def _names(problems: Sequence[tuple[ErrorReason, FieldProblem]]) -> set[str]:
    return {problem.field for _, problem in problems}


def _unknown(name: str, known: Mapping[str, Field]) -> str:
    close = [other for other in known if other.lower() == name.lower()]
    return f"is not a known field; did you mean {close[0]}?" if close else "is not a known field"


def _value(entry: Field, value: Any, *, from_text: bool) -> Any:
    if entry.treatment is Treatment.REFUSED:
        if value in entry.harmless or (from_text and value in [_plain(one) for one in entry.harmless]):
            return None
        raise _Refused(entry.note)
    if not entry.repeated:
        return _single(entry, value, from_text=from_text)
    items = value if isinstance(value, list) else [value]
    found = []
    for index, item in enumerate(items):
        try:
            found.append(_single(entry, item, from_text=from_text))
        except _Refused as refusal:
            raise _Refused(refusal.message, refusal.reason, f"{entry.name}[{index}]") from None
    return found


def _single(entry: Field, value: Any, *, from_text: bool) -> Any:
    found = _READERS[entry.kind](value, from_text or entry.also_text)
    if entry.choices and found not in entry.choices:
        allowed = ", ".join(_plain(choice) for choice in entry.choices)
        raise _Refused(f"must be one of {allowed}; got {_plain(found)[:_SHOWN]!r}")
    if isinstance(found, (int, float)) and not isinstance(found, bool):
        low = entry.minimum is not None and found < entry.minimum
        if low or (entry.maximum is not None and found > entry.maximum):
            raise _Refused(f"must be {_limits(entry)}, got {_plain(found)[:_SHOWN]}", ErrorReason.OUT_OF_RANGE)
        most = MOST_WIDE if entry.wide else MOST
        if entry.kind is Kind.INTEGER and not -most <= found <= most:
            raise _Refused(f"must be {-most}..{most}, got {_plain(found)[:_SHOWN]}", ErrorReason.OUT_OF_RANGE)
    return found


def _limits(entry: Field) -> str:
    if entry.maximum is None:
        return f"{_plain(entry.minimum)} or more"
    low = "" if entry.minimum is None else _plain(entry.minimum)
    return f"{low}..{_plain(entry.maximum)}"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _wrong(kind: Kind, value: Any) -> _Refused:
    shown = value.filename if isinstance(value, Upload) else str(value)
    return _Refused(f"must be {_ARTICLES[kind]}, got {shown[:_SHOWN]!r}", ErrorReason.MALFORMED_REQUEST)


def _text(value: Any, from_text: bool) -> str:
    if not isinstance(value, str):
        raise _wrong(Kind.TEXT, value)
    return value


def _integer(value: Any, from_text: bool) -> int:
    if from_text and isinstance(value, str) and _INTEGER.fullmatch(value):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise _wrong(Kind.INTEGER, value)


def _number(value: Any, from_text: bool) -> float:
    if from_text and isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise _wrong(Kind.NUMBER, value) from None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        number = as_float(value)
        if math.isfinite(number):
            return number
    raise _wrong(Kind.NUMBER, value)


def as_float(value: float | str) -> float:
    """Return a number; one that is too large for any is infinite. Raises ValueError for a text that is none."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _boolean(value: Any, from_text: bool) -> bool:
    if from_text and value in ("true", "True", "1", "false", "False", "0"):
        return value in ("true", "True", "1")
    if isinstance(value, bool):
        return value
    raise _wrong(Kind.BOOLEAN, value)


def _file(value: Any, from_text: bool) -> Upload:
    if not isinstance(value, Upload):
        raise _wrong(Kind.FILE, value)
    return value


def _source(value: Any, from_text: bool) -> Upload | str:
    if isinstance(value, (Upload, str)) and value:
        return value
    raise _wrong(Kind.SOURCE, value)


def _object(value: Any, from_text: bool) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(Kind.OBJECT, value)
    return value


_READERS: dict[Kind, Callable[[Any, bool], Any]] = {
    Kind.TEXT: _text,
    Kind.INTEGER: _integer,
    Kind.NUMBER: _number,
    Kind.BOOLEAN: _boolean,
    Kind.FILE: _file,
    Kind.SOURCE: _source,
    Kind.OBJECT: _object,
    Kind.ANY: lambda value, from_text: value,
}
_ARTICLES = {
    Kind.TEXT: "a text",
    Kind.INTEGER: "a whole number",
    Kind.NUMBER: "a number",
    Kind.BOOLEAN: "true or false",
    Kind.FILE: "a file",
    Kind.SOURCE: "a file, a URL or a data URI",
    Kind.OBJECT: "an object",
}


def renamed(error: AtelierError, names: Mapping[str, str]) -> AtelierError:
    """Return an error that blames fields of the contracts as one that blames those of a dialect, by `names`.

    A field that `names` does not have keeps its name.
    """
    if not error.fields:
        return error
    fields = [FieldProblem(_renamed(problem.field, names), problem.message) for problem in error.fields]
    first = error.fields[0].field
    message = error.message
    if message.startswith(first):
        message = fields[0].field + message.removeprefix(first)
    return type(error)(message, error.reason, fields=fields, retry_after=error.retry_after)


def _renamed(path: str, names: Mapping[str, str]) -> str:
    head = re.split(r"[.\[]", path, maxsplit=1)[0]
    return names[head] + path[len(head) :] if head in names else path
