"""What the library does by itself: pays the outbox, sweeps blobs, trims events, looks at what it depends on."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from library_service.clients import AssetControl
from library_service.outbox import Deliveries
from library_service.removal import Removal
from library_service.storage import Storage
from service_kit.blobs import LIBRARY_BUCKET, BlobStore
from service_kit.health import HealthBoard
from service_kit.tasks import BackgroundTasks

_DELIVERY_EVERY_S = 0.5
_SWEEP_EVERY_S = 15.0
_TRIM_EVERY_S = 600.0
_HEALTH_EVERY_S = 5.0


class Upkeep:
    """The loops of one library service."""

    def __init__(
        self,
        *,
        storage: Storage,
        store: BlobStore,
        assets: AssetControl,
        deliveries: Deliveries,
        removal: Removal,
        health: HealthBoard,
        retention_events: timedelta,
    ) -> None:
        self._storage = storage
        self._store = store
        self._assets = assets
        self._deliveries = deliveries
        self._removal = removal
        self._health = health
        self._retention_events = retention_events

    def start(self, tasks: BackgroundTasks) -> None:
        """Start every loop."""
        tasks.start("library.outbox", self._deliver)
        tasks.start("library.sweep", self._sweep)
        tasks.start("library.trim", self._trim)
        tasks.start("library.health", self._look)

    async def look_once(self) -> None:
        """Write to the health board what the service depends on. Items can be read without the asset service."""
        await self._look_at_database()
        try:
            await self._store.stat(LIBRARY_BUCKET, "health")
            self._health.set("blobs", True)
        except OSError as error:
            self._health.set("blobs", False, error.strerror or "it cannot be read")
        fault = await self._assets.health()
        self._health.set("asset_service", not fault, fault, required=False)

    async def _look_at_database(self) -> None:
        async with self._storage.read() as tx:
            await tx.now()
        self._health.set("database", True)

    async def _deliver(self) -> None:
        while True:
            await self._deliveries.deliver_due()
            await asyncio.sleep(_DELIVERY_EVERY_S)

    async def _sweep(self) -> None:
        while True:
            await self._removal.sweep()
            await asyncio.sleep(_SWEEP_EVERY_S)

    async def _trim(self) -> None:
        while True:
            async with self._storage.write() as tx:
                await tx.trim_events(older_than=self._retention_events)
            await asyncio.sleep(_TRIM_EVERY_S)

    async def _look(self) -> None:
        while True:
            try:
                await self.look_once()
            except Exception as error:
                self._health.set("database", False, type(error).__name__)
                raise
            await asyncio.sleep(_HEALTH_EVERY_S)
