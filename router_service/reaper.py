"""What has to happen by itself: leases expire, deadlines pass, rows have had their time, pools are looked at."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from router_service.dispatch import Dispatch
from router_service.ending import Ending
from router_service.patience import Patience
from router_service.pools import Pools
from router_service.storage import Storage
from service_kit.clock import Clock
from service_kit.telemetry import get_logger

log = get_logger(__name__)

_PURGE_EVERY = timedelta(minutes=1)
_BATCH = 500
_REMEMBER_SERVED = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class ReaperRules:
    """How long things live. `ack_timeout` is how long a worker may take to acknowledge a lease.

    A stage that has waited `raise_tier_after` in its tier rises by one, up to the highest that is granted to anybody.
    """

    lease_ttl: timedelta
    ack_timeout: timedelta
    keep_jobs: timedelta
    keep_events: timedelta
    keep_submissions: timedelta
    keep_deliveries: timedelta
    raise_tier_after: timedelta
    highest_tier: int


class Reaper:
    """Rounds of maintenance. Any number of replicas may run them: what one has locked, the others pass over."""

    def __init__(
        self,
        storage: Storage,
        dispatch: Dispatch,
        ending: Ending,
        pools: Pools,
        patience: Patience,
        clock: Clock,
        rules: ReaperRules,
        purge_identities: Callable[[], Awaitable[object]],
    ) -> None:
        self._storage = storage
        self._dispatch = dispatch
        self._ending = ending
        self._pools = pools
        self._patience = patience
        self._clock = clock
        self._rules = rules
        self._purge_identities = purge_identities
        self._purged_at = clock.monotonic()
        self._done: Counter[str] = Counter()

    async def run(self) -> None:
        """Do a round about four times in a lease's life, at least each second, until cancelled."""
        pause_s = min(self._rules.lease_ttl.total_seconds() / 4, 1.0)
        loop = asyncio.get_running_loop()
        while True:
            await self.try_round()
            slept_at = loop.time()
            await asyncio.sleep(pause_s)
            if loop.time() - slept_at > pause_s + self._rules.lease_ttl.total_seconds() / 4:
                log.warning("process_was_paused", seconds=round(loop.time() - slept_at, 1))
                self._patience.begin()

    async def try_round(self) -> None:
        """Do a round. If it fails, nobody is believed lost for the life of a lease: heartbeats may have failed, too."""
        try:
            await self.round()
        except Exception as error:  # noqa: BLE001 - whatever it is, the database may have been away
            self._patience.begin()
            log.warning("reaper_delayed", error=repr(error))

    async def round(self) -> None:
        """Do everything that is due, once."""
        self._done["rounds"] += 1
        # Unacknowledged leases are this process's own promises, but after a start they may be an earlier one's as well.
        if self._patience.is_over:
            self._done["leases_lost"] += await self._dispatch.take_back_expired(ack_timeout=self._rules.ack_timeout)
        self._done["jobs_overdue"] += await self._ending.fail_overdue()
        await self._dispatch.unmark_silent()
        await self.refresh_pools()
        if self._clock.monotonic() - self._purged_at >= _PURGE_EVERY.total_seconds():
            self._purged_at = self._clock.monotonic()
            await self.purge()
            log.info("reaper_worked", **self._done)
            self._done.clear()

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
            self._done["jobs_purged"] += await tx.jobs.remove_ended(self._rules.keep_jobs, limit=_BATCH)
            await tx.ledger.remove_old_submissions(self._rules.keep_submissions)
            await tx.deliveries.remove_finished(self._rules.keep_deliveries)
            await tx.secret_seeds.remove_retired(self._rules.keep_deliveries)
            await tx.registry.remove_unseen(self._rules.lease_ttl * 10)
            await tx.queue.forget_served(_REMEMBER_SERVED)
            await tx.erased.trim(self._rules.keep_jobs)
        if self._rules.highest_tier:
            async with self._storage.write() as tx:
                self._done["tiers_raised"] += await tx.queue.raise_tiers(
                    waited=self._rules.raise_tier_after, highest=self._rules.highest_tier, limit=_BATCH
                )
        await self._purge_identities()
