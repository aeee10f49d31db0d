"""The loop that ends things: assets whose time is over, uploads that nobody finishes, bytes whose rows say so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import TypeVar

from asset_service.domain import MAX_HOLD_TTL, Asset, Upload
from asset_service.locks import NamedLocks
from asset_service.removal import Removal
from asset_service.spool import Spool
from asset_service.storage import Storage
from asset_service.watch import Watchers
from service_kit.errors import AtelierError
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
        locks: NamedLocks,
        removal: Removal,
        watchers: Watchers,
        *,
        interval: timedelta,
        retention_events: timedelta,
    ) -> None:
        self._storage = storage
        self._spool = spool
        self._locks = locks
        self._removal = removal
        self._watchers = watchers
        self._interval = interval
        self._retention_events = retention_events

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self.look()
            try:
                async with asyncio.timeout(self._interval.total_seconds()):
                    await self._removal.wanted()
            except TimeoutError:
                continue

    async def look(self) -> None:
        """Do all that is due at this moment."""
        await self._expire()
        async with self._storage.write() as tx:
            await tx.uploads.delete_overdue_later()
            await tx.holds.forget_lapsed(MAX_HOLD_TTL)
        await self._trim_events()
        await self._let_go()
        await self._delete_all(self._deleting_assets, self._removal.delete_asset, lambda asset: asset.asset_id)
        await self._delete_all(self._deleting_uploads, self._removal.delete_upload, lambda upload: upload.upload_id)
        await self._sweep_spool()

    async def _trim_events(self) -> None:
        removed = 1
        while removed:
            async with self._storage.write() as tx:
                removed = await tx.events.trim(self._retention_events)

    async def _expire(self) -> None:
        while True:
            async with self._storage.write() as tx:
                due = await tx.assets.due(_BATCH)
                for asset in due:
                    await self._removal.hide(tx, asset, "expired")
            for owner in {asset.owner for asset in due}:
                self._watchers.notify(owner)
            if len(due) < _BATCH:
                return

    async def _let_go(self) -> None:
        while True:
            async with self._storage.write() as tx:
                free = await tx.assets.let_go(_BATCH)
                for asset in free:
                    await self._removal.let_go(tx, asset)
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
                if name not in wanted:
                    await self._sweep(name)

    async def _sweep(self, name: str) -> None:
        # Again under the lock: the row is there before the file, so a file without an open row has had its time.
        async with self._locks.hold(name):
            async with self._storage.read() as tx:
                if name in await tx.uploads.open_among([name]):
                    return
            await self._spool.remove(name)
