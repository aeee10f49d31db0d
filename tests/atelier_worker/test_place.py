"""The keys that every engine with models of its own has: where they are kept, and where they come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from atelier_worker.engine_options import Options
from atelier_worker.engines.residency import Place, local_source, read_place


def test_a_place_is_read_and_has_defaults() -> None:
    assert read_place(Options({})) == Place("auto", None, 30.0)
    given = {"device": "cuda", "memory_limit": "20GiB", "memory_wait": "5s"}
    place = read_place(Options(given))
    assert (place, place.chosen_device()) == (Place("cuda", 20 << 30, 5.0), "cuda:0")


def test_a_source_is_a_path_or_an_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "here").mkdir()
    assert local_source("stabilityai/sdxl") is None
    assert local_source("a" * 5000) is None
    assert local_source("here") == Path("here")
    assert local_source("./not-here") == Path("not-here")
    assert local_source("~/not-here") == tmp_path / "not-here"
    assert local_source("~nobody-here/x") == Path("~nobody-here/x")
