"""Making a backup of a system that is running, or stands still.

Deletions are paused; then one moment of all databases is copied; then the blobs that the databases knew at that moment.
A second run into the same folder copies only what is new.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from service_kit.backup import postgres_tables
from service_kit.backup.blob_copies import Copied, keep_blobs, prune
from service_kit.backup.manifest import (
    BLOB_LIST,
    BLOBS,
    MANIFEST,
    SNAPSHOTS,
    Manifest,
    StoredDatabase,
    StoredFile,
    blob_entries,
    complete_snapshots,
    sync_folder,
    write_file,
)
from service_kit.backup.source import Databases, KnownBlob, Place, Service, databases_of
from service_kit.backup.sqlite_files import copy_at_one_moment, stored
from service_kit.blobs import erase, open_store
from service_kit.blobs.local import LocalBlobStore
from service_kit.clock import rfc3339
from service_kit.database import Database
from service_kit.deletion_pause import begin_pause, end_pause, extend_pause
from service_kit.errors import Aborted, FailedPrecondition
from service_kit.folder_lock import FolderLock
from service_kit.migrate import newest_revision, stored_revision
from service_kit.settings import Settings
from service_kit.version import __version__

PAUSE = timedelta(minutes=5)
_EXTEND_EVERY_S = 60.0
Tell = Callable[[Copied], None]
Keys = Callable[[], AsyncGenerator[KnownBlob]]


@dataclass(frozen=True, slots=True)
class Done:
    """A backup that was made: where, what it has, and the blobs that the store should have had and did not."""

    folder: Path
    manifest: Manifest
    new_blobs: int
    missing: Sequence[Place] = ()


async def back_up(
    settings: Settings, services: Sequence[Service], root: Path, *, keep: int, tell: Tell, pause: timedelta = PAUSE
) -> Done:
    """Add a snapshot to a folder of backups, and remove all but the newest `keep`.

    Raises:
        FailedPrecondition: a database is not of this release, is in several places, or is damaged; or somebody else
            makes a backup into the same folder.
        Aborted: the pause of deletions lapsed: the machine stood still for too long. Nothing was kept; try again.
        OSError: the folder cannot be written.
    """
    databases = databases_of(settings, services)
    for folder in (root, root / SNAPSHOTS, root / BLOBS):
        await asyncio.to_thread(folder.mkdir, mode=0o700, parents=True, exist_ok=True)
    lock = FolderLock(root, "backup")
    await asyncio.to_thread(lock.acquire)
    try:
        await asyncio.to_thread(_remove_incomplete, root)
        async with _open(databases, services) as opened:
            await _check_revisions(opened, services)
            pausing = [opened[service.name] for service in services if service.kept_blobs is not None]
            async with _deletions_paused(pausing, pause) as still_paused:
                done = await _snapshot(settings, services, databases, opened, root, tell)
                await still_paused()
                await asyncio.to_thread(done.manifest.write, done.folder)
        await _prune(root, keep)
        return done
    finally:
        lock.release()


async def _snapshot(
    settings: Settings,
    services: Sequence[Service],
    databases: Databases,
    opened: dict[str, Database],
    root: Path,
    tell: Tell,
) -> Done:
    now = datetime.now(UTC)
    folder = root / SNAPSHOTS / now.strftime("%Y%m%dT%H%M%S.%fZ")
    await asyncio.to_thread(folder.mkdir, mode=0o700)
    keys = await asyncio.to_thread(_copy_keys, settings.keys_dir, folder)
    kept, store = LocalBlobStore(root / BLOBS), open_store(settings)
    try:
        if databases.postgres_url:
            stored_databases, known = await _from_postgres(services, opened, folder)
        else:
            stored_databases, known = await _from_files(services, databases, opened, folder)
        with await asyncio.to_thread(_new_list, folder) as entries:
            async with aclosing(known()) as wanted:
                copied = await keep_blobs(wanted, store, kept, entries, tell)
    finally:
        await store.close()
    manifest = Manifest(
        created_at=rfc3339(now),
        release=__version__,
        kind=databases.kind,
        databases=stored_databases,
        keys=keys,
        blob_list=await asyncio.to_thread(stored, folder / BLOB_LIST, folder),
        blobs=copied.blobs,
        blob_bytes=copied.blob_bytes,
        lost=tuple(f"{bucket}/{key}" for bucket, key in sorted(set(copied.lost))),
        settings={row.name: row.value for row in settings.explain()},
    )
    return Done(folder, manifest, copied.new, sorted(set(copied.missing)))


async def _from_files(
    services: Sequence[Service],
    databases: Databases,
    opened: dict[str, Database],
    folder: Path,
) -> tuple[dict[str, StoredDatabase], Keys]:
    """Copy the files. Returns them, and what gives the blobs that the copies know."""
    revisions = {name: await stored_revision(db) or "" for name, db in opened.items()}
    copies = await asyncio.to_thread(copy_at_one_moment, databases.files, folder)
    readers: list[tuple[Service, Path]] = [(service, folder / copies[service.name].path) for service in services]

    async def known() -> AsyncGenerator[KnownBlob]:
        for service, path in readers:
            if service.kept_blobs is None:
                continue
            db = Database(f"sqlite+aiosqlite:///{path}")
            try:
                async with db.read() as tx:
                    async for blob in service.kept_blobs(tx):
                        yield blob
            finally:
                await db.close()

    return {name: StoredDatabase(revisions[name], (copy,)) for name, copy in copies.items()}, known


async def _from_postgres(
    services: Sequence[Service], opened: dict[str, Database], folder: Path
) -> tuple[dict[str, StoredDatabase], Keys]:
    """Copy the tables. Returns them, and what gives the blobs that they know."""
    found: dict[str, StoredDatabase] = {}
    listed = folder / "known.partial"
    async with postgres_tables.one_moment(opened[services[0].name]) as tx:
        with await asyncio.to_thread(listed.open, "w", encoding="utf-8") as file:
            for service in services:
                await postgres_tables.look_into(tx, service.name)
                files = await postgres_tables.copy_out(tx, service.name, folder / service.name, folder)
                found[service.name] = StoredDatabase(newest_revision(service.migrations), files)
                if service.kept_blobs is not None:
                    async for blob in service.kept_blobs(tx):
                        file.write(f"{blob.bucket}\t{blob.key}\t{blob.generation}\n")

    async def known() -> AsyncGenerator[KnownBlob]:
        with listed.open(encoding="utf-8") as lines:
            for line in lines:
                yield KnownBlob(*line.rstrip("\n").split("\t"))
        listed.unlink()

    return found, known


@asynccontextmanager
async def _open(databases: Databases, services: Sequence[Service]) -> AsyncIterator[dict[str, Database]]:
    """Open the databases beside whoever uses them."""
    opened: dict[str, Database] = {}
    try:
        for service in services:
            name = service.name
            if not databases.postgres_url and not databases.files[name].is_file():
                raise FailedPrecondition(f"There is nothing to back up: {databases.files[name]} is not there.")
            opened[name] = Database(databases.url(name), schema=databases.schema(name), connections=2)
        yield opened
    finally:
        for db in opened.values():
            await db.close()


async def _check_revisions(opened: dict[str, Database], services: Sequence[Service]) -> None:
    for service in services:
        found, newest = await stored_revision(opened[service.name]), newest_revision(service.migrations)
        if found != newest:
            raise FailedPrecondition(
                f"The database of the {service.name} service has schema {found or 'none'}, and this release has "
                f"{newest}: run the release of the services, or `atelier migrate` first."
            )


@asynccontextmanager
async def _deletions_paused(
    opened: Sequence[Database], length: timedelta
) -> AsyncIterator[Callable[[], asyncio.Future[None]]]:
    """Have no blob deleted until the end of the block; what it gives checks that none could be so far."""
    tokens = [(db, await begin_pause(db, length)) for db in opened]

    async def extend() -> None:
        for db, token in tokens:
            if not await extend_pause(db, token, length):
                raise Aborted(
                    "The pause of deletions lapsed, or another backup took it over: blobs may be missing. Try again."
                )

    async def extend_regularly() -> None:
        while True:
            await asyncio.sleep(min(_EXTEND_EVERY_S, length.total_seconds() / 3))
            await extend()

    renewing = asyncio.create_task(extend_regularly(), name="backup-pause")
    try:
        yield lambda: asyncio.ensure_future(extend())
    finally:
        renewing.cancel()
        # Why it ended is told by the last check.
        await asyncio.gather(renewing, return_exceptions=True)
        for db, token in tokens:
            await end_pause(db, token)


def _copy_keys(keys_dir: Path, folder: Path) -> tuple[StoredFile, ...]:
    target = folder / "keys"
    target.mkdir(mode=0o700)
    files = []
    for path in sorted(keys_dir.iterdir()) if keys_dir.is_dir() else ():
        if path.is_file() and not path.name.startswith("."):
            write_file(target / path.name, path.read_bytes())
            files.append(stored(target / path.name, folder))
    return tuple(files)


def _new_list(folder: Path) -> BinaryIO:
    path = folder / BLOB_LIST
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")


def _remove_incomplete(root: Path) -> None:
    for folder in (root / SNAPSHOTS).iterdir():
        if folder.is_dir() and not (folder / MANIFEST).exists():
            shutil.rmtree(folder)


async def _prune(root: Path, keep: int) -> None:
    """Remove old snapshots, and the blobs that no snapshot lists any more."""
    complete = await asyncio.to_thread(complete_snapshots, root)
    for folder in complete[:-keep]:
        # Without its manifest it is not complete: a crash here leaves nothing that could be restored by halves.
        with suppress(FileNotFoundError):
            await asyncio.to_thread((folder / MANIFEST).unlink)
        await asyncio.to_thread(shutil.rmtree, folder)
    await asyncio.to_thread(sync_folder, root / SNAPSHOTS)
    kept = LocalBlobStore(root / BLOBS)
    lists = (blob_entries(folder) for folder in complete[-keep:])
    for bucket, key in await asyncio.to_thread(lambda: list(prune(root / BLOBS, lists))):
        await erase(kept, bucket, key)
