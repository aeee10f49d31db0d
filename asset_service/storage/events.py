"""Every query on events: what those who watch are told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from asset_service.domain import Asset, AssetEvent, EventKind
from asset_service.storage.tables import event_log
from service_kit.events.log import NewEvent, Place
from service_kit.identity import Owner


class Events:
    """Every query on events. They carry ids only: what is removed must not live on in a log.

    What is added is written as the last step of the transaction.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._new: list[NewEvent] = []

    def add(self, kind: EventKind, asset: Asset) -> None:
        """Tell that something happened to an asset, in the transaction in which it happens."""
        self._new.append(NewEvent(asset.owner, asset.asset_id, asset.version, kind.value))

    async def write(self) -> None:
        """Write what was added."""
        new, self._new = self._new, []
        await event_log.write(self._connection, new)

    async def after(self, position: int, owner: Owner, limit: int) -> Sequence[AssetEvent]:
        """Return an owner's events after a position, in order."""
        rows = await event_log.after(self._connection, position, owner=owner, limit=limit)
        return [AssetEvent(row.position, row.subject_id, EventKind(row.kind)) for row in rows]

    async def changed(self, since: Iterable[tuple[Owner, int]]) -> list[tuple[Owner, str, int]]:
        """Return which assets of owners have events after the positions: (owner, asset_id, position), in order."""
        return await event_log.changed(self._connection, since)

    async def place(self, owner: Owner) -> Place:
        """Return where an owner's events stand; in a snapshot it is read before what it shows."""
        return await event_log.place(self._connection, owner)

    async def trim(self, older_than: timedelta) -> int:
        """Delete some thousand old events. Returns how many; when it is none, no old one is left."""
        return await event_log.trim(self._connection, older_than=older_than)
