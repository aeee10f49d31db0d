"""Every query on events: what those who watch are told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from asset_service.domain import Asset, AssetEvent, EventKind
from asset_service.storage.tables import event_log
from service_kit.identity import Owner


@dataclass(frozen=True, slots=True)
class Events:
    """Every query on events. They carry ids only: what is removed must not live on in a log."""

    connection: AsyncConnection

    async def append(self, kind: EventKind, asset: Asset) -> None:
        """Tell that something happened to an asset, in the transaction in which it happens."""
        await event_log.append(
            self.connection,
            owner=asset.owner,
            subject_id=asset.asset_id,
            version=asset.version,
            kind=kind.value,
            payload=b"",
        )

    async def after(self, position: int, owner: Owner, limit: int) -> Sequence[AssetEvent]:
        """Return an owner's events after a position, in order."""
        rows = await event_log.after(self.connection, position, owner=owner, limit=limit)
        return [AssetEvent(row.position, row.subject_id, EventKind(row.kind)) for row in rows]

    async def last(self) -> int:
        """Return the position of the newest event."""
        return await event_log.last(self.connection)

    async def epoch(self) -> str:
        """Return the id of this log, as cursors carry it."""
        return await event_log.epoch(self.connection)

    async def resume(self, cursor: str) -> int | None:
        """Return the position after which a watcher goes on; None when it must begin with a snapshot."""
        return await event_log.resume(self.connection, cursor)

    async def trim(self, older_than: timedelta) -> int:
        """Delete old events. Returns how many."""
        return await event_log.trim(self.connection, older_than=older_than)
