"""Leases that are lost, and what waits after that, for tests."""

from __future__ import annotations

from datetime import timedelta

from tests.router_service.support import Router

TTL = timedelta(seconds=30)


async def lose_leases(router: Router) -> None:
    """Let the time of a lease pass without a heartbeat, and the reaper see it."""
    router.clock.advance(TTL + timedelta(seconds=1))
    await router.service.reaper.round()


async def waiting(router: Router) -> int:
    """Return how many stages wait for a worker."""
    async with router.service.storage.read() as tx:
        return sum((await tx.queue.count_waiting()).values())
