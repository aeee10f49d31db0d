"""Every field of every table: what is mapped or noted is taken, what is refused is refused by its name."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from gateway.dialects.dialect import Endpoint
from gateway.dialects.fields import Field, Kind, Treatment, Upload, mapped, noted, read, refused, renamed
from gateway.dialects.registry import DIALECTS
from service_kit.errors import ErrorReason, InvalidArgument

TABLES = [
    pytest.param(table, entry, from_text, id=f"{endpoint.method} {endpoint.template} {entry.name}")
    for dialect in DIALECTS
    for endpoint in dialect.endpoints
    for table, from_text in ((endpoint.fields, False), (endpoint.query, True))
    for entry in table
]
ENDPOINTS = [
    pytest.param(endpoint, id=f"{endpoint.method} {endpoint.template}")
    for dialect in DIALECTS
    for endpoint in dialect.endpoints
]


def whole(table: tuple[Field, ...]) -> dict[str, Any]:
    return {entry.name: entry.example for entry in table if entry.required}


@pytest.mark.parametrize(("table", "entry", "from_text"), TABLES)
def test_every_field_does_what_its_table_says(table: tuple[Field, ...], entry: Field, from_text: bool) -> None:
    request = {**whole(table), entry.name: entry.example}
    if entry.treatment is Treatment.REFUSED:
        with pytest.raises(InvalidArgument) as caught:
            read(table, request, from_text=from_text)
        assert [problem.field for problem in caught.value.fields] == [entry.name]
        for value in entry.harmless:
            assert entry.name not in read(table, {**request, entry.name: value}, from_text=from_text)
        return
    values = read(table, request, from_text=from_text)
    assert entry.name in values
    assert (entry.name in values.notes) == (entry.treatment is Treatment.NOTED)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_what_no_table_has_is_refused_by_its_name(endpoint: Endpoint) -> None:
    for table in (endpoint.fields, endpoint.query):
        with pytest.raises(InvalidArgument) as caught:
            read(table, {**whole(table), "no_such_field": 1}, from_text=False)
        assert caught.value.reason is ErrorReason.UNKNOWN_FIELD
        assert [problem.field for problem in caught.value.fields] == ["no_such_field"]
        names = [entry.name for entry in table]
        assert len(names) == len(set(names))


TABLE = (
    mapped("prompt", "prompt", "a heron", required=True),
    mapped("n", "quantity", 2, Kind.INTEGER, minimum=1, maximum=8),
    mapped("scale", "x", 2.5, Kind.NUMBER, minimum=0),
    mapped("stream", "x", True, Kind.BOOLEAN),
    mapped("images", "x", "https://x/y.png", Kind.SOURCE, repeated=True),
    mapped("file", "x", Upload("a.png", "image/png", b""), Kind.FILE),
    mapped("tools", "x", {}, Kind.OBJECT),
    mapped("size", "x", "auto", choices=("auto", "big")),
    noted("user", "u1"),
    refused("style", "cannot be chosen", "vivid", harmless=(100,)),
)


@pytest.mark.parametrize(
    ("given", "from_text", "field", "message"),
    [
        ({}, False, "prompt", "is required"),
        ({"prompt": ""}, False, "prompt", "is required"),
        ({"prompt": 7}, False, "prompt", "must be a text, got '7'"),
        ({"n": "2"}, False, "n", "must be a whole number, got '2'"),
        ({"n": True}, False, "n", "must be a whole number, got 'True'"),
        ({"n": 9}, False, "n", "must be 1..8, got 9"),
        ({"scale": -1}, False, "scale", "must be 0 or more, got -1"),
        ({"scale": "nan"}, True, "scale", "must be a number, got 'nan'"),
        ({"scale": "x"}, True, "scale", "must be a number, got 'x'"),
        ({"stream": "yes"}, True, "stream", "must be true or false, got 'yes'"),
        ({"stream": 1}, False, "stream", "must be true or false, got '1'"),
        ({"images": ["https://x", 3]}, False, "images[1]", "must be a file, a URL or a data URI, got '3'"),
        ({"file": "x"}, True, "file", "must be a file, got 'x'"),
        ({"tools": []}, False, "tools", "must be an object, got '[]'"),
        ({"size": "small"}, False, "size", "must be one of auto, big; got 'small'"),
        ({"style": "vivid"}, False, "style", "cannot be chosen"),
        ({"Size": "big"}, False, "Size", "is not a known field; did you mean size?"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(
    given: dict[str, Any], from_text: bool, field: str, message: str
) -> None:
    request = given if field == "prompt" else {"prompt": "x", **given}
    with pytest.raises(InvalidArgument) as caught:
        read(TABLE, request, from_text=from_text)
    assert [(problem.field, problem.message) for problem in caught.value.fields] == [(field, message)]


def test_values_come_as_their_kind_and_nulls_count_as_absent() -> None:
    request = {
        "prompt": "x",
        "n": "2",
        "scale": "2",
        "stream": "true",
        "images": "https://x",
        "user": "u",
        "style": "100",
    }
    values = read(TABLE, {**request, "user": "u", "style": "100", "size": None}, from_text=True)
    assert (values.get("n"), values.get("scale"), values.get("stream")) == (2, 2.0, True)
    assert values.list("images") == ["https://x"]
    assert dict(values.notes) == {"user": "u"}
    assert "size" not in values


def test_a_refusal_of_a_service_blames_the_dialects_own_field() -> None:
    error = renamed(InvalidArgument.field("quantity", "must be 1..8, got 9"), {"quantity": "n"})
    assert (error.message, error.fields[0].field) == ("n must be 1..8, got 9", "n")
    inner = InvalidArgument.field("reference_images[0].strength", "must be 0..1, got 2")
    assert renamed(inner, {"reference_images": "image"}).fields[0].field == "image[0].strength"
    assert renamed(inner, {}).fields == inner.fields


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_no_number_is_larger_than_the_contracts_can_hold(endpoint: Endpoint) -> None:
    numbers = [entry for entry in endpoint.fields if entry.kind in (Kind.INTEGER, Kind.NUMBER)]
    for entry, value in itertools.product(numbers, (10**400, -(10**400), 2**63, 1e300, -1e300)):
        try:
            found = read(endpoint.fields, {**whole(endpoint.fields), entry.name: value}, from_text=False)
        except InvalidArgument as error:
            assert [problem.field for problem in error.fields] == [entry.name]
        else:
            assert entry.kind is Kind.NUMBER
            assert isinstance(found.get(entry.name), float)


def test_a_seed_has_64_bits_and_what_is_counted_32() -> None:
    table = (mapped("seed", "", 1, Kind.INTEGER, wide=True), mapped("n", "", 1, Kind.INTEGER))
    assert read(table, {"seed": 2**63 - 1, "n": 2**31 - 1}, from_text=False).get("seed") == 2**63 - 1
    with pytest.raises(InvalidArgument, match=r"n must be -2147483647\.\.2147483647"):
        read(table, {"n": 2**31}, from_text=False)


def test_not_every_one_of_very_many_fields_is_blamed() -> None:
    with pytest.raises(InvalidArgument, match="more than 500 fields") as caught:
        read((mapped("n", "", 1, Kind.INTEGER),), dict.fromkeys(map(str, range(501)), 1), from_text=False)
    assert not caught.value.fields
