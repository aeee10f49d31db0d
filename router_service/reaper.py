"""What has to happen by itself: leases expire, deadlines pass, rows have had their time, pools are looked at."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from router_service.dispatch import Dispatch
from router_service.pools import Pools
from router_service.storage import Storage
from service_kit.clock import Clock
from service_kit.telemetry import get_logger

log = get_logger(__name__)

_PURGE_EVERY = timedelta(minutes=1)
_BATCH = 500


@dataclass(frozen=True, slots=True)
class ReaperRules:
    """How long things live. `ack_timeout` is how long a worker may take to acknowledge a lease."""

    lease_ttl: timedelta
    ack_timeout: timedelta
    keep_jobs: timedelta
    keep_events: timedelta
    keep_submissions: timedelta


class Reaper:
    """Rounds of maintenance. Any number of replicas may run them."""

    def __init__(
        self,
        storage: Storage,
        dispatch: Dispatch,
        pools: Pools,
        clock: Clock,
        rules: ReaperRules,
        purge_identities: Callable[[], Awaitable[object]],
    ) -> None:
        self._storage = storage
        self._dispatch = dispatch
        self._pools = pools
        self._clock = clock
        self._rules = rules
        self._purge_identities = purge_identities
        self._believes_from = clock.monotonic() + rules.lease_ttl.total_seconds()
        self._purged_at = clock.monotonic()

    async def run(self) -> None:
        """Do a round about four times in a lease's life, at least each second, until cancelled."""
        pause = min(self._rules.lease_ttl.total_seconds() / 4, 1.0)
        while True:
            await self.try_round()
            await asyncio.sleep(pause)

    async def try_round(self) -> None:
        """Do a round. If it fails, nobody is believed lost for the life of a lease: heartbeats may have failed, too."""
        try:
            await self.round()
        except Exception as error:  # noqa: BLE001 - whatever it is, the database may have been away
            self._believes_from = self._clock.monotonic() + self._rules.lease_ttl.total_seconds()
            log.warning("reaper_delayed", error=repr(error))

    async def round(self) -> None:
        """Do everything that is due, once."""
        # Unacknowledged leases are this process's own promises, but after a start they may be an earlier one's as well.
        if self._clock.monotonic() >= self._believes_from:
            await self._dispatch.take_back_expired(ack_timeout=self._rules.ack_timeout)
        await self._dispatch.fail_overdue()
        await self.refresh_pools()
        if self._clock.monotonic() - self._purged_at >= _PURGE_EVERY.total_seconds():
            self._purged_at = self._clock.monotonic()
            await self.purge()

    async def refresh_pools(self) -> None:
        """Read which workers are connected and what waits."""
        async with self._storage.read() as tx:
            workers = await tx.registry.list_workers(seen_within=self._rules.lease_ttl)
            waiting = await tx.queue.count_waiting()
        self._pools.refresh(workers, waiting)

    async def purge(self) -> None:
        """Remove rows that have had their time."""
        trimmed = 1
        while trimmed:
            async with self._storage.write() as tx:
                trimmed = await tx.events.trim(self._rules.keep_events)
        async with self._storage.write() as tx:
            removed = await tx.jobs.remove_ended(self._rules.keep_jobs, limit=_BATCH)
            await tx.ledger.remove_old_submissions(self._rules.keep_submissions)
            await tx.registry.remove_unseen(self._rules.lease_ttl * 10)
        if removed:
            log.info("jobs_purged", count=removed)
        await self._purge_identities()
