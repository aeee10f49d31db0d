"""Restoring a backup on an empty machine. A restore that was killed goes on when it is run again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path

from service_kit.backup import postgres_tables
from service_kit.backup.blob_copies import Copied, put_back_blobs
from service_kit.backup.manifest import (
    BLOBS,
    MANIFEST,
    Manifest,
    blob_entries,
    complete_snapshots,
    read_manifest,
    sync_folder,
    write_file,
)
from service_kit.backup.source import Databases, Place, Service, databases_of
from service_kit.backup.sqlite_files import check_stored, put_back
from service_kit.blobs import GCS_SCHEME, LIBRARY_BUCKET, WORKSPACE_BUCKET, open_store
from service_kit.blobs.local import LocalBlobStore
from service_kit.database import Database
from service_kit.errors import FailedPrecondition
from service_kit.migrate import newest_revision, upgrade
from service_kit.settings import Settings

_MARK = "RESTORING"


async def restore(
    settings: Settings, services: Sequence[Service], source: Path, *, tell: Callable[[Copied], None]
) -> Manifest:
    """Put everything of a backup's newest snapshot in its place. Returns the snapshot's manifest.

    Args:
        settings: where to.
        services: what is restored.
        source: a folder that `back_up` wrote, or one snapshot in it.
        tell: called with what was copied so far.

    Raises:
        FailedPrecondition: the machine is not empty, the backup is damaged or of another release, or it cannot be
            restored to where the settings say.
        InvalidArgument: the bytes of a blob are not what they were.
    """
    folder, root = await asyncio.to_thread(_chosen, source)
    manifest = await asyncio.to_thread(read_manifest, folder)
    databases = databases_of(settings, services)
    _check_fits(manifest, databases, services)
    await _check_empty(settings, databases, services, folder)
    for file in (*(file for stored in manifest.databases.values() for file in stored.files), *manifest.keys):
        await asyncio.to_thread(check_stored, folder, file)
    await asyncio.to_thread(check_stored, folder, manifest.blob_list)
    await asyncio.to_thread(_mark, settings.core.data_dir, folder)
    store = open_store(settings)
    try:
        changed = await put_back_blobs(blob_entries(folder), LocalBlobStore(root / BLOBS), store, tell)
    finally:
        await store.close()
    await asyncio.to_thread(_put_back_keys, settings.keys_dir, folder, manifest)
    # The databases last: what they know is there already.
    for service in services:
        files = [folder / file.path for file in manifest.databases[service.name].files]
        if databases.postgres_url:
            await _load(databases, service, files, manifest.databases[service.name].revision, changed)
        else:
            target = databases.files[service.name]
            await asyncio.to_thread(target.parent.mkdir, mode=0o700, parents=True, exist_ok=True)
            await asyncio.to_thread(put_back, files[0], target)
            if changed:
                await _bring_up_to_date(databases, service, changed)
    await asyncio.to_thread((settings.core.data_dir / _MARK).unlink)
    return manifest


async def _bring_up_to_date(databases: Databases, service: Service, changed: Mapping[Place, str]) -> None:
    """Bring a restored file to this release, and have it know the generations of the blobs as they are now."""
    db = Database(databases.url(service.name))
    try:
        await upgrade(db, service.migrations)
        await _regenerate(db, service, changed)
    finally:
        await db.close()


async def _regenerate(db: Database, service: Service, changed: Mapping[Place, str]) -> None:
    if service.regenerate is not None and changed:
        async with db.write() as tx:
            await service.regenerate(tx, changed)


async def _load(
    databases: Databases, service: Service, files: Sequence[Path], revision: str, changed: Mapping[Place, str]
) -> None:
    db = Database(databases.url(service.name), schema=service.name, connections=2)
    try:
        await upgrade(db, service.migrations, to=revision)
        async with db.write() as tx:
            await postgres_tables.copy_in(tx, service.name, files)
        await upgrade(db, service.migrations)
        await _regenerate(db, service, changed)
    finally:
        await db.close()


def _chosen(source: Path) -> tuple[Path, Path]:
    """Return the snapshot to restore, and the folder that has its blobs."""
    if (source / MANIFEST).is_file():
        return source, source.parent.parent
    complete = complete_snapshots(source)
    if not complete:
        raise FailedPrecondition(f"There is no complete backup in {source}.")
    return complete[-1], source


def _check_fits(manifest: Manifest, databases: Databases, services: Sequence[Service]) -> None:
    if manifest.kind != databases.kind:
        raise FailedPrecondition(
            f"The backup is of {manifest.kind}, and core.database_url says {databases.kind}: "
            "restore to the same kind of database."
        )
    for service in services:
        stored, newest = manifest.databases.get(service.name), newest_revision(service.migrations)
        if stored is None or stored.revision > newest:
            raise FailedPrecondition(
                f"The backup was made by release {manifest.release}; restore it with that one or a newer."
            )


async def _check_empty(settings: Settings, databases: Databases, services: Sequence[Service], folder: Path) -> None:
    """Raise FailedPrecondition unless there is nothing, or only what an earlier run of this restore has left."""
    if await asyncio.to_thread(_is_marked, settings.core.data_dir, folder):
        return
    await asyncio.to_thread(_check_folders_empty, settings)
    if settings.blobs.url.startswith(GCS_SCHEME):
        await _check_buckets_empty(settings)
    for service in services if databases.postgres_url else ():
        db = Database(databases.url(service.name), schema=service.name, connections=2)
        try:
            async with db.read() as tx:
                if await postgres_tables.has_tables(tx, service.name):
                    raise FailedPrecondition(
                        f"The schema {service.name} of the database has tables. A backup is restored to an empty one."
                    )
        finally:
            await db.close()


def _check_folders_empty(settings: Settings) -> None:
    places = [settings.core.data_dir]
    if settings.blobs.url and not settings.blobs.url.startswith(GCS_SCHEME):
        places.append(Path(settings.blobs.url).expanduser())
    for place in places:
        found = sorted(place.iterdir()) if place.is_dir() else []
        if found:
            raise FailedPrecondition(
                f"The folder {place} is not empty: it has {found[0].name}. A backup is restored to an empty machine."
            )


async def _check_buckets_empty(settings: Settings) -> None:
    store = open_store(settings)
    try:
        for bucket in (WORKSPACE_BUCKET, LIBRARY_BUCKET):
            async with aclosing(store.look(bucket)) as listed:
                async for found in listed:
                    raise FailedPrecondition(
                        f"The bucket {bucket} of {settings.blobs.url} is not empty: it has {found.key}. "
                        "A backup is restored to empty buckets."
                    )
    finally:
        await store.close()


def _mark(data_dir: Path, folder: Path) -> None:
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_file(data_dir / _MARK, f"{folder.resolve()}\n".encode())


def _is_marked(data_dir: Path, folder: Path) -> bool:
    try:
        return (data_dir / _MARK).read_text("utf-8") == f"{folder.resolve()}\n"
    except (FileNotFoundError, NotADirectoryError):
        return False


def _put_back_keys(keys_dir: Path, folder: Path, manifest: Manifest) -> None:
    keys_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    for file in manifest.keys:
        write_file(keys_dir / Path(file.path).name, (folder / file.path).read_bytes())
    sync_folder(keys_dir)
