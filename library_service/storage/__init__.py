"""The library's storage: every query is a named method of one of the classes that a transaction carries."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from library_service.domain import Item
from library_service.storage.blob_rows import BlobRows
from library_service.storage.items import Items
from library_service.storage.outbox import Outbox
from library_service.storage.tables import event_log
from service_kit.database import Database
from service_kit.events import encode_cursor
from service_kit.events.log import StoredEvent
from service_kit.identity import Owner
from service_kit.storage import TransactionalStorage

MIGRATIONS = "library_service.storage.migrations"
SAVED = "saved"
DELETED = "deleted"


class Transaction:
    """One transaction, seen as the library's tables."""

    def __init__(self, db: Database, connection: AsyncConnection) -> None:
        self._db = db
        self._connection = connection
        self.items = Items(connection)
        self.blobs = BlobRows(connection)
        self.outbox = Outbox(connection)

    async def now(self) -> datetime:
        """Return the moment of the database's clock."""
        return await self._db.now(self._connection)

    async def tell(self, item: Item, kind: str) -> None:
        """Write the event that an item was saved or deleted. Watchers read the item itself: it carries no copy."""
        await event_log.append(
            self._connection,
            owner=item.owner,
            subject_id=item.item_id,
            version=item.version,
            kind=kind,
            payload=b"",
        )

    async def events_after(self, position: int, owner: Owner, *, limit: int) -> list[StoredEvent]:
        """Return an owner's events after a position, oldest first."""
        return await event_log.after(self._connection, position, owner=owner, limit=limit)

    async def resume(self, cursor: str) -> int | None:
        """Return the position after which a watcher goes on; None when it needs a snapshot first."""
        return await event_log.resume(self._connection, cursor)

    async def last_position(self) -> int:
        """Return the position of the newest event of all."""
        return await event_log.last(self._connection)

    async def epoch(self) -> str:
        """Return the id of this source of events."""
        return await event_log.epoch(self._connection)

    async def trim_events(self, *, older_than: timedelta) -> int:
        """Remove events that are older than retention. Returns how many."""
        return await event_log.trim(self._connection, older_than=older_than)


class Storage(TransactionalStorage[Transaction]):
    """The library's database."""

    def __init__(self, db: Database) -> None:
        super().__init__(db, Transaction)

    @property
    def is_ours_alone(self) -> bool:
        """Whether no other process can have this database: on SQLite the folder is locked."""
        return self._db.is_sqlite


__all__ = ["DELETED", "MIGRATIONS", "SAVED", "Storage", "Transaction", "encode_cursor"]
