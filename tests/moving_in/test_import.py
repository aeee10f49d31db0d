"""`atelier import` against a running system: galleries, the old tables, kills, and what cannot be taken."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from atelier_client import Asset, Atelier, Item
from tests.moving_in.conftest import Run
from tests.support.galleries.gallery import write_gallery
from tests.support.galleries.old_tables import seed_dump
from tests.support.galleries.pictures import LARGEST, picture_bytes
from tests.support.system import PATIENT, UpProcess, clean_environ

# So many that the client is not done before it is killed, however late that is seen.
MANY = 150
AT_ONCE = 4


@pytest.fixture
def owner(up: UpProcess, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Atelier, list[str]]]:
    """A client of an owner that has nothing yet, and the options that make a command act as the same one."""
    with up.client() as operator:
        new = operator.create_key(re.sub(r"\W", "-", request.node.name), kind="user")
    key = tmp_path / "owner.key"
    key.write_text(new.secret)
    with Atelier(up.url, new.secret, policy=PATIENT) as client:
        yield client, ["--key-file", str(key)]


def library(client: Atelier) -> dict[str, Item]:
    return {item.provenance.imported.path: item for item in all_items(client) if item.provenance.imported}


def all_items(client: Atelier) -> list[Item]:
    found: list[Item] = []
    token = ""
    while True:
        page = client.items(page_size=200, page_token=token)
        found.extend(page)
        token = page.next_page_token
        if not token:
            return found


def workspace(client: Atelier) -> list[Asset]:
    return list(client.assets(page_size=200))


def test_a_gallery_comes_in_whole(atelier: Run, owner: tuple[Atelier, list[str]], tmp_path: Path) -> None:
    client, as_owner = owner
    gallery = tmp_path / "gallery"
    fixtures = write_gallery(gallery)
    (gallery / "notes.txt").write_text("not a picture")
    (gallery / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")
    report = tmp_path / "report.json"
    done = atelier("--json", "import", str(gallery), "--report", str(report), *as_owner)
    assert (done.code, done.err) == (4, "")
    assert (done.json["taken"], done.json["there_already"]) == (len(fixtures), 0)
    assert [row["row"] for row in done.json["refused"]] == ["broken.png"]
    assert json.loads(report.read_text())["refused"][0]["why"]
    items = library(client)
    assert set(items) == set(fixtures)
    assert workspace(client) == []
    for path, fixture in fixtures.items():
        item, expected = items[path], dict(fixture.expected)
        made, imported = item.provenance, item.provenance.imported
        assert imported is not None
        assert imported.tool == path.split("/")[0]
        assert imported.seed == expected["seed"]
        assert made.seed == (int(expected["seed"]) if int(expected["seed"]) < 2**53 else 0)
        assert made.prompt == expected["prompt"]
        assert made.settings.model == expected.get("model", made.settings.model)
        assert client.download(item, tmp_path / "back").read_bytes() == (gallery / path).read_bytes()
    again = atelier("--json", "import", str(gallery), *as_owner)
    assert (again.json["taken"], again.json["there_already"]) == (0, len(fixtures))
    assert len(all_items(client)) == len(fixtures)


def test_a_killed_import_goes_on_without_doubles(
    up: UpProcess, atelier: Run, owner: tuple[Atelier, list[str]], tmp_path: Path
) -> None:
    client, as_owner = owner
    gallery = tmp_path / "gallery"
    gallery.mkdir()
    for number in range(MANY):
        (gallery / f"{number:03}.png").write_bytes(picture_bytes(2000 + number))
    state = tmp_path / "state.jsonl"
    words = ["import", str(gallery), "--to", "workspace", "--state", str(state), *as_owner]
    command = [sys.executable, "-m", "atelier_cli", "--data-dir", str(up.data_dir), "--url", up.url, *words]
    process = subprocess.Popen(command, env=clean_environ(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 30
    while time.monotonic() < end and process.poll() is None and not _lines(state) > 5:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    there = len(workspace(client))
    assert 5 <= there < MANY, "it was killed in the middle"
    # The state of the last file may have been lost; here that of half of them is, and half of a line is left.
    lines = state.read_text().split("\n")
    state.write_text("\n".join(lines[: 1 + there // 2]) + "\n" + '{"where": "0')
    done = atelier("--json", *words)
    assert done.code == 0, done.err
    assert done.json["taken"] + done.json["there_already"] == MANY
    # What was under way when the client died may have arrived since.
    assert MANY - there - AT_ONCE <= done.json["taken"] <= MANY - there
    assert sorted(asset.filename for asset in workspace(client)) == [f"{number:03}.png" for number in range(MANY)]


def _lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_the_old_tables_come_in(kind: str, atelier: Run, owner: tuple[Atelier, list[str]], tmp_path: Path) -> None:
    client, as_owner = owner
    dump = tmp_path / "dump"
    seed_dump().write(dump, kind)
    done = atelier("--json", "import", str(dump), *as_owner)
    assert done.code == 4
    assert done.json["taken"] == 3
    assert {row["row"]: row["why"] for row in done.json["refused"]} == {
        "user_library l2": "the row names no file, or only one that would be outside of the folder",
        "workspace_items i2": "its file is not there: sdxl_image_high/11111111-1111-4111-8111-111111111111/lost.png",
    }
    (kept,) = all_items(client)
    assert (kept.provenance.prompt, kept.provenance.seed) == ("a kept picture", 0)
    assert kept.provenance.imported is not None
    assert (kept.provenance.imported.tool, kept.provenance.imported.seed) == ("tables", "0")
    assert kept.raw["title"] == "Café at dawn"
    assert sorted(kept.raw["tags"]) == ["blue hour", "dawn"]
    assert kept.raw["is_favourite"] is True
    assert done.json["notes"] == []
    lantern, door = workspace(client)
    if lantern.provenance.prompt == "a red door":
        lantern, door = door, lantern
    assert (lantern.provenance.prompt, lantern.provenance.seed) == ("提灯, twice", 0)
    assert lantern.provenance.imported is not None
    assert lantern.provenance.imported.seed == str(LARGEST)
    assert lantern.provenance.settings.size == "1024x1024"
    assert (door.provenance.seed, door.provenance.settings.steps) == (12, 25)
    assert door.provenance.submitted_at is not None
    assert door.provenance.submitted_at.isoformat() == "2025-08-01T10:00:00+00:00"


def test_a_dump_of_several_people_asks_whose_rows_are_meant(
    atelier: Run, owner: tuple[Atelier, list[str]], tmp_path: Path
) -> None:
    client, as_owner = owner
    dump = seed_dump()
    dump.tables["workspace_assets"][0]["user_id"] = "somebody-else"
    dump.write(tmp_path / "dump")
    done = atelier("import", str(tmp_path / "dump"), *as_owner)
    assert done.code == 2
    assert "rows of 2 users" in done.err
    done = atelier("--json", "import", str(tmp_path / "dump"), "--user", "somebody-else", *as_owner)
    assert (done.code, done.json["taken"]) == (0, 1)
    assert [asset.provenance.prompt for asset in workspace(client)] == ["提灯, twice"]


def test_what_was_discarded_is_not_brought_in_again(
    atelier: Run, owner: tuple[Atelier, list[str]], tmp_path: Path
) -> None:
    client, as_owner = owner
    (tmp_path / "gallery").mkdir()
    (tmp_path / "gallery" / "one.png").write_bytes(picture_bytes(3000))
    words = ["--json", "import", str(tmp_path / "gallery"), "--to", "workspace"]
    assert atelier(*words, *as_owner).json["taken"] == 1
    client.discard(workspace(client)[0].asset_id)
    assert atelier(*words, "--state", str(tmp_path / "other"), *as_owner).json["there_already"] == 1
    assert workspace(client) == []


def test_names_that_would_move_the_cursor_are_taken_and_shown_plainly(
    atelier: Run, owner: tuple[Atelier, list[str]], tmp_path: Path
) -> None:
    client, as_owner = owner
    gallery = tmp_path / "gallery"
    gallery.mkdir()
    (gallery / "two\nlines\x07.png").write_bytes(picture_bytes(1))
    (gallery / "\x1b[2Jgone.png").write_bytes(b"no picture")
    done = atelier("import", str(gallery), *as_owner)
    assert (done.code, "1 taken" in done.out) == (4, True)
    assert "\\x1b[2Jgone.png: The file is not a picture" in done.err
    assert "\x1b" not in done.err
    assert set(library(client)) == {"two lines .png"}


def test_what_is_no_gallery_is_said(atelier: Run, tmp_path: Path) -> None:
    done = atelier("import", str(tmp_path / "nowhere"))
    assert (done.code, done.out) == (2, "")
    assert "there is nothing at" in done.err
    (tmp_path / "other.csv").write_text("a,b\n")
    assert "is no dump" in atelier("import", str(tmp_path / "other.csv")).err


def test_an_import_that_reaches_nobody_says_how_to_go_on(run: Run, tmp_path: Path) -> None:
    done = run("--url", "http://127.0.0.1:1", "--key", "atl_x", "--data-dir", str(tmp_path), "import", str(tmp_path))
    assert done.code == 3
