"""Rows of the old tables: whatever is in them, a row is read or has a reason, and no file outside is named."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atelier_cli.importing import seed_tables
from atelier_cli.importing.seed_tables import TABLES, places_of, read_row, read_rows

QUICK = settings(max_examples=100, deadline=None, database=None)
TEXT = st.text(max_size=80)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
ANYTHING = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))
COLUMNS = st.sampled_from(
    [
        *("id", "user_id", "prompt", "seed", "storage_path", "url", "bucket_name", "tags", "created_at", "metadata"),
        *("generation_params", "custom_title", "is_favorite", "model_used", "width", "size", "storage_paths"),
    ]
)


@QUICK
@given(st.sampled_from(TABLES), st.dictionaries(COLUMNS | TEXT, ANYTHING, max_size=8))
def test_any_row_is_read(table: str, given_row: dict[str, Any]) -> None:
    row = read_row(table, 1, given_row)
    assert bool(row.problem) is not bool(row.files)
    # What came through CSV is text.
    read_row(table, 2, {name: value if isinstance(value, str) else str(value) for name, value in given_row.items()})


@QUICK
@given(TEXT | st.lists(st.sampled_from(["..", ".", "a", "", "/", "\\", "http://h/", "%2e%2e"])).map("/".join), TEXT)
def test_no_place_is_outside_of_the_folder(path: str, bucket: str) -> None:
    for place in places_of(path, bucket):
        assert not place.startswith("/")
        assert not {"..", "", "."} & set(place.split("/"))


@pytest.mark.parametrize(
    ("path", "bucket", "places"),
    [
        ("u/1.png", "b", ("b/u/1.png", "u/1.png", "1.png")),
        ("b/u/1.png", "b", ("b/u/1.png", "u/1.png")),
        ("https://x/storage/v1/object/sign/b/u/a%20b.png?token=1", "", ("b/u/a b.png", "u/a b.png")),
        ("https://x/storage/v1/object/public/b/1.png", "b", ("b/1.png", "1.png")),
        ("/u/1.png", "../x", ("u/1.png", "1.png")),
        ("../1.png", "", ()),
        ("https://x/%2e%2e/1.png", "", ()),
    ],
)
def test_a_file_may_be_with_its_bucket_and_without(path: str, bucket: str, places: tuple[str, ...]) -> None:
    assert places_of(path, bucket) == places


@QUICK
@given(st.sampled_from(seed_tables.KINDS), TEXT | ANYTHING.map(json.dumps))
def test_any_dump_is_read_or_refused(kind: str, text: str) -> None:
    try:
        for row in read_rows(text, kind):
            assert isinstance(row, (str, dict))
    except ValueError:
        assert kind == "json"


def test_lines_that_are_no_rows_are_told_apart() -> None:
    assert list(read_rows("id,url\n1,a\n2\n3,c\n", "csv")) == [
        {"id": "1", "url": "a"},
        "line 3 has another number of fields than the header",
        {"id": "3", "url": "c"},
    ]
    good, broken, other = read_rows('{"id": 1}\nx\n[]\n', "jsonl")
    assert good == {"id": 1}
    assert isinstance(broken, str)
    assert other == "is no JSON object"


@pytest.mark.parametrize(
    ("value", "tags"),
    [('{dawn,"blue hour"}', ("dawn", "blue hour")), ('["a", "a", "b"]', ("a", "b")), ("a, b", ("a", "b")), ("{}", ())],
)
def test_tags_are_read_as_each_dump_writes_them(value: str, tags: tuple[str, ...]) -> None:
    assert read_row("user_library", 1, {"tags": value, "url": "a"}).tags == tags
