"""Backups of systems that run, and what is there when they are restored on an empty machine."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from atelier_cli.commands.backup import services
from atelier_cli.exits import INCOMPLETE
from atelier_client import AsyncAtelier
from service_kit.backup import Done, KnownBlob, Service, back_up, restore
from service_kit.backup.blob_copies import Copied
from service_kit.backup.manifest import BLOBS
from service_kit.blobs.local import LocalBlobStore
from service_kit.database import Database
from service_kit.errors import Aborted, FailedPrecondition, InvalidArgument, ResourceExhausted
from service_kit.settings import Settings, for_tests
from tests.moving_in.conftest import Run
from tests.support.galleries.pictures import picture_bytes
from tests.support.gcs import make_buckets
from tests.support.system import System, running_system

PAUSE = timedelta(minutes=1)


def silent(copied: Copied) -> None:
    """Take what is told of the progress."""


async def made(system: System, root: Path, which: Sequence[Service] | None = None, **changes: Any) -> Done:
    return await back_up(system.settings, which or services(), root, keep=2, tell=silent, **changes)


async def filled(client: AsyncAtelier, count: int, first: int) -> tuple[list[str], list[str]]:
    """Upload pictures and save each other one. Returns the assets and the items."""
    assets = [await client.upload(picture_bytes(first + number), f"{number}.png") for number in range(count)]
    results = await client.save(*(asset.asset_id for asset in assets[::2]))
    items = [result.item.item_id for result in results if result.item is not None]
    assert len(items) == len(assets[::2])
    return [asset.asset_id for asset in assets], items


async def unmatched(settings: Settings) -> dict[str, list[str]]:
    """Return blobs that no row knows, and visible rows whose blobs are not there, of a system that stands still."""
    store = LocalBlobStore(settings.blobs_dir)
    blobs = {
        (info.bucket, info.key): info.generation
        for bucket in ("workspace-temp", "user-library")
        async for info in store.list(bucket)
    }
    url = settings.core.database_url.reveal()
    known: set[tuple[str, str]] = set()
    wanted: dict[tuple[str, str], str] = {}
    for service in services():
        if service.kept_blobs is None:
            continue
        file = settings.service_dir(service.name) / f"{service.name}.sqlite3"
        db = Database(url, schema=service.name) if url else Database(f"sqlite+aiosqlite:///{file}")
        try:
            async with db.read() as tx:
                known |= {(blob.bucket, blob.key) async for blob in service.kept_blobs(tx)}
                wanted |= await needed(tx, service.name)
        finally:
            await db.close()
    return {
        "without rows": sorted(key for place, key in blobs.keys() - known),
        "without blobs": sorted(
            key for (place, key), generation in wanted.items() if blobs.get((place, key)) != generation
        ),
    }


async def needed(tx: AsyncConnection, service: str) -> dict[tuple[str, str], str]:
    """Return the generation of each blob that must be there."""
    query = {
        "asset": "SELECT bucket, key, generation FROM workspace_assets WHERE state = 'available'",
        "library": "SELECT bucket, key, generation FROM blobs WHERE state = 'live'",
    }[service]
    rows = (await tx.exec_driver_sql(query)).mappings()
    return {(row["bucket"], row["key"]): row["generation"] for row in rows}


async def test_a_system_at_work_comes_back_as_it_was(tmp_path: Path) -> None:
    backups = tmp_path / "backups"
    async with running_system(tmp_path / "data") as system, system.client() as client:
        assets, items = await filled(client, 6, 4000)
        await client.discard(assets[1])
        cursor = await newest_cursor(client)
        async with at_work(client) as ended:
            for _ in range(3):
                await ended.get()
            done = await made(system, backups)
            again = await made(system, backups)
        assert again.new_blobs < again.manifest.blobs
        assert done.manifest.keys
        kept_items = [await client.get_item(item_id) for item_id in items]
    settings = load_like(system, tmp_path / "restored")
    told = await restore(settings, services(), backups, tell=silent)
    assert told.created_at == again.manifest.created_at
    assert await unmatched(settings) == {"without rows": [], "without blobs": []}
    async with running_system(tmp_path / "restored", worker=False) as restored:
        async with AsyncAtelier(restored.url, system_key(tmp_path)) as client:
            for item in kept_items:
                there = await client.get_item(item.item_id)
                assert (there.media, there.provenance) == (item.media, item.provenance)
                await client.download(there, tmp_path / "back" / item.item_id)
            listed = [asset.asset_id for asset in await client.assets(page_size=200)]
            assert set(assets) - {assets[1]} <= set(listed)
            # A job has succeeded, and its pictures are there; or it is still to be done.
            states = Counter(job.state for job in await client.list_jobs(page_size=200))
            assert set(states) <= {"queued", "running", "publishing", "succeeded"}
            for job in await client.list_jobs(state="succeeded", page_size=200):
                published = await client.assets(job.job_id)
                assert len(published) == 2, job.job_id
            assert await begins_with_a_snapshot(client, cursor)
            assert await swept(client) == []


async def test_nothing_that_a_row_knows_is_lost_to_deletions_meanwhile(tmp_path: Path) -> None:
    async with running_system(tmp_path / "data", worker=False) as system, system.client() as client:
        assets, items = await filled(client, 8, 5000)

        async def discarding(tx: AsyncConnection) -> AsyncIterator[KnownBlob]:
            # The databases are copied, the blobs are not: now everything is thrown away.
            for asset_id in assets:
                await client.discard(asset_id)
            for item_id in items:
                await client.delete_item(item_id)
            async for blob in kept_by("asset")(tx):
                yield blob

        which = [
            dataclasses.replace(each, kept_blobs=discarding) if each.name == "asset" else each for each in services()
        ]
        await made(system, tmp_path / "backups", which)
        left = await client.assets()
        assert len(left) == 0
    settings = load_like(system, tmp_path / "restored")
    await restore(settings, services(), tmp_path / "backups", tell=silent)
    assert await unmatched(settings) == {"without rows": [], "without blobs": []}
    async with running_system(tmp_path / "restored", worker=False) as restored:
        async with AsyncAtelier(restored.url, system_key(tmp_path)) as client:
            assert {asset.asset_id for asset in await client.assets()} == set(assets)
            assert await swept(client) == []
            for item_id in items:
                await client.download(await client.get_item(item_id), tmp_path / "back")


async def test_a_backup_of_postgresql_is_one_moment_too(
    tmp_path: Path, migrated_postgres_url: str, postgres_url: str
) -> None:
    source, target = migrated_postgres_url, postgres_url
    async with running_system(tmp_path / "data", core__database_url=source) as system, system.client() as client:
        assets, items = await filled(client, 4, 6000)
        async with at_work(client) as ended:
            for _ in range(2):
                await ended.get()
            await made(system, tmp_path / "backups")
    settings = load_like(system, tmp_path / "restored", core__database_url=target)
    with pytest.raises(FailedPrecondition, match="the same kind of database"):
        await restore(load_like(system, tmp_path / "files"), services(), tmp_path / "backups", tell=silent)
    await restore(settings, services(), tmp_path / "backups", tell=silent)
    assert await unmatched(settings) == {"without rows": [], "without blobs": []}
    with pytest.raises(FailedPrecondition, match="has tables"):
        await restore(
            load_like(system, tmp_path / "other", core__database_url=target),
            services(),
            tmp_path / "backups",
            tell=silent,
        )
    async with running_system(tmp_path / "restored", worker=False, core__database_url=target) as restored:
        async with AsyncAtelier(restored.url, system_key(tmp_path)) as client:
            assert await swept(client) == []
            for item_id in items:
                await client.download(await client.get_item(item_id), tmp_path / "back")
            assert set(assets) <= {asset.asset_id for asset in await client.assets(page_size=200)}
            for job in await client.list_jobs(state="succeeded", page_size=200):
                assert len(await client.assets(job.job_id)) == 2
            # What counts goes on counting.
            uploaded = await client.upload(picture_bytes(6900), "new.png")
            (saved,) = await client.save(uploaded.asset_id)
            assert saved.item is not None


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
async def test_buckets_are_backed_up_and_restored_to_buckets_and_to_a_folder(
    tmp_path: Path, database: str, request: pytest.FixtureRequest, gcs_emulator: str, gcs_url: str
) -> None:
    """A bucket gives its objects generations of its own: the rows know them after the restore."""
    is_postgres = database == "postgresql"
    source = str(request.getfixturevalue("migrated_postgres_url")) if is_postgres else ""
    changes = {"core__database_url": source, "blobs__url": gcs_url}
    # Nothing is made between the two backups: of what is there the second one copies nothing.
    idle = changes | {"asset__fill_renditions": "false"}
    async with running_system(tmp_path / "data", worker=False, **idle) as system, system.client() as client:
        assets, items = await filled(client, 4, 6500)
        first = await made(system, tmp_path / "backups")
        again = await made(system, tmp_path / "backups")
        assert (again.new_blobs, again.missing) == (0, [])
        assert again.manifest.blobs == first.manifest.blobs >= len(assets) + len(items)
        wanted = [await client.get_asset(asset_id) for asset_id in assets]
    with pytest.raises(FailedPrecondition, match=r"bucket .* is not empty"):
        await restore(load_like(system, tmp_path / "x", **changes), services(), tmp_path / "backups", tell=silent)
    make_buckets(gcs_emulator, f"{gcs_url.removeprefix('gs://')}-new")
    for place, blobs_url in (("bucket", f"{gcs_url}-new"), ("folder", "")):
        if is_postgres and place == "folder":
            continue  # Restored above on SQLite; another empty database would add nothing.
        target = str(request.getfixturevalue("postgres_url")) if is_postgres else ""
        changes = {"core__database_url": target, "blobs__url": blobs_url}
        await restore(load_like(system, tmp_path / place, **changes), services(), tmp_path / "backups", tell=silent)
        async with running_system(tmp_path / place, worker=False, **changes) as restored:
            async with AsyncAtelier(restored.url, system_key(tmp_path)) as client:
                assert await swept(client) == []
                for asset in wanted:
                    there = await client.get_asset(asset.asset_id)
                    assert there.media == asset.media
                    await client.download(there, tmp_path / f"{place}-{there.asset_id}")
                for item_id in items:
                    await client.download(await client.get_item(item_id), tmp_path / "back")


async def test_a_backup_says_what_is_missing_and_keeps_what_an_earlier_snapshot_has(tmp_path: Path, run: Run) -> None:
    data, backups = tmp_path / "data", tmp_path / "backups"
    async with running_system(data, worker=False) as system, system.client() as client:
        early = await client.upload(picture_bytes(9201), "early.png")
        assert (await made(system, backups)).missing == []
        late = await client.upload(picture_bytes(9202), "late.png")
        store = LocalBlobStore(system.settings.blobs_dir)
        gone = {asset.media.sha256: asset for asset in (early, late)}
        infos = {info.sha256: info async for info in store.list("workspace-temp") if info.sha256 in gone}
        for info in infos.values():
            await store.delete(info.bucket, info.key, info.generation)
        command = ("--data-dir", str(data), "backup", str(backups))
        told = await asyncio.to_thread(run, *command)
        assert told.code == INCOMPLETE
        said = {line for line in told.err.splitlines() if line.startswith("missing:")}
        where = {digest: f"{info.bucket}/{info.key}" for digest, info in infos.items()}
        assert len(said) == 2
        assert any(where[late.media.sha256] in line and "no snapshot has it" in line for line in said)
        assert any(where[early.media.sha256] in line and "this one keeps it" in line for line in said)
        done = await asyncio.to_thread(run, "--json", *command, "--allow-missing")
        assert done.code == 0
        assert sorted(done.json["missing"]) == sorted(where.values())
        assert done.json["lost"] == [where[late.media.sha256]]
    await restore(load_like(system, tmp_path / "restored"), services(), backups, tell=silent)
    async with running_system(tmp_path / "restored", worker=False) as restored:
        async with AsyncAtelier(restored.url, system_key(tmp_path)) as client:
            await client.download(await client.get_asset(early.asset_id), tmp_path / "back")
            assert [found["subject"] for found in await swept(client)] == [f"asset {late.asset_id}"]


async def test_a_blob_that_is_torn_stops_no_backup_and_is_kept_whole(tmp_path: Path, run: Run) -> None:
    """Torn in the store it is missing there, and an earlier snapshot has it; torn in the backup it is copied again."""
    data, backups = tmp_path / "data", tmp_path / "backups"
    async with running_system(data, worker=False) as system, system.client() as client:
        early, torn = [await client.upload(picture_bytes(9300 + number), "p.png") for number in range(2)]
        assert (await made(system, backups)).missing == []
        store = LocalBlobStore(system.settings.blobs_dir)
        places = {info.sha256: f"{info.bucket}/{info.key}" async for info in store.list("workspace-temp")}
        where = {asset.asset_id: places[asset.media.sha256] for asset in (early, torn)}

        def cut(root: Path, asset_id: str) -> None:
            os.truncate(root / f"{where[asset_id]}.blob" / "data", 3)

        cut(system.settings.blobs_dir, early.asset_id)
        cut(backups / BLOBS, torn.asset_id)
        told = await asyncio.to_thread(run, "--data-dir", str(data), "backup", str(backups))
        assert told.code == INCOMPLETE
        [line] = [line for line in told.err.splitlines() if line.startswith("missing:")]
        assert where[early.asset_id] in line and "this one keeps it" in line
        # In both places: now nobody has it.
        cut(backups / BLOBS, early.asset_id)
        done = await made(system, backups)
        assert [f"{bucket}/{key}" for bucket, key in done.missing] == [where[early.asset_id]]
        # What no snapshot lists any more goes from the backup, though it is torn.
        assert (backups / BLOBS / f"{where[early.asset_id]}.blob").exists()
        for _ in range(2):
            await made(system, backups)
        assert not (backups / BLOBS / f"{where[early.asset_id]}.blob").exists()
    await restore(load_like(system, tmp_path / "restored"), services(), backups, tell=silent)
    async with running_system(tmp_path / "restored", worker=False) as restored:
        async with AsyncAtelier(restored.url, system_key(tmp_path)) as client:
            await client.download(await client.get_asset(torn.asset_id), tmp_path / "back")


async def test_a_pause_that_lapsed_is_no_backup(tmp_path: Path) -> None:
    async with running_system(tmp_path / "data", worker=False) as system, system.client() as client:
        await filled(client, 2, 7000)
        with pytest.raises(Aborted, match="lapsed"):
            await made(system, tmp_path / "backups", pause=timedelta(0))
        with pytest.raises(FailedPrecondition, match="no complete backup"):
            await restore(load_like(system, tmp_path / "x"), services(), tmp_path / "backups", tell=silent)
        done = await made(system, tmp_path / "backups")
        assert [folder.name for folder in (tmp_path / "backups" / "snapshots").iterdir()] == [done.folder.name]


async def test_a_restore_that_was_killed_goes_on_and_damage_is_found(tmp_path: Path) -> None:
    backups = tmp_path / "backups"
    async with running_system(tmp_path / "data", worker=False) as system, system.client() as client:
        await filled(client, 10, 8000)
        await made(system, backups)

    def killed(copied: Copied) -> None:
        raise ResourceExhausted("killed")

    settings = load_like(system, tmp_path / "restored")
    with pytest.raises(ResourceExhausted):
        await restore(settings, services(), backups, tell=killed)
    await restore(settings, services(), backups, tell=silent)
    assert await unmatched(settings) == {"without rows": [], "without blobs": []}
    with pytest.raises(FailedPrecondition, match="is not empty"):
        await restore(settings, services(), backups, tell=silent)
    damaged = sorted((backups / BLOBS).rglob("data"))[0]
    damaged.write_bytes(b"x" + damaged.read_bytes()[1:])
    with pytest.raises(InvalidArgument, match="SHA-256"):
        await restore(load_like(system, tmp_path / "second"), services(), backups, tell=silent)
    file = next(backups.rglob("library.sqlite3"))
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(FailedPrecondition, match="not what was written"):
        await restore(load_like(system, tmp_path / "third"), services(), backups, tell=silent)


async def test_old_snapshots_and_their_blobs_go(tmp_path: Path) -> None:
    backups = tmp_path / "backups"
    async with running_system(tmp_path / "data", worker=False) as system, system.client() as client:
        first = await client.upload(picture_bytes(9001), "first.png")
        await back_up(system.settings, services(), backups, keep=1, tell=silent)
        await client.discard(first.asset_id)
        async with asyncio.timeout(20):
            store = LocalBlobStore(system.settings.blobs_dir)
            # The store tells it only to those who look.
            while [i async for i in store.list("workspace-temp") if i.sha256 == first.media.sha256]:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await client.upload(picture_bytes(9002), "second.png")
        done = await back_up(system.settings, services(), backups, keep=1, tell=silent)
    assert [folder.name for folder in (backups / "snapshots").iterdir()] == [done.folder.name]
    kept = [info.sha256 async for info in LocalBlobStore(backups / BLOBS).list("workspace-temp")]
    assert first.media.sha256 not in kept
    assert len(kept) == done.manifest.blobs


async def test_the_commands_make_and_restore_a_backup(tmp_path: Path, run: Run) -> None:
    async with running_system(tmp_path / "data", worker=False) as system, system.client() as client:
        asset = await client.upload(picture_bytes(9100), "one.png")
        at_data = ("--data-dir", str(tmp_path / "data"), "--json")
        done = await asyncio.to_thread(run, *at_data, "backup", str(tmp_path / "backups"))
        assert done.code == 0, done.err
        assert done.json["blobs"] >= 1
    words = ("--data-dir", str(tmp_path / "restored"))
    done = await asyncio.to_thread(run, *words, "restore", str(tmp_path / "backups"))
    assert (done.code, done.err) == (0, "")
    async with running_system(tmp_path / "restored", worker=False) as restored, restored.client() as client:
        assert (await client.get_asset(asset.asset_id)).filename == "one.png"
    assert (await asyncio.to_thread(run, *words, "restore", str(tmp_path / "backups"))).code == 2
    assert (await asyncio.to_thread(run, *words, "backup", str(tmp_path / "b"), "--keep", "0")).code == 2


async def swept(client: AsyncAtelier) -> list[Any]:
    """Return what the sweep of a running system finds."""
    found: list[Any] = []
    for bucket in ("workspace", "library"):
        token = ""
        while True:
            page = await client.sweep(bucket, dry_run=True, page_token=token)
            found += [finding.raw for finding in page]
            token = page.next_page_token
            if not token:
                break
    return found


def kept_by(name: str) -> Any:
    return next(service.kept_blobs for service in services() if service.name == name)


def load_like(system: System, data_dir: Path, **changes: str) -> Settings:
    return for_tests(data_dir, **changes)


def system_key(tmp_path: Path) -> str:
    """Return the key of the system that was backed up: it is the restored one's."""
    return (tmp_path / "data" / "keys" / "admin.key").read_text("utf-8").strip()


@contextlib.asynccontextmanager
async def at_work(client: AsyncAtelier) -> AsyncIterator[asyncio.Queue[str]]:
    """Have jobs made and saved until the end of the block. Gives the ids of those that have succeeded."""
    ended: asyncio.Queue[str] = asyncio.Queue(1000)

    async def work() -> None:
        while True:
            job = await client.generate("a mill by a stream", model="sdxl", format="image", quantity=2, quality="draft")
            await client.save(*(asset.asset_id for asset in job.assets[:1]))
            ended.put_nowait(job.job.job_id)

    workers = [asyncio.create_task(work()) for _ in range(3)]
    try:
        yield ended
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def newest_cursor(client: AsyncAtelier) -> str:
    """Return a cursor of the stream of events, as a browser keeps it."""
    async with client._http.stream("GET", f"{client.url}/v1/events/items", headers=client._headers) as response:
        async for line in response.aiter_lines():
            if line.startswith("id:"):
                return line[3:].strip()
    raise LookupError("the stream has no cursor")


async def begins_with_a_snapshot(client: AsyncAtelier, cursor: str) -> bool:
    """Tell whether a watcher that comes back is given everything anew."""
    headers = {**client._headers, "last-event-id": cursor}
    async with client._http.stream("GET", f"{client.url}/v1/events/items", headers=headers) as response:
        async for line in response.aiter_lines():
            if line.startswith("data:"):
                return "snapshot" in json.loads(line[5:])
    return False
