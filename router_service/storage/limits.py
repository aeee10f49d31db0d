"""Every query on what an operator allows an owner or a key."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from router_service.storage.identity_tables import api_keys, owner_limits
from router_service.storage.tables import leases, queue
from service_kit.bulk import among, upsert
from service_kit.identity import Owner

# Owners' ids are the same in few tenants: the tenant is compared here, not there.
_OF = select(owner_limits).where(among(owner_limits.c.owner_id, "owner_ids"))
_OF_KEYS = select(
    api_keys.c.key_id, api_keys.c.requests_per_minute, api_keys.c.queued_jobs, api_keys.c.running_jobs
).where(among(api_keys.c.key_id, "key_ids"))
_COUNTS = {
    table.name: select(table.c.tenant_id, table.c.owner_id, func.count())
    .where(among(table.c.tenant_id, "tenant_ids"), among(table.c.owner_id, "owner_ids"))
    .group_by(table.c.tenant_id, table.c.owner_id)
    for table in (queue, leases)
}
_COUNTS_OF_KEYS = {
    table.name: select(table.c.key_id, func.count()).where(among(table.c.key_id, "key_ids")).group_by(table.c.key_id)
    for table in (queue, leases)
}

Party = Owner | str
"""Who has limits: an owner, or a key, by its id."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What an operator set for an owner or a key. None: what the settings say; 0: as much as it likes."""

    requests_per_minute: int | None = None
    queued_jobs: int | None = None
    running_jobs: int | None = None


UNSAID = Allowance()
"""Where nothing was set."""


class PartyLimits:
    """The limits of owners and keys, and how much of them is used."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def find(self, parties: Collection[Party]) -> dict[Party, Allowance]:
        """Return what was set for these owners and keys; those for whom nothing was are absent."""
        owners, key_ids = _parted(parties)
        found: dict[Party, Allowance] = {}
        if owners:
            wanted = {"owner_ids": sorted({owner.owner_id for owner in owners})}
            for row in await self._connection.execute(_OF, wanted):
                found[Owner(row.tenant_id, row.owner_id)] = _allowance(row)
        if key_ids:
            for row in await self._connection.execute(_OF_KEYS, {"key_ids": key_ids}):
                found[row.key_id] = _allowance(row)
        return {party: found[party] for party in parties if found.get(party, UNSAID) != UNSAID}

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

    async def count_queued(self, parties: Collection[Party]) -> dict[Party, int]:
        """Return how many jobs of these owners and keys wait, in all pools, whether or not they could be leased now."""
        return await self._count(queue.name, parties)

    async def count_running(self, parties: Collection[Party]) -> dict[Party, int]:
        """Return how many jobs of these owners and keys run, in all pools."""
        return await self._count(leases.name, parties)

    async def _count(self, table: str, parties: Collection[Party]) -> dict[Party, int]:
        owners, key_ids = _parted(parties)
        found: dict[Party, int] = {}
        if owners:
            wanted = {
                "tenant_ids": sorted({owner.tenant_id for owner in owners}),
                "owner_ids": sorted({owner.owner_id for owner in owners}),
            }
            for tenant_id, owner_id, count in await self._connection.execute(_COUNTS[table], wanted):
                found[Owner(tenant_id, owner_id)] = count
        if key_ids:
            for key_id, count in await self._connection.execute(_COUNTS_OF_KEYS[table], {"key_ids": key_ids}):
                found[key_id] = count
        return {party: found.get(party, 0) for party in parties}


def _parted(parties: Collection[Party]) -> tuple[list[Owner], list[str]]:
    owners = [party for party in parties if isinstance(party, Owner)]
    return owners, sorted(party for party in parties if isinstance(party, str))


def _allowance(row: Row[Any]) -> Allowance:
    return Allowance(row.requests_per_minute, row.queued_jobs, row.running_jobs)
