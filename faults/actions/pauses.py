"""SIGSTOP for longer than a lease lives, then SIGCONT: the process believes that no time has passed."""

from __future__ import annotations

import asyncio

from faults.cluster import LEASE_TTL_S, Part
from faults.field import Field
from faults.schedule import FaultPlan


async def pause_worker(field: Field, fault: FaultPlan) -> str:
    """Pause a worker past its leases."""
    return await _pause(field.cluster.workers, fault)


async def pause_router(field: Field, fault: FaultPlan) -> str:
    """Pause a router past the leases of its workers."""
    return await _pause(field.cluster.routers, fault)


async def _pause(parts: list[Part], fault: FaultPlan) -> str:
    part = parts[fault.target % len(parts)]
    process_id = part.pause()
    try:
        await asyncio.sleep(LEASE_TTL_S + fault.seconds)
    finally:
        part.resume(process_id)
    return part.name
