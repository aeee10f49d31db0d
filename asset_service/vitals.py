"""Whether the asset service can work: its database and its blob store, looked at every few seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

from asset_service.storage import Storage
from service_kit.blobs import WORKSPACE_BUCKET, BlobStore
from service_kit.health import HealthBoard
from service_kit.telemetry import get_logger

log = get_logger(__name__)
_INTERVAL = timedelta(seconds=5)
_LIMIT = timedelta(seconds=5)


class Vitals:
    """Keeps the health board true."""

    def __init__(self, health: HealthBoard, storage: Storage, store: BlobStore) -> None:
        self._health = health
        self._storage = storage
        self._store = store

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(_INTERVAL.total_seconds())
            await self.look()

    async def look(self) -> None:
        """Look once."""
        await self._check("database", self._storage.ping)
        await self._check("blob_store", self._ask_store)

    async def _ask_store(self) -> None:
        await self._store.stat(WORKSPACE_BUCKET, "health")

    async def _check(self, name: str, ask: Callable[[], Awaitable[object]]) -> None:
        try:
            async with asyncio.timeout(_LIMIT.total_seconds()):
                await ask()
        except Exception as error:  # noqa: BLE001 - whatever it is, the dependency does not work
            log.warning("dependency_failed", dependency=name, error=repr(error))
            self._health.set(name, False, type(error).__name__)
        else:
            self._health.set(name, True)
