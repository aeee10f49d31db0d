"""The routing table as this replica sees it, and the operator's changes to it."""

from __future__ import annotations

from router_service.models import RoutingTable, check_row
from router_service.registry_domain import ModelRow
from router_service.storage import Storage
from service_kit.clock import Clock
from service_kit.errors import NotFound

# Another replica's change is seen after this many seconds.
_FRESH_FOR_S = 2.0


class ModelRegistry:
    """Reads and writes the routing table."""

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock
        self._table: RoutingTable | None = None
        self._read_at = 0.0

    async def table(self) -> RoutingTable:
        """Return the routing table, at most two seconds old."""
        now = self._clock.monotonic()
        if self._table is None or now - self._read_at > _FRESH_FOR_S:
            async with self._storage.read() as tx:
                self._table = RoutingTable(await tx.registry.list_models())
            self._read_at = now
        return self._table

    async def put(self, row: ModelRow) -> ModelRow:
        """Add a row, or replace the row of that name.

        Raises:
            InvalidArgument: its name or an alias is taken, or it makes nothing.
        """
        async with self._storage.write() as tx:
            check_row(row, await tx.registry.list_models())
            await tx.registry.put_model(row)
        self._table = None
        return row

    async def delete(self, name: str) -> None:
        """Remove a row. Raises NotFound when there is none."""
        async with self._storage.write() as tx:
            if not await tx.registry.delete_model(name):
                raise NotFound.of("model", name)
        self._table = None
