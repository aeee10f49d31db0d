"""`atelier sweep` finds what does not fit; `atelier erase` leaves nothing of a person, in any table or bucket."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sqlite3
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import aclosing, closing
from itertools import chain
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg import sql

from atelier_cli.exits import REFUSED, USAGE
from atelier_client import Atelier
from atelier_client._calls.call import Call
from service_kit.blobs import LIBRARY_BUCKET, WORKSPACE_BUCKET, open_store
from service_kit.blobs.local import LocalBlobStore
from service_kit.errors import NotFound
from service_kit.settings import load
from tests.atelier_cli.conftest import Run
from tests.support.commands import as_operator
from tests.support.system import UpProcess, up_process

WHO = "quentin-7f3a"
PROMPT = "a quokkalantern beside a xylophonic lighthouse"
SERVICES = ("router", "asset", "library")
# What the operator registered and what a service remembers of itself: nobody is named there. The tables of SQLite's
# index keep words in a form of their own: they are searched for one word, and not expected to show it before.
UNTOUCHED = (
    *("alembic_version", "erased_owners", "event_source", "deletion_pause", "exchange"),
    *("models", "chat_models", "pools", "workers", "item_words"),
)
# Rows that are gone again within moments.
PASSING = {
    *("router.queue", "router.leases", "router.outbox", "router.served"),
    *("asset.holds", "asset.rendition_tasks", "library.outbox", "library.late_items"),
}


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
        found = [place for place, held in chain(rows, self._files()) if any(text in held for text in wanted)]
        return found + [place async for place, held in self._blobs() if any(text in held for text in wanted)]

    def tables(self) -> set[str]:
        """Return every table there is, with its service."""
        if self._database_url:
            with psycopg.connect(self._database_url) as db:
                query = "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname = ANY(%s)"
                return {str(table) for (table,) in db.execute(query, [[*SERVICES]])}
        found = set()
        for service in SERVICES:
            path = self.up.data_dir / service / f"{service}.sqlite3"
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
                named = db.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
                found |= {f"{service}.{table}" for (table,) in named}
        return found

    def _files(self) -> Iterator[tuple[str, bytes]]:
        """Give all files of the data folder but databases, blobs, logs and keys. Some go while we look."""
        for folder, _, names in os.walk(self.up.data_dir):
            for path in (Path(folder, name) for name in names):
                inside = path.relative_to(self.up.data_dir)
                if ".sqlite3" in path.name or inside.parts[0] in ("blobs", "keys"):
                    continue
                try:
                    held = path.read_bytes() if path.is_file() else b""
                except FileNotFoundError:
                    continue
                yield f"file: {inside}", str(inside).encode() + held

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
                        opening = store.open_range(bucket, info.key, generation=info.generation)
                        try:
                            async with aclosing(opening) as opened:
                                held = b"".join([part async for part in opened])
                        except NotFound:
                            # It was deleted while we looked.
                            continue
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


def live_as(person: Atelier, tmp_path: Path) -> list[str]:
    """Leave traces wherever a person can. Returns the ids of what was made."""
    with person:
        person._send(_call("GET", "/v1/webhooks/secret"))
        person.create_sign_in_code()
        person.describe_import(hashlib.sha256(WHO.encode()).hexdigest(), prompt=PROMPT)
        told = {"url": "https://example.invalid/told", "events": ["completed"]}
        body = {"prompt": PROMPT, "model": "sdxl", "format": "image", "webhook": told}
        hooked = person._send(_call("POST", "/v1/generate-content", body))["job_id"]
        person.wait(hooked)
        upload = _half_uploaded(person)
        made = person.generate(PROMPT, model="sdxl", format="image", quantity=2)
        person.enhance(PROMPT, model="sdxl")
        saved = person.save(*(asset.asset_id for asset in made.assets))
        again = {"asset_ids": [asset.asset_id for asset in made.assets], "idempotency_key": WHO}
        person._send(_call("POST", "/v1/save-to-library", again))
        item_ids = [result.item.item_id for result in saved if result.item is not None]
        person._send(_call("POST", "/v1/copy-to-workspace", {"item_ids": item_ids[:1]}))
        shelf = person.create_collection(f"for {PROMPT}").collection_id
        person.change_items(item_ids[0], add_to_collection_id=shelf, add_tags=[WHO])
        person.delete_item(item_ids[1])
        person.discard(made.assets[1].asset_id)
        picture = tmp_path / f"{WHO}.png"
        person.download(made.assets[0], picture)
        person.upload(picture)
        # These are still waiting or running when the erasure comes.
        late = [person.submit(PROMPT, model="wan", format="video", quantity=4).job_id for _ in range(6)]
        return [hooked, upload, made.job.job_id, *item_ids, shelf, *late, *(asset.asset_id for asset in made.assets)]


def _half_uploaded(person: Atelier) -> str:
    begun = person._send(
        _call("POST", "/v1/uploads/resumable", {"size_bytes": 2000, "sha256": "0" * 64, "filename": f"{WHO}.png"})
    )
    upload_id = str(begun["upload"]["upload_id"])
    sent = httpx.patch(
        f"{person.url}/v1/uploads/{upload_id}",
        params={"offset": 0},
        content=WHO.encode(),
        headers=person._headers | {"content-type": "application/octet-stream"},
    )
    sent.raise_for_status()
    return upload_id


def _call(method: str, path: str, body: dict[str, Any] | None = None) -> Call[Any]:
    return Call(method, path, lambda reply: reply, json=body)


async def test_nothing_of_a_person_is_left_in_any_table_bucket_or_file(house: House, run: Run, tmp_path: Path) -> None:
    atelier = as_operator(house.up, run)
    with house.up.client() as operator:
        operator._send(_call("PUT", f"/v1/owners/{WHO}/limits", {"queued_jobs": 1000}))
    person = Atelier(house.up.url, atelier("--json", "keys", "create", "--owner", WHO).json["secret"])
    ids = live_as(person, tmp_path)
    before = await house.places_of(WHO, PROMPT, *ids)
    # A new table is found here: live in it, or say why it tells of nobody or keeps nothing for long.
    touched = {table for table, dot, _ in (place.rpartition(".") for place in before if ": " not in place) if dot}
    missed = {table for table in house.tables() - touched if not table.partition(".")[2].startswith(UNTOUCHED)}
    assert missed - PASSING == set()
    assert any(place.startswith(LIBRARY_BUCKET) for place in before)
    assert any(place.startswith("file: ") for place in before)

    erased = atelier("erase", "--owner", WHO, "--yes")
    assert (erased.code, erased.out, erased.err) == (0, f"{WHO} is erased\n", "")
    # A job that was settled after the erasure leaves its number, which nothing else has any more.
    wanted = (WHO, PROMPT, "quokkalantern", *ids)
    left = await house.places_of(*wanted)
    async with asyncio.timeout(30):
        # A worker keeps what it said last until it is answered: that may come after the erasure.
        while any(place.startswith("file: worker/") for place in left):
            await asyncio.sleep(0.05)
            left = await house.places_of(*wanted)
    assert sorted(set(left) - {"asset.settlements.job_id"}) == []

    # Again, and for somebody whom nobody knows; and nothing more is taken for an erased owner.
    unasked = atelier("erase", "--owner", WHO)
    assert (unasked.code, "give --yes" in unasked.err) == (USAGE, True)
    again = {"owner_id": WHO, "done": True, "had_keys": False}
    assert atelier("--json", "erase", "--owner", WHO, "--yes").json == again
    refused = atelier("keys", "create", "--owner", WHO)
    assert (refused.code, "erased" in refused.err) == (REFUSED, True)
    assert atelier("erase", "--owner", "admin", "--yes").code == REFUSED
    assert sorted(await house.places_of(WHO)) == []


def test_an_owner_that_nobody_knows_is_marked_and_told_to_be_unknown(up: UpProcess, atelier: Run) -> None:
    assert atelier("keys", "create", "--owner", "ada").code == 0
    mistyped = atelier("erase", "--owner", "adda", "--yes")
    assert (mistyped.code, mistyped.out) == (0, "adda is erased; no key of it was known any more\n")
    assert mistyped.err == (
        "No key of adda is known: it was erased before, or only services act for it, or its name is another one.\n"
    )
    refused = atelier("keys", "create", "--owner", "adda")
    assert (refused.code, "erased" in refused.err) == (REFUSED, True)
    # The keys that ada has are not those of an ada elsewhere.
    elsewhere = atelier("--json", "erase", "--owner", "ada", "--tenant", "elsewhere", "--yes").json
    assert elsewhere == {"owner_id": "ada", "done": True, "had_keys": False}
    mine = atelier("--json", "erase", "--owner", "ada", "--yes").json
    assert mine == {"owner_id": "ada", "done": True, "had_keys": True}
    # Nor are those elsewhere the ones of the caller's own tenant, which is meant where none is named.
    assert atelier("keys", "create", "--owner", "bea", "--tenant", "elsewhere").code == 0
    assert atelier("--json", "erase", "--owner", "bea", "--yes").json["had_keys"] is False
    there = atelier("--json", "erase", "--owner", "bea", "--tenant", "elsewhere", "--yes").json
    assert there["had_keys"] is True


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
    read = atelier("--json", "sweep", "--verify", "--bucket", "workspace").json
    assert (read["findings"], read["blobs"] > 0) == ([], read["verified_bytes"] > 0)
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
