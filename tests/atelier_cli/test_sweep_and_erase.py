"""`atelier sweep` finds what does not fit; `atelier erase` leaves nothing of a person, in any table or bucket."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from atelier_cli.exits import REFUSED
from atelier_client import Atelier
from atelier_client._calls import Call
from service_kit.blobs import LIBRARY_BUCKET, WORKSPACE_BUCKET
from service_kit.blobs.local import LocalBlobStore
from tests.atelier_cli.conftest import Run
from tests.support.system import UpProcess

WHO = "quentin-7f3a"
PROMPT = "a quokkalantern beside a xylophonic lighthouse"
SERVICES = ("router", "asset", "library")


def places_of(data_dir: Path, *texts: str) -> Iterator[str]:
    """Give where any of some texts is found: tables of all services with their columns, and blobs with their keys."""
    wanted = [text.encode() for text in texts]
    for service in SERVICES:
        with closing(sqlite3.connect(f"file:{data_dir / service / service}.sqlite3?mode=ro", uri=True)) as db:
            for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                rows = db.execute(f'SELECT * FROM "{table}"')
                names = [column[0] for column in rows.description]
                for row in rows:
                    for name, value in zip(names, row, strict=True):
                        held = value if isinstance(value, bytes) else str(value).encode()
                        if any(text in held for text in wanted):
                            yield f"{service}.{table}.{name}"
    for bucket in (WORKSPACE_BUCKET, LIBRARY_BUCKET):
        for path in (data_dir / "blobs" / bucket).rglob("*"):
            held = str(path.relative_to(data_dir)).encode() + (path.read_bytes() if path.is_file() else b"")
            if any(text in held for text in wanted):
                yield f"{bucket}: {path.name}"


@pytest.fixture
def person(up: UpProcess, atelier: Run) -> Atelier:
    key = atelier("--json", "keys", "create", "--owner", WHO).json["secret"]
    return Atelier(up.url, key)


def live_as(person: Atelier, tmp_path: Path) -> None:
    """Leave traces wherever a person can."""
    with person:
        made = person.generate(PROMPT, model="sdxl", format="image", quantity=2)
        person.enhance(PROMPT, model="sdxl")
        saved = person.save(*(asset.asset_id for asset in made.assets))
        item_ids = [result.item.item_id for result in saved if result.item is not None]
        person._send(_call("POST", "/v1/copy-to-workspace", {"item_ids": item_ids[:1]}))
        person._send(_call("POST", "/v1/collections", {"name": f"for {PROMPT}"}))
        person.delete_item(item_ids[1])
        person.discard(made.assets[1].asset_id)
        picture = tmp_path / f"{WHO}.png"
        person.download(made.assets[0], picture)
        person.upload(picture)


def _call(method: str, path: str, body: dict[str, object]) -> Call[object]:
    return Call(method, path, lambda reply: reply, json=body)


def test_nothing_of_a_person_is_left_in_any_table_or_bucket(
    up: UpProcess, atelier: Run, person: Atelier, tmp_path: Path
) -> None:
    live_as(person, tmp_path)
    before = set(places_of(up.data_dir, WHO, PROMPT))
    assert {place.partition(".")[0] for place in before} > set(SERVICES)
    assert any(place.startswith(LIBRARY_BUCKET) for place in before)

    assert atelier("erase", "--owner", WHO, "--yes").code == 0
    assert sorted(places_of(up.data_dir, WHO, PROMPT, "quokkalantern")) == []

    # Again, and for somebody whom nobody knows; and nothing more is taken for an erased owner.
    assert atelier("--json", "erase", "--owner", WHO).json == {"owner_id": WHO, "done": True}
    assert atelier("erase", "--owner", "nobody-knows").code == 0
    refused = atelier("keys", "create", "--owner", WHO)
    assert (refused.code, "erased" in refused.err) == (REFUSED, True)
    assert atelier("erase", "--owner", "admin").code == REFUSED
    assert sorted(places_of(up.data_dir, WHO)) == []


async def test_a_sweep_tells_of_blobs_without_rows_and_deletes_them(up: UpProcess, atelier: Run) -> None:
    store = LocalBlobStore(up.data_dir / "blobs")
    strays = [(WORKSPACE_BUCKET, "default/eve/uploads/stray"), (LIBRARY_BUCKET, "default/eve/stray")]
    for bucket, key in strays:
        await store.put_bytes(bucket, key, b"stray", content_type="image/png")

    told = atelier("--json", "sweep", "--dry-run").json
    assert told["blobs"] >= 2
    assert [(found["bucket"], found["key"], found["action"]) for found in told["findings"]] == [
        (bucket, key, "would_delete") for bucket, key in strays
    ]
    assert all(found["explanation"] for found in told["findings"])
    assert len(atelier("--json", "sweep", "--dry-run", "--bucket", "library").json["findings"]) == 1
    swept = atelier("sweep")
    assert swept.out.count("deleted: blob_without_row") == 2
    assert atelier("--json", "sweep").json["findings"] == []
    for bucket, key in strays:
        assert await store.stat(bucket, key) is None


def test_clearing_saves_first_and_says_what_became_of_each(up: UpProcess, atelier: Run) -> None:
    with Atelier(up.url, up.key) as operator:
        made = operator.generate("two boats", model="sdxl", format="image", quantity=2)
        first, second = (asset.asset_id for asset in made.assets)
        cleared = atelier("--json", "workspace", "clear", first).json["results"]
        assert cleared[0]["item"]["asset_id"] == first
        assert atelier("workspace", "clear", "--job", made.job.job_id).code == 0
        assert atelier("workspace", "clear", "--all").code == 0
        assert len(operator.assets()) == 0
        again = atelier("--json", "workspace", "clear", first, second)
        assert [result["item"]["asset_id"] for result in again.json["results"]] == [first, second]
        unknown = atelier("workspace", "clear", "0197d2a5-0b44-7c19-8e21-7f6a90d3c512")
        assert (unknown.code, "stays" in unknown.err) == (REFUSED, True)
    assert atelier("workspace", "clear").code == 2
