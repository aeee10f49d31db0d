"""SIGKILL to a process; after a while it is started again."""

from __future__ import annotations

import asyncio

from faults.cluster import Part
from faults.field import Field
from faults.schedule import FaultPlan


async def kill_worker(field: Field, fault: FaultPlan) -> str:
    """Kill a worker. Its engine is left alone, and must end by itself."""
    return await _kill(field.cluster.workers, fault)


async def kill_router(field: Field, fault: FaultPlan) -> str:
    """Kill a router."""
    return await _kill(field.cluster.routers, fault)


async def kill_asset_service(field: Field, fault: FaultPlan) -> str:
    """Kill an asset service."""
    return await _kill(field.cluster.asset_services, fault)


async def kill_library(field: Field, fault: FaultPlan) -> str:
    """Kill a library service."""
    return await _kill(field.cluster.libraries, fault)


async def kill_postgres(field: Field, fault: FaultPlan) -> str:
    """Kill every process of PostgreSQL at once, and start it again on what it had written."""
    async with field.cluster.postgres_turn:
        await asyncio.to_thread(field.postgres.kill)
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            await asyncio.to_thread(field.postgres.start)
    return "postgres"


async def _kill(parts: list[Part], fault: FaultPlan) -> str:
    part = parts[fault.target % len(parts)]
    await part.kill()
    await asyncio.sleep(fault.seconds)
    await part.start()
    return part.name
