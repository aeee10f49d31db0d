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

# Far below the time after which a lease reverts that was not acknowledged.
_WRITE_AFTER_S = 0.05


class Acknowledgements:
    """What workers have acknowledged and is not written yet: at most one entry for each lease of this replica."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._unwritten: dict[LeaseRef, str] = {}
        self._task: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()

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
        """Write what was noted, and end."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def _write_soon(self) -> None:
        try:
            await asyncio.sleep(_WRITE_AFTER_S)
            await self.flush()
        except AtelierError as error:
            # The next heartbeat, or the next acknowledgement, takes it along.
            log.warning("acknowledgements_delayed", reason=error.reason.value, detail=error.message)
        finally:
            self._task = None
