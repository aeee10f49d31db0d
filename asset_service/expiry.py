"""The loop that ends things: assets whose time is over, uploads that nobody finishes, bytes whose rows say so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from asset_service.domain import MAX_HOLD_TTL, Asset, Upload
from asset_service.handover import Handover
from asset_service.locks import UploadLocks
from asset_service.removal import Removal
from asset_service.spool import Spool
from asset_service.storage import Storage, Transaction
from asset_service.watch import Watchers
from service_kit.errors import AtelierError, Unavailable
from service_kit.settings_table import AssetSettings
from service_kit.telemetry import get_logger

log = get_logger(__name__)
_BATCH = 200
_T = TypeVar("_T")


class Expiry:
    """Looks at regular times, and whenever something was removed. What a crash left undone is done at the next look."""

    def __init__(
        self,
        storage: Storage,
        spool: Spool,
        handover: Handover,
        locks: UploadLocks,
        removal: Removal,
        watchers: Watchers,
        *,
        settings: AssetSettings,
    ) -> None:
        self._storage = storage
        self._spool = spool
        self._handover = handover
        self._locks = locks
        self._removal = removal
        self._watchers = watchers
        self._settings = settings
        # What one look has locked another one skips: whoever waits for a look waits for all that it found.
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Look again and again, until cancelled; in between only do what somebody has nudged us to."""
        while True:
            await self.look()
            try:
                async with asyncio.timeout(self._settings.expiry_interval.total_seconds()):
                    while True:
                        await self._removal.wanted()
                        await self.clear_away()
            except TimeoutError:
                continue

    async def look(self) -> None:
        """Do all that is due at this moment."""
        async with self._turn:
            await self._expire()
            async with self._storage.write() as tx:
                await tx.uploads.delete_overdue_later()
                await tx.holds.forget_lapsed(MAX_HOLD_TTL)
            await self._trim()
            await self._clear_away()
            await self._sweep_spool()
            await self._handover.clear()
            await self._removal.clear_drafts()

    async def clear_away(self) -> None:
        """Delete the bytes of all whose rows say so."""
        async with self._turn:
            await self._clear_away()

    async def _clear_away(self) -> None:
        await self._let_go()
        await self._delete_all(self._deleting_assets, self._removal.delete_asset, lambda asset: asset.asset_id)
        await self._delete_all(self._deleting_uploads, self._removal.delete_upload, lambda upload: upload.upload_id)

    async def _trim(self) -> None:
        """Delete rows that nobody needs any more, some in each transaction."""
        mine = self._settings
        trims: list[Callable[[Transaction], Awaitable[int]]] = [
            lambda tx: tx.events.trim(mine.retention_events),
            lambda tx: tx.settlements.trim(mine.retention_settlements),
            lambda tx: tx.assets.trim(mine.retention_tombstones),
            lambda tx: tx.imports.trim(mine.retention_tombstones),
            lambda tx: tx.trim_audit(mine.retention_audit),
            # Whatever may still come for an erased owner has come by then.
            lambda tx: tx.erased.trim(mine.retention_settlements),
        ]
        for trim in trims:
            removed = 1
            while removed:
                async with self._storage.write() as tx:
                    removed = await trim(tx)

    async def _expire(self) -> None:
        while True:
            async with self._storage.write() as tx:
                due = await tx.assets.due(_BATCH)
                await self._removal.hide(tx, due, "expired")
            for owner in {asset.owner for asset in due}:
                self._watchers.notify(owner)
            if len(due) < _BATCH:
                return

    async def _let_go(self) -> None:
        while True:
            async with self._storage.write() as tx:
                free = await tx.assets.let_go(_BATCH)
                await self._removal.let_go(tx, free)
            if len(free) < _BATCH:
                return

    async def _deleting_assets(self, after: str) -> Sequence[Asset]:
        async with self._storage.read() as tx:
            return await tx.assets.deleting(after, _BATCH)

    async def _deleting_uploads(self, after: str) -> Sequence[Upload]:
        async with self._storage.read() as tx:
            return await tx.uploads.deleting(after, _BATCH)

    async def _delete_all(
        self,
        find: Callable[[str], Awaitable[Sequence[_T]]],
        delete: Callable[[_T], Awaitable[None]],
        name: Callable[[_T], str],
    ) -> None:
        """Delete what is found, in order of its id. One that fails is left for the next look and stops no other."""
        after = ""
        while batch := await find(after):
            for one in batch:
                after = name(one)
                try:
                    await delete(one)
                except (AtelierError, OSError) as error:
                    log.warning("deletion_failed", id=after, error=str(error))

    async def _sweep_spool(self) -> None:
        """Remove files of uploads that take no more bytes, which a crash may have left."""
        names = await self._spool.names()
        for start in range(0, len(names), _BATCH):
            some = names[start : start + _BATCH]
            async with self._storage.read() as tx:
                wanted = await tx.uploads.open_among(some)
            for name in some:
                if name in wanted:
                    continue
                try:
                    await self._sweep(name)
                except Unavailable as error:
                    log.info("sweep_postponed", id=name, error=error.message)

    async def _sweep(self, name: str) -> None:
        # Again under the lock: the row is there before the file, so a file without an open row has had its time.
        async with self._locks.hold(name, patient=False):
            async with self._storage.read() as tx:
                if name in await tx.uploads.open_among([name]):
                    return
            await self._spool.remove(name)
