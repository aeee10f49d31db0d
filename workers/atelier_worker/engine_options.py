"""Reads the options of an engine strictly: each key is asked for by its type, and what nobody asked for is refused.

    options = Options(table, where="[[engine]] pictures")
    device = options.text("device", "auto")
    models = options.tables("models")  # an Options for each
    options.done()

Without a configuration file the options are texts; numbers, booleans and lists are read from these as well.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final, TypeVar, overload

from service_kit.units import parse_duration, parse_size

T = TypeVar("T")

# What the worker reads for itself from the table of an engine.
COMMON_KEYS = ("name", "engine", "worker_types", "slots", "labels", "task_deadline", "stall_limit", "load_limit")

# The settings hand durations on as seconds.
_BARE_SECONDS = re.compile(r"\d+(?:\.\d+)?")
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_LONGEST_SHOWN = 60
# Beyond these no clock and no machine goes.
_MOST_SECONDS = 10 * 365 * 86_400.0
_MOST_BYTES = 1 << 60


class OptionsError(Exception):
    """An option is missing, unknown or cannot be used; the message is a sentence for the operator."""


class _Required(Enum):
    REQUIRED = "required"


REQUIRED: Final = _Required.REQUIRED
_Needed = _Required


class Options:
    """One table of options. Every reader takes a key and a default; without a default the key must be there."""

    def __init__(self, table: Mapping[str, object], *, where: str = "") -> None:
        """Read `table`; `where` names it in errors: `[[engine]] pictures`.

        The keys that the worker reads for itself (`COMMON_KEYS`) are not refused at the top of an engine's table,
        which is the one that names its `engine`.
        """
        self._table = dict(table)
        self._where = where
        self._read: set[str] = set(COMMON_KEYS) if "engine" in table else set()
        self._known: list[str] = []

    @property
    def where(self) -> str:
        """How errors name this table."""
        return self._where

    def has(self, key: str) -> bool:
        """Tell whether the key is given."""
        return key in self._table

    @overload
    def text(self, key: str) -> str: ...
    @overload
    def text(self, key: str, default: T) -> str | T: ...
    def text(self, key: str, default: object = REQUIRED) -> object:
        """Return a text that is not empty."""
        value = self._take(key, default, "a text")
        if value is default:
            return default
        if not isinstance(value, str) or not value.strip():
            raise self._wrong(key, "takes a text", value)
        return value

    def choice(self, key: str, allowed: Sequence[str], default: str | _Needed = REQUIRED) -> str:
        """Return one of the allowed texts."""
        value = self._take(key, default, f"one of {', '.join(allowed)}")
        if not isinstance(value, str) or value not in allowed:
            raise self._wrong(key, f"takes one of {', '.join(allowed)}", value)
        return value

    @overload
    def integer(self, key: str, *, least: int | None = None, most: int | None = None) -> int: ...
    @overload
    def integer(self, key: str, default: T, *, least: int | None = None, most: int | None = None) -> int | T: ...
    def integer(
        self, key: str, default: object = REQUIRED, *, least: int | None = None, most: int | None = None
    ) -> object:
        """Return a whole number within the bounds."""
        value = self._take(key, default, "a whole number")
        if value is default:
            return default
        if isinstance(value, str) and re.fullmatch(r"[+-]?\d{1,18}", value.strip()):
            value = int(value)
        found = _whole(value)
        if found is None or not _within(found, least, most):
            raise self._wrong(key, f"takes a whole number{_bounds(least, most)}", value)
        return found

    @overload
    def number(self, key: str, *, least: float | None = None, most: float | None = None) -> float: ...
    @overload
    def number(self, key: str, default: T, *, least: float | None = None, most: float | None = None) -> float | T: ...
    def number(
        self, key: str, default: object = REQUIRED, *, least: float | None = None, most: float | None = None
    ) -> object:
        """Return a finite number within the bounds."""
        value = self._take(key, default, "a number")
        if value is default:
            return default
        found = _number(value)
        if found is None or not _within(found, least, most):
            raise self._wrong(key, f"takes a number{_bounds(least, most)}", value)
        return found

    @overload
    def boolean(self, key: str) -> bool: ...
    @overload
    def boolean(self, key: str, default: T) -> bool | T: ...
    def boolean(self, key: str, default: object = REQUIRED) -> object:
        """Return true or false."""
        value = self._take(key, default, "true or false")
        if value is default:
            return default
        if isinstance(value, str) and value.lower() in (*_TRUE, *_FALSE):
            value = value.lower() in _TRUE
        if not isinstance(value, bool):
            raise self._wrong(key, "takes true or false", value)
        return value

    @overload
    def size_bytes(self, key: str) -> int: ...
    @overload
    def size_bytes(self, key: str, default: T) -> int | T: ...
    def size_bytes(self, key: str, default: object = REQUIRED) -> object:
        """Return a size in bytes, from a text such as `20GiB` or `512 MB`, or a whole number of bytes."""
        value = self._take(key, default, "a size such as 20GiB")
        if value is default:
            return default
        size = _bytes(value)
        if not 1 <= size <= _MOST_BYTES:
            raise self._wrong(key, "takes a size such as 20GiB", value)
        return size

    @overload
    def duration_s(self, key: str, *, may_be_zero: bool = False) -> float: ...
    @overload
    def duration_s(self, key: str, default: T, *, may_be_zero: bool = False) -> float | T: ...
    def duration_s(self, key: str, default: object = REQUIRED, *, may_be_zero: bool = False) -> object:
        """Return seconds, more than 0 unless that is allowed, from a text such as `30s`, `5m` or `1h`."""
        value = self._take(key, default, "a duration such as 30s")
        if value is default:
            return default
        seconds = _seconds(value)
        if seconds is None or not 0 <= seconds <= _MOST_SECONDS or (seconds == 0 and not may_be_zero):
            raise self._wrong(key, "takes a duration such as 30s, 5m or 1h", value)
        return seconds

    def texts(self, key: str, default: Sequence[str] | _Needed = ()) -> tuple[str, ...]:
        """Return a list of texts; a text is a list of what stands between its commas."""
        value = self._take(key, default, "a list of texts")
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        if not isinstance(value, list | tuple) or not all(isinstance(one, str) and one for one in value):
            raise self._wrong(key, "takes a list of texts", value)
        return tuple(value)

    def text_table(self, key: str) -> dict[str, str]:
        """Return a table of texts such as `loras = { ink = "ink.safetensors" }`; empty when it is not given."""
        value = self._take(key, {}, "a table of texts")
        if not isinstance(value, Mapping) or not all(isinstance(one, str) and one for one in value.values()):
            raise self._wrong(key, "takes a table of texts", value)
        return {str(name): str(text) for name, text in value.items()}

    def table(self, key: str) -> Options:
        """Return a table, an empty one when it is not given. Call its `done`, too."""
        value = self._take(key, {}, "a table")
        if not isinstance(value, Mapping):
            raise self._wrong(key, "takes a table", value)
        return Options(value, where=self._inner(key))

    def tables(self, key: str) -> list[Options]:
        """Return a list of tables (`[[engine.models]]`), each of which needs its own `done`; empty when not given.

        A table that has a `name` is called by it in errors, any other by its number.
        """
        value = self._take(key, [], "a list of tables")
        if not isinstance(value, list | tuple) or not all(isinstance(one, Mapping) for one in value):
            raise self._wrong(key, "takes a list of tables", value)
        return [
            Options(one, where=f"{self._inner(key)} {one.get('name') or number}") for number, one in enumerate(value, 1)
        ]

    def done(self) -> None:
        """Refuse what was not read, by name.

        Raises:
            OptionsError: there is an unknown key.
        """
        for key in self._table:
            if key not in self._read:
                near = difflib.get_close_matches(key, self._known, n=1)
                hint = f" Did you mean {near[0]}?" if near else f" Known: {', '.join(sorted(self._known)) or 'none'}."
                raise OptionsError(f"{self._place(key)} is not known.{hint}")

    def wrong(self, key: str, sentence: str) -> OptionsError:
        """Return an error that names a key: `raise options.wrong("device", "is not one of this machine: cuda:3.")`."""
        return OptionsError(f"{self._place(key)} {sentence}")

    def _take(self, key: str, default: object, what: str) -> object:
        self._read.add(key)
        if key not in self._known:
            self._known.append(key)
        if key in self._table:
            return self._table[key]
        if default is REQUIRED:
            raise OptionsError(f"{self._place(key)} is missing: give it {what}.")
        return default

    def _wrong(self, key: str, takes: str, value: object) -> OptionsError:
        shown = repr(value)
        if len(shown) > _LONGEST_SHOWN:
            shown = f"{shown[:_LONGEST_SHOWN]}…"
        return OptionsError(f"{self._place(key)} {takes}, got {shown}.")

    def _place(self, key: str) -> str:
        return f"{self._where}: {key}" if self._where else key

    def _inner(self, key: str) -> str:
        return f"{self._where}, {key}" if self._where else key


def _bytes(value: object) -> int:
    """Return a size; 0 of what is none."""
    try:
        return parse_size(value) if isinstance(value, str) else _whole(value) or 0
    except ValueError:
        return 0


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _seconds(value: object) -> float | None:
    if not isinstance(value, str):
        return None
    if _BARE_SECONDS.fullmatch(value):
        return float(value)
    try:
        return parse_duration(value).total_seconds()
    except ValueError:
        return None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def _within(value: float, least: float | None, most: float | None) -> bool:
    return (least is None or value >= least) and (most is None or value <= most)


def _bounds(least: float | None, most: float | None) -> str:
    if least is not None and most is not None:
        return f" from {least:g} to {most:g}"
    if least is not None:
        return f" of at least {least:g}"
    return "" if most is None else f" of at most {most:g}"
