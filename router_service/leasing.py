"""When waiting stages are leased: as soon as a stage waits or a slot is free, and when a retry has paused enough."""

from __future__ import annotations

import asyncio

from router_service.dispatch import Dispatch
from router_service.signals import Signals
from router_service.storage import Storage

# Another replica's stages are found after this long.
_POLL_S = 1.0


class LeasingLoop:
    """Runs leasing rounds."""

    def __init__(self, storage: Storage, dispatch: Dispatch, signals: Signals) -> None:
        self._storage = storage
        self._dispatch = dispatch
        self._signals = signals

    async def run(self) -> None:
        """Lease whatever can be leased, until cancelled."""
        while True:
            self._signals.queue.clear()
            await self._dispatch.lease_waiting()
            await self._pause()

    async def _pause(self) -> None:
        """Wait until something changes, or the next stage has waited out its pause."""
        async with self._storage.read() as tx:
            now, next_at = await tx.now(), await tx.queue.next_available()
        wait_s = _POLL_S if next_at is None else min((next_at - now).total_seconds() + 0.001, _POLL_S)
        try:
            await asyncio.wait_for(self._signals.queue.wait(), max(wait_s, 0.0))
        except TimeoutError:
            return
