"""What the sweeps say when a run is over: nothing, or something was left that no rule explains."""

from __future__ import annotations

from pathlib import Path

from asset_service.locks import UploadLocks
from asset_service.removal import Removal
from asset_service.spool import Spool
from asset_service.storage import Storage
from asset_service.sweep import Sweep
from faults.finding import Finding
from service_kit.blobs import open_store
from service_kit.database import Database
from service_kit.settings import load
from service_kit.sweeping import sweep_all


async def sweep(data: Path, database_url: str) -> list[Finding]:
    """Compare the workspace's bucket with its rows; nothing is deleted, and no service may run."""
    settings = load({"core.data_dir": str(data), "core.database_url": database_url})
    db = await Database.open_service(settings, "asset")
    try:
        storage, store, folder = Storage(db), open_store(settings), settings.service_dir("asset")
        removal = Removal(storage, store, Spool(folder / "spool"), UploadLocks(folder / "uploads.lock"))
        found = await sweep_all(Sweep(storage, store, removal).page, dry_run=True)
    finally:
        await db.close()
    return [Finding("sweep", f"{each.kind} {each.subject or each.key}: {each.explanation}") for each in found]
