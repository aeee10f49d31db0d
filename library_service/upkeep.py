"""What the library does by itself: pays the outbox, sweeps blobs, brings late renditions, trims, reads unread items."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from library_service.late_renditions import LateRenditions
from library_service.outbox import Deliveries
from library_service.removal import Removal
from library_service.shelving import Shelving
from library_service.storage import Storage, Transaction
from service_kit.settings_table import LibrarySettings
from service_kit.tasks import BackgroundTasks

_DELIVERY_EVERY_S = 0.5
_SWEEP_EVERY_S = 15.0
_TRIM_EVERY_S = 600.0
_READ_EVERY_S = 10.0
_LATE_EVERY_S = 5.0


class Upkeep:
    """The loops of one library service."""

    def __init__(
        self,
        *,
        storage: Storage,
        deliveries: Deliveries,
        removal: Removal,
        shelving: Shelving,
        late: LateRenditions,
        settings: LibrarySettings,
    ) -> None:
        self._storage = storage
        self._deliveries = deliveries
        self._removal = removal
        self._shelving = shelving
        self._late = late
        self._settings = settings

    def start(self, tasks: BackgroundTasks) -> None:
        """Start every loop."""
        tasks.start("library.outbox", self._deliver)
        tasks.start("library.sweep", self._sweep)
        tasks.start("library.trim", self._trim)
        tasks.start("library.words", self._read_unread)
        tasks.start("library.late", self._bring_late)

    async def _deliver(self) -> None:
        while True:
            await self._deliveries.deliver_due()
            await asyncio.sleep(_DELIVERY_EVERY_S)

    async def _sweep(self) -> None:
        while True:
            await self._removal.sweep()
            await asyncio.sleep(_SWEEP_EVERY_S)

    async def _read_unread(self) -> None:
        while True:
            if not await self._shelving.read_unread():
                await asyncio.sleep(_READ_EVERY_S)

    async def _bring_late(self) -> None:
        while True:
            await asyncio.sleep(_LATE_EVERY_S)
            while await self._late.bring_due():
                pass

    async def _trim(self) -> None:
        mine = self._settings
        trims: list[Callable[[Transaction], Awaitable[int]]] = [
            lambda tx: tx.trim_events(older_than=mine.retention_events),
            lambda tx: tx.items.trim_deleted(mine.retention_tombstones),
            lambda tx: tx.items.trim_audit(mine.retention_audit),
            lambda tx: tx.saves.trim_answers(mine.idempotency_retention),
            lambda tx: tx.erased.trim(mine.retention_tombstones),
        ]
        while True:
            while await self._removal.empty_trash(mine.retention_trash):
                pass
            for trim in trims:
                removed = 1
                while removed:
                    async with self._storage.write() as tx:
                        removed = await trim(tx)
            await self._removal.clear_drafts()
            await asyncio.sleep(_TRIM_EVERY_S)
