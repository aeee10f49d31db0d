"""What the sweeps say when a run is over: nothing, or something was left that no rule explains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import asset_service.storage
import asset_service.sweep
import library_service.storage
import library_service.sweep
from asset_service.locks import UploadLocks
from asset_service.removal import Removal
from asset_service.spool import Spool
from faults.finding import Finding
from service_kit.blobs import BlobStore, open_store
from service_kit.database import Database
from service_kit.settings import Settings, load
from service_kit.sweeping import Page, sweep_all


async def sweep(data: Path, database_url: str) -> list[Finding]:
    """Compare both buckets with their rows, as `atelier sweep --dry-run` does; no service may run."""
    settings = load({"core.data_dir": str(data), "core.database_url": database_url})
    store = open_store(settings)
    found = []
    try:
        for service, page_of in _PAGES.items():
            db = await Database.open_service(settings, service)
            try:
                found += await sweep_all(page_of(settings, db, store), dry_run=True)
            finally:
                await db.close()
    finally:
        await store.close()
    return [Finding("sweep", f"{each.kind} {each.subject or each.key}: {each.explanation}") for each in found]


def _workspace(settings: Settings, db: Database, store: BlobStore) -> Page:
    storage, folder = asset_service.storage.Storage(db), settings.service_dir("asset")
    removal = Removal(storage, store, Spool(folder / "spool"), UploadLocks(folder / "uploads.lock"))
    return asset_service.sweep.Sweep(storage, store, removal).page


def _library(settings: Settings, db: Database, store: BlobStore) -> Page:
    return library_service.sweep.Sweep(library_service.storage.Storage(db), store, _delete_nothing).page


async def _delete_nothing() -> None:
    raise RuntimeError("a dry run was about to delete")


_PAGES: Mapping[str, Callable[[Settings, Database, BlobStore], Page]] = {"asset": _workspace, "library": _library}
