"""Requests that are made up, each read twice: by the gateway, and by a reference that shares nothing with it."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.http_rules import RouteTable, routes
from gateway.requests import build
from gateway.status import HttpProblem
from service_kit.errors import InvalidArgument
from tests.gateway import rules_reference as reference
from tests.gateway.things import COLOURS, FILE, MESSAGES, RULES, Thing

TABLE = RouteTable(routes([FILE]))
ALL = [f"{method.upper()} {path}" for method, path, _ in RULES]
SEEN: Counter[str] = Counter()

# Texts that mean something to one kind of field and nothing, or something else, to another.
_WORDS = (
    " red things dark_blue unspecified COLOUR_RED true false True 0 -0 7 007 +7 -1 1.0 1.5 1e3 1e999 "
    "-2.5E-3 .5 2147483647 2147483648 4294967295 9007199254740991 9007199254740992 1٢ ٣ NaN Infinity aGk= "
    "aGk a+b= é a/b a%b %2F + ｘ 2026-01-31T12:00:00Z 2026-01-31T12:00:00.5+02:00 2026-02-30T12:00:00Z "
    "0001-01-01T00:00:00+01:00"
)
WORDS = st.sampled_from(["", "a b", "\u0000", *_WORDS.split()])
TEXTS = st.one_of(WORDS, WORDS, st.text(max_size=5))


def _encoded(text: str, how: int) -> bytes:
    """Return a text for a path or a query: encoded as clients do, wholly, or hardly."""
    raw = text.encode("utf-8", "surrogatepass")
    if how == 0:
        return quote(raw, safe="").encode()
    if how == 1:
        return b"".join(b"%%%02x" % byte for byte in raw)
    return raw.replace(b"/", b"%2F").replace(b"?", b"%3f").replace(b"&", b"%26").replace(b"#", b"%23")


def _names(message: str, depth: int = 3) -> list[str]:
    found = []
    for name, kind, _ in MESSAGES[message]:
        found.append(name)
        if kind in MESSAGES and depth:
            found += [f"{name}.{inner}" for inner in _names(kind, depth - 1)]
    return found


NAMES = st.sampled_from([*_names("Thing", 2), "unknown", "inner.unknown", "name.x", "innerText", "inner", ""])
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int32": st.integers(-(2**31), 2**31 - 1),
    "uint32": st.integers(0, 2**32 - 1),
    "int64": st.integers(0, 2**53 - 1),
    "double": st.floats(allow_nan=False, allow_infinity=False),
    "bool": st.booleans(),
    "string": st.text(max_size=5),
    "bytes": st.sampled_from(["", "aGk=", "+/8="]),
    "Colour": st.sampled_from(["", *COLOURS[1:]]),
    "Timestamp": st.sampled_from(["2026-01-31T12:00:00Z", "1999-12-31T23:59:59.999999-11:30"]),
}
# The same as texts in a path or a query.
SAID: dict[str, st.SearchStrategy[str]] = {
    kind: value.map(lambda given: given if isinstance(given, str) else json.dumps(given))
    for kind, value in VALUES.items()
}
# What clients get wrong: of another type, out of range, null.
WRONG = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([-1, 2**31, 2**32, 2**53, 10**30, 1.0, 1.5, 1e300, "7", "x", [], {}, [None], {"a": 1}]),
    WORDS,
)


def _object(message: str) -> st.SearchStrategy[dict[str, Any]]:
    fields = {}
    for name, kind, extra in MESSAGES[message]:
        value = _object(kind) if kind in MESSAGES else VALUES[kind]
        fields[name] = st.lists(value, max_size=2) if extra == "repeated" else value
    return st.fixed_dictionaries({}, optional=fields)


@st.composite
def objects(draw: st.DrawFn, message: str) -> Any:
    """Return an object for a message, in one of three cases with something wrong in it."""
    found = draw(_object(message))
    if draw(st.integers(0, 2)) == 0:
        found[draw(st.sampled_from([*(name for name, _, _ in MESSAGES[message]), "unknown"]))] = draw(WRONG)
    return found


def _kind(path: str) -> str:
    """Return the kind of a field by its path, `string` where there is none."""
    message = "Thing"
    for name in path.split("."):
        kinds = {field: kind for field, kind, _ in MESSAGES.get(message, [])}
        message = kinds.get(name, "string")
    return message


@st.composite
def said(draw: st.DrawFn, path: str) -> bytes:
    """Return a text for a field, as a client encodes it; in one of eight cases any text."""
    any_text = draw(st.integers(0, 7)) == 0
    text = draw(TEXTS if any_text else SAID.get(_kind(path), TEXTS))
    return _encoded(text, draw(st.sampled_from([0, 0, 0, 1, 2])))


@st.composite
def parameters(draw: st.DrawFn) -> bytes:
    """Return one parameter of a query."""
    name = draw(NAMES)
    return (
        _encoded(name, draw(st.sampled_from([0, 2])))
        + draw(st.sampled_from([b"=", b"=", b"=", b""]))
        + draw(said(name))
    )


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, bytes, bytes, bytes]:
    """Return method, raw path, query and body of a request that fits one of the rules, or nearly."""
    method, template, binds = draw(st.sampled_from(RULES))
    if draw(st.integers(0, 9)) == 0:
        method = draw(st.sampled_from(["get", "put", "post", "delete"]))
    parts = [draw(said(part[1:-1])) if part[0] == "{" else part.encode() for part in template[1:].split("/")]
    count = draw(st.sampled_from([0, 0, 0, 1] if binds == "*" else [0, 0, 1, 1, 2, 3]))
    pairs = [draw(parameters()) for _ in range(count)]
    body = b""
    if (binds or draw(st.integers(0, 9)) == 0) and draw(st.integers(0, 5)):
        body = json.dumps(draw(objects("Inner" if binds == "inner" else "Thing"))).encode()
        if draw(st.integers(0, 9)) == 0:
            body = draw(
                st.sampled_from(
                    [b"{", b"[]", b"null", b'{"name":"a","name":"b"}', b'{"share":NaN}', b"\xff", body[:-1]]
                )
            )
    return method.upper(), b"/" + b"/".join(parts), b"&".join(pairs), body


def served(method: str, path: bytes, query: bytes, body: bytes) -> tuple[str, Message]:
    """Return what the gateway makes of a request, by the same steps as its handlers."""
    try:
        segments = [unquote_to_bytes(part).decode() for part in path.split(b"/")[1:]]
    except UnicodeDecodeError:
        raise InvalidArgument from None
    found = TABLE.find(method, segments)
    if found is None:
        raise reference.NoRoute
    route, values = found
    return route.template, build(route, values, query, body, {"content-type": "application/json"})


@settings(max_examples=2000, suppress_health_check=[HealthCheck.too_slow])
@given(requests())
def _read_twice(request: tuple[str, bytes, bytes, bytes]) -> None:
    try:
        template, expected = reference.meaning(*request)
    except reference.NoRoute:
        SEEN["no route"] += 1
        with pytest.raises((reference.NoRoute, InvalidArgument)):
            served(*request)
    except reference.Refused:
        SEEN["refused"] += 1
        with pytest.raises((InvalidArgument, HttpProblem)):
            served(*request)
    else:
        SEEN[f"{request[0]} {template}"] += 1
        assert served(*request) == (template, json_format.ParseDict(expected, Thing()))


def test_a_request_means_what_the_reference_says() -> None:
    SEEN.clear()
    _read_twice()
    # What is made up is worth nothing if all of it is refused. How much is differs with the modules that are loaded:
    # Hypothesis takes up their constants.
    assert SEEN["refused"] > 100 and SEEN["no route"] > 20
    assert {template for template in ALL if not SEEN[template]} == set()
