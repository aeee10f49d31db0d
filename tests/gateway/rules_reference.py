"""What a request means by the rules of google.api.http and by our JSON mapping, written a second time: simple and slow.

It shares nothing with the gateway. Its answer is the message as protobuf's own JSON has it, for `json_format` to read.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from datetime import datetime
from typing import Any

from tests.gateway.things import COLOURS, MESSAGES, RULES

_RANGES = {"int32": (-(2**31), 2**31 - 1), "uint32": (0, 2**32 - 1), "int64": (0, 2**53 - 1)}
_HEX = "0123456789abcdefABCDEF"


class NoRoute(Exception):
    """Nothing serves the path with this method."""


class Refused(Exception):
    """The request is not one of ours."""


def meaning(method: str, path: bytes, query: bytes, body: bytes) -> tuple[str, dict[str, Any]]:
    """Return the template that serves a request, and the message that it stands for.

    Raises:
        Refused: it cannot be read.
        NoRoute: nothing serves it.
    """
    segments = [_text(_decoded(part)) for part in path.split(b"/")[1:]]
    template, binds, values = _route(method, segments)
    thing: dict[str, Any] = {}
    if body and not binds:
        raise Refused("no body is taken")
    if body:
        found = _json(body)
        part = _message("Thing" if binds == "*" else "Inner", found)
        thing = part if binds == "*" else {binds: part}
    for field, text in values.items():
        _bind_path(thing, field, text)
    _bind_query(thing, query, binds, set(values))
    return template, thing


# --- path -------------------------------------------------------------------------------------------------------------


def _decoded(raw: bytes, *, plus: bool = False) -> bytes:
    """Undo percent-encoding; what is no encoding stays as it is."""
    found, at = b"", 0
    while at < len(raw):
        pair = raw[at + 1 : at + 3].decode("latin-1")
        if raw[at : at + 1] == b"%" and len(pair) == 2 and all(digit in _HEX for digit in pair):
            found, at = found + bytes([int(pair, 16)]), at + 3
        else:
            found, at = found + (b" " if plus and raw[at : at + 1] == b"+" else raw[at : at + 1]), at + 1
    return found


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Refused("not UTF-8") from None


def _route(method: str, segments: list[str]) -> tuple[str, str, dict[str, str]]:
    """Of all rules that match choose the one that has a text where the others have a variable, from the left."""
    matching = []
    for verb, template, binds in RULES:
        parts = template[1:].split("/")
        if verb.upper() != method or len(parts) != len(segments):
            continue
        pairs = list(zip(parts, segments, strict=True))
        if all(given if part[0] == "{" else part == given for part, given in pairs):
            values = {part[1:-1]: given for part, given in pairs if part[0] == "{"}
            matching.append(([part[0] == "{" for part in parts], template, binds, values))
    if not matching:
        raise NoRoute
    return min(matching, key=lambda match: match[0])[1:]


def _bind_path(thing: dict[str, Any], field: str, text: str) -> None:
    """Set a field to what the path says; the body may have said the same."""
    *parents, last = field.split(".")
    holder, name = thing, "Thing"
    for parent in parents:
        holder, name = holder.setdefault(parent, {}), _kind(name, parent)[0]
    value = _from_text(_kind(name, last)[0], text)
    said = holder.get(last)
    if said not in (None, value) and not _is_default(_kind(name, last)[0], said):
        raise Refused("path and body differ")
    holder[last] = value


def _is_default(kind: str, value: Any) -> bool:
    return value in ({"Colour": "COLOUR_UNSPECIFIED", "int64": "0"}.get(kind), "", 0, False)


# --- query ------------------------------------------------------------------------------------------------------------


def _bind_query(thing: dict[str, Any], query: bytes, binds: str, taken: set[str]) -> None:
    if any(byte > 127 for byte in query):
        raise Refused("not ASCII")
    pairs = [pair.partition(b"=") for pair in query.split(b"&") if pair]
    if len(pairs) > 100:
        raise Refused("too many")
    given: dict[str, list[str]] = {}
    for name, _, text in pairs:
        key = _text(_decoded(name, plus=True))
        given.setdefault(key, []).append(_text(_decoded(text, plus=True)))
    for path, texts in given.items():
        if binds == "*" or path in taken or (binds and path.split(".")[0] == binds):
            raise Refused(f"{path} is not the query's")
        _bind_parameter(thing, path, texts)


def _bind_parameter(thing: dict[str, Any], path: str, texts: list[str]) -> None:
    *parents, last = path.split(".")
    holder, name = thing, "Thing"
    for parent in parents:
        kind, extra = _kind(name, parent)
        if kind not in MESSAGES or extra == "repeated":
            raise Refused(f"{parent} has no fields")
        holder, name = holder.setdefault(parent, {}), kind
    kind, extra = _kind(name, last)
    if kind in MESSAGES:
        raise Refused(f"{last} is a message")
    values = [_from_text(kind, text) for text in texts]
    if extra == "repeated":
        holder[last] = values
    elif len(values) > 1:
        raise Refused(f"{last} is given twice")
    else:
        holder[last] = values[0]


def _kind(message: str, name: str) -> tuple[str, str]:
    for field, kind, extra in MESSAGES[message]:
        if field == name:
            return kind, extra
    raise Refused(f"{message} has no {name}")


def _from_text(kind: str, text: str) -> Any:
    """Return what a text in a path or a query means, as protobuf's JSON has it."""
    if kind == "bool":
        if text not in ("true", "false"):
            raise Refused(text)
        return text == "true"
    if kind in _RANGES:
        if not re.fullmatch("-?(0|[1-9][0-9]{0,20})", text):
            raise Refused(text)
        return _from_json(kind, int(text))
    if kind == "double":
        if not re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?", text):
            raise Refused(text)
        return _from_json(kind, float(text))
    return _from_json(kind, text)


# --- JSON -------------------------------------------------------------------------------------------------------------


def _json(body: bytes) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise Refused("a name is given twice")
        return dict(pairs)

    def no_constant(name: str) -> Any:
        raise Refused(name)

    try:
        return json.loads(_text(body), object_pairs_hook=once, parse_constant=no_constant)
    except (json.JSONDecodeError, RecursionError):
        raise Refused("no JSON") from None


def _message(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Refused(f"{name} is an object")
    found: dict[str, Any] = {}
    for field, given in value.items():
        kind, extra = _kind(name, field)
        if extra != "repeated":
            found[field] = _from_json(kind, given)
        elif isinstance(given, list):
            found[field] = [_from_json(kind, element) for element in given]
        else:
            raise Refused(f"{field} is a list")
    return found


def _from_json(kind: str, value: Any) -> Any:
    """Return a value as protobuf's JSON has it: 64 bits as text, enums by their full name."""
    if kind in MESSAGES:
        return _message(kind, value)
    if kind in _RANGES:
        low, high = _RANGES[kind]
        if type(value) is not int or not low <= value <= high:
            raise Refused(str(value)[:50])
        return str(value) if kind == "int64" else value
    if kind == "double":
        if type(value) not in (int, float) or not abs(value) <= 1.7976931348623157e308:
            raise Refused("no double")
        return float(value)
    if kind == "bool":
        if type(value) is not bool:
            raise Refused("no bool")
        return value
    if type(value) is not str or any(0xD800 <= ord(character) < 0xE000 for character in value):
        raise Refused("no text")
    return _from_word(kind, value)


def _from_word(kind: str, text: str) -> str:
    if kind == "Colour":
        if text not in {"", *COLOURS[1:]}:
            raise Refused(text)
        return f"COLOUR_{(text or COLOURS[0]).upper()}"
    if kind == "bytes":
        try:
            return base64.b64encode(base64.b64decode(text.encode("ascii"), validate=True)).decode()
        except (binascii.Error, ValueError):
            raise Refused(text) from None
    if kind == "Timestamp":
        return _moment(text)
    return text


def _moment(text: str) -> str:
    if not re.fullmatch("[0-9]{4}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}([.][0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})", text):
        raise Refused(text)
    try:
        datetime.fromisoformat(text).astimezone(tz=datetime.fromisoformat("2000-01-01T00:00:00Z").tzinfo)
    except (ValueError, OverflowError):
        raise Refused(text) from None
    return text
