"""Fresh SQLite files with a service's schema, as copies of one that was migrated: that costs more than most tests."""

from __future__ import annotations

import asyncio
import functools
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from service_kit.database import Database
from service_kit.migrate import upgrade
from service_kit.settings import Settings


async def put_migrated(settings: Settings, *services: str) -> None:
    """Write the empty databases of services, such as `asset`, unless they are there or the settings name others."""
    for service in services:
        await asyncio.to_thread(_put, settings, service)


def _put(settings: Settings, service: str) -> None:
    if settings.value(f"{service}.database_url") or settings.core.database_url:
        return
    folder = settings.service_dir(service)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{service}.sqlite3"
    if not path.exists():
        path.write_bytes(_template(service))


@functools.cache
def _template(service: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as thread:
        path = Path(folder) / "template.sqlite3"
        # In a thread, since whoever asks may run in an event loop.
        thread.submit(asyncio.run, _migrate(service, path)).result()
        return path.read_bytes()


async def _migrate(service: str, path: Path) -> None:
    db = Database(f"sqlite+aiosqlite:///{path}")
    try:
        await upgrade(db, f"{service}_service.storage.migrations")
    finally:
        await db.close()
