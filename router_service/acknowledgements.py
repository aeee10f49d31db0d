"""Which leases were begun: written a moment later, many at once, and not at all for a stage that is over by then."""

from __future__ import annotations

import asyncio
import contextvars

from router_service.domain import LeaseRef
from router_service.storage import Storage
from service_kit import crash
from service_kit.errors import AtelierError
from service_kit.telemetry import get_logger

log = get_logger(__name__)

# Far below the time after which a lease reverts that was not acknowledged; a short stage is over by then.
_WRITE_AFTER_S = 0.2
_AGAIN_S = 0.5


class Acknowledgements:
    """What workers have acknowledged and is not written yet: at most one entry for each lease of this replica."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._unwritten: dict[LeaseRef, str] = {}
        self._task: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        self._closed = False

    def note(self, ref: LeaseRef, session: str) -> None:
        """Note that the worker of a session has begun a stage."""
        self._unwritten[ref] = session
        if self._task is None:
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(self._write_soon(), name="router.ack", context=contextvars.Context())

    def forget(self, ref: LeaseRef) -> None:
        """Forget a lease that is over."""
        self._unwritten.pop(ref, None)

    async def flush(self) -> None:
        """Write what was noted before this call. If it cannot be written it stays noted."""
        async with self._writing:
            noted = dict(self._unwritten)
            if not noted:
                return
            async with self._storage.write() as tx:
                await tx.leases.acknowledge(list(noted.items()))
                crash.reach("router.ack.before_commit")
            for ref in noted:
                self._unwritten.pop(ref, None)
        crash.reach("router.ack.committed")

    async def close(self) -> None:
        """Write what was noted, if it can be written, and end."""
        self._closed = True
        if self._task is not None:
            await asyncio.wait({self._task})

    async def _write_soon(self) -> None:
        pause_s = _WRITE_AFTER_S
        try:
            # What is noted while it writes, or could not be written, is nobody else's to write in time.
            while self._unwritten:
                await asyncio.sleep(pause_s)
                try:
                    await self.flush()
                    pause_s = _WRITE_AFTER_S
                except AtelierError as error:
                    log.warning("acknowledgements_delayed", reason=error.reason.value, detail=error.message)
                    if self._closed:
                        return
                    pause_s = _AGAIN_S
        finally:
            self._task = None
