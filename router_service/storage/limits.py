"""Every query on what an operator allows an owner."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from router_service.storage.identity_tables import owner_limits
from router_service.storage.tables import leases, queue
from service_kit.bulk import among, upsert
from service_kit.identity import Owner

# Owners' ids are the same in few tenants: the tenant is compared here, not there.
_OF = select(owner_limits).where(among(owner_limits.c.owner_id, "owner_ids"))
_COUNTS = {
    table.name: select(table.c.tenant_id, table.c.owner_id, func.count())
    .where(among(table.c.tenant_id, "tenant_ids"), among(table.c.owner_id, "owner_ids"))
    .group_by(table.c.tenant_id, table.c.owner_id)
    for table in (queue, leases)
}


@dataclass(frozen=True, slots=True)
class Allowance:
    """What an operator set for an owner. None: what the settings say; 0: as much as it likes."""

    requests_per_minute: int | None = None
    queued_jobs: int | None = None
    running_jobs: int | None = None


class OwnerLimits:
    """The limits of owners, and how much of them is used."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def find(self, owners: Collection[Owner]) -> dict[Owner, Allowance]:
        """Return what was set for these owners; those for whom nothing was are absent."""
        wanted = {"owner_ids": sorted({owner.owner_id for owner in owners})}
        rows = await self._connection.execute(_OF, wanted)
        found = {
            Owner(row.tenant_id, row.owner_id): Allowance(row.requests_per_minute, row.queued_jobs, row.running_jobs)
            for row in rows
        }
        return {owner: allowance for owner, allowance in found.items() if owner in set(owners)}

    async def put(self, owner: Owner, allowance: Allowance) -> None:
        """Set the limits of an owner in place of what was set before."""
        values = {
            "requests_per_minute": allowance.requests_per_minute,
            "queued_jobs": allowance.queued_jobs,
            "running_jobs": allowance.running_jobs,
        }
        key = {"tenant_id": owner.tenant_id, "owner_id": owner.owner_id}
        if allowance == Allowance():
            where = (owner_limits.c.tenant_id == owner.tenant_id, owner_limits.c.owner_id == owner.owner_id)
            await self._connection.execute(delete(owner_limits).where(*where))
            return
        row = upsert(self._connection, owner_limits).values(**key, **values)
        await self._connection.execute(row.on_conflict_do_update(index_elements=list(key), set_=values))

    async def count_queued(self, owners: Collection[Owner]) -> dict[Owner, int]:
        """Return how many jobs of these owners wait, in all pools, whether or not they could be leased now."""
        return await self._count(queue.name, owners)

    async def count_running(self, owners: Collection[Owner]) -> dict[Owner, int]:
        """Return how many jobs of these owners run, in all pools."""
        return await self._count(leases.name, owners)

    async def _count(self, table: str, owners: Collection[Owner]) -> dict[Owner, int]:
        wanted = {
            "tenant_ids": sorted({owner.tenant_id for owner in owners}),
            "owner_ids": sorted({owner.owner_id for owner in owners}),
        }
        rows = await self._connection.execute(_COUNTS[table], wanted)
        found = {Owner(tenant_id, owner_id): count for tenant_id, owner_id, count in rows}
        return {owner: found.get(owner, 0) for owner in owners}
