"""`atelier sweep` finds what does not fit; `atelier erase` leaves nothing of a person, in any table or bucket."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import aclosing, closing
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from atelier_cli.exits import REFUSED
from atelier_client import Atelier
from atelier_client._calls import Call
from service_kit.blobs import LIBRARY_BUCKET, WORKSPACE_BUCKET, open_store
from service_kit.blobs.local import LocalBlobStore
from service_kit.settings import load
from tests.atelier_cli.conftest import Run
from tests.support.commands import as_operator
from tests.support.system import UpProcess, up_process

WHO = "quentin-7f3a"
PROMPT = "a quokkalantern beside a xylophonic lighthouse"
SERVICES = ("router", "asset", "library")


class House:
    """A running system, and all that lies in its tables and buckets."""

    def __init__(self, up: UpProcess, *, database_url: str = "", blobs_url: str = "") -> None:
        self.up = up
        self._database_url = database_url
        self._blobs_url = blobs_url

    async def places_of(self, *texts: str) -> list[str]:
        """Return where any of some texts is found: tables with their columns, and blobs with their keys."""
        wanted = [text.encode() for text in texts]
        rows = self._of_postgresql() if self._database_url else self._of_sqlite()
        found = [place for place, held in rows if any(text in held for text in wanted)]
        return found + [place async for place, held in self._blobs() if any(text in held for text in wanted)]

    def _of_sqlite(self) -> Iterator[tuple[str, bytes]]:
        for service in SERVICES:
            path = self.up.data_dir / service / f"{service}.sqlite3"
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
                for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                    rows = db.execute(f'SELECT * FROM "{table}"')
                    names = [column[0] for column in rows.description]
                    yield from _cells(f"{service}.{table}", names, rows)

    def _of_postgresql(self) -> Iterator[tuple[str, bytes]]:
        with psycopg.connect(self._database_url) as db:
            tables = db.execute("SELECT schemaname, tablename FROM pg_tables WHERE schemaname = ANY(%s)", [[*SERVICES]])
            for schema, table in tables.fetchall():
                rows = db.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(schema, table)))
                names = [column.name for column in rows.description or ()]
                yield from _cells(f"{schema}.{table}", names, rows)

    async def _blobs(self) -> AsyncIterator[tuple[str, bytes]]:
        store = open_store(load({"core.data_dir": str(self.up.data_dir), "blobs.url": self._blobs_url}))
        try:
            for bucket in (WORKSPACE_BUCKET, LIBRARY_BUCKET):
                async with aclosing(store.list(bucket)) as listed:
                    async for info in listed:
                        async with aclosing(store.open_range(bucket, info.key, generation=info.generation)) as opened:
                            held = b"".join([part async for part in opened])
                        yield f"{bucket}: {info.key}", info.key.encode() + held
        finally:
            await store.close()


def _cells(table: str, names: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[tuple[str, bytes]]:
    for row in rows:
        for name, value in zip(names, row, strict=True):
            yield f"{table}.{name}", value if isinstance(value, bytes) else str(value).encode()


@pytest.fixture(params=["a folder", "PostgreSQL and a bucket"])
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    if request.param == "a folder":
        yield House(request.getfixturevalue("up"))
        return
    database_url, blobs_url = request.getfixturevalue("migrated_postgres_url"), request.getfixturevalue("gcs_url")
    flags = [f"core.database_url={database_url}", f"blobs.url={blobs_url}"]
    with up_process(tmp_path / "up", *(word for flag in flags for word in ("--set", flag))) as running:
        running.wait_for_workers()
        yield House(running, database_url=database_url, blobs_url=blobs_url)


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


async def test_nothing_of_a_person_is_left_in_any_table_or_bucket(house: House, run: Run, tmp_path: Path) -> None:
    atelier = as_operator(house.up, run)
    live_as(Atelier(house.up.url, atelier("--json", "keys", "create", "--owner", WHO).json["secret"]), tmp_path)
    before = await house.places_of(WHO, PROMPT)
    assert {place.partition(".")[0] for place in before} > set(SERVICES)
    assert any(place.startswith(LIBRARY_BUCKET) for place in before)

    assert atelier("erase", "--owner", WHO, "--yes").code == 0
    assert sorted(await house.places_of(WHO, PROMPT, "quokkalantern")) == []

    # Again, and for somebody whom nobody knows; and nothing more is taken for an erased owner.
    assert atelier("--json", "erase", "--owner", WHO).json == {"owner_id": WHO, "done": True}
    assert atelier("erase", "--owner", "nobody-knows").code == 0
    refused = atelier("keys", "create", "--owner", WHO)
    assert (refused.code, "erased" in refused.err) == (REFUSED, True)
    assert atelier("erase", "--owner", "admin").code == REFUSED
    assert sorted(await house.places_of(WHO)) == []


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
