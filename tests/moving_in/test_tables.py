"""Rows of the old tables: whatever is in them, a row is read or has a reason, and no file outside is named."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atelier_cli.importing import seed_tables
from atelier_cli.importing.seed_tables import TABLES, places_of, read_row, read_rows
from atelier_cli.importing.sources import Candidate, FolderSource, Unusable

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


@pytest.mark.parametrize(
    ("said", "moment"),
    [
        ("2025-08-06T12:34:56Z", "2025-08-06T12:34:56+00:00"),
        ("2025-08-06 12:34:56.789123+00", "2025-08-06T12:34:56.789123+00:00"),
        ("2025-08-06 12:34:56", "2025-08-06T12:34:56+00:00"),
        ("20250806", "2025-08-06T00:00:00+00:00"),
        ("Wed, 06 Aug 2025 14:34:56 +0200", "2025-08-06T12:34:56+00:00"),
        (1754483696, "2025-08-06T12:34:56+00:00"),
        ("1754483696.0", "2025-08-06T12:34:56+00:00"),
        (1754483696000, "2025-08-06T12:34:56+00:00"),
    ],
)
def test_moments_are_read_in_every_form(said: object, moment: str) -> None:
    described = seed_tables.read_row("user_library", 1, {"file_path": "a.png", "created_at": said}).described
    assert (described.made_at and described.made_at.isoformat(), described.notes) == (moment, ())


@pytest.mark.parametrize(
    "said", ["yesterday", "99999-01-01", "06/08/2025", 12, float("nan"), float("inf"), True, "0" * 9000]
)
def test_a_moment_that_cannot_be_read_is_left_out_and_said(said: object) -> None:
    described = seed_tables.read_row("user_library", 1, {"file_path": "a.png", "created_at": said}).described
    assert described.made_at is None
    assert "created_at is no date" in described.notes[0]


def test_a_mark_of_the_order_of_bytes_spoils_no_dump() -> None:
    row = '{"id": 1, "file_path": "a.png"}'
    for kind, text in (("jsonl", row), ("json", f"[{row}]"), ("csv", 'id,file_path\n1,"a\nb.png"\n')):
        [found] = seed_tables.read_rows(f"\ufeff{text}", kind)
        assert isinstance(found, dict) and str(found["id"]) == "1"


def test_what_is_no_file_and_what_cannot_be_read_is_told_and_waited_for_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "circle.png").symlink_to(tmp_path / "circle.png")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "up").symlink_to(tmp_path)
    (tmp_path / "locked").mkdir()
    (tmp_path / "z.png").write_bytes(b"")
    listed = os.scandir

    def scandir(path: str) -> Any:
        if Path(path).name == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    source = FolderSource(tmp_path, saved=True)
    rows = list(source.rows())
    assert source.count() == len(rows)
    assert {row.row: row.why for row in rows if isinstance(row, Unusable)} == {
        "pipe.png": "it is no file",
        "circle.png": "it cannot be read: Too many levels of symbolic links",
        "locked": "the folder cannot be read: Permission denied",
    }
    assert [row.row for row in rows if isinstance(row, Candidate)] == ["z.png"]
