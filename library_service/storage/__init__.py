"""The library's storage: every query is a named method of one of the classes that a transaction carries."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from library_service.domain import Item
from library_service.storage.blob_rows import BlobRows
from library_service.storage.items import Items
from library_service.storage.late_items import LateItems
from library_service.storage.outbox import Outbox
from library_service.storage.saves import Saves
from library_service.storage.search import Search
from library_service.storage.shelves import Shelves
from library_service.storage.tables import event_log, metadata
from service_kit.database import Database
from service_kit.erasure import Erased
from service_kit.events.log import NewEvent, Place, StoredEvent
from service_kit.identity import Owner
from service_kit.storage import TransactionalStorage, View

MIGRATIONS = "library_service.storage.migrations"
SAVED = "saved"
DELETED = "deleted"
CHANGED = "changed"


class Transaction(View):
    """One transaction, seen as the library's tables."""

    def __init__(self, db: Database, connection: AsyncConnection) -> None:
        self._db = db
        self._connection = connection
        self.items = Items(connection)
        self.search = Search(connection)
        self.shelves = Shelves(connection)
        self.blobs = BlobRows(connection)
        self.outbox = Outbox(connection)
        self.saves = Saves(connection)
        self.late_items = LateItems(connection)
        self.erased = Erased(connection, metadata)
        self._new_events: list[NewEvent] = []

    async def now(self) -> datetime:
        """Return the moment of the database's clock."""
        return await self._db.now(self._connection)

    async def finish(self) -> None:
        """Write the events: their owners' heads are locked last, and not for long."""
        new, self._new_events = self._new_events, []
        await event_log.write(self._connection, new)

    def tell(self, item: Item, kind: str) -> None:
        """Tell that an item was saved, changed or deleted. Watchers read the item itself: the event carries no copy."""
        self._new_events.append(NewEvent(item.owner, item.item_id, item.version, kind))

    async def events_after(self, position: int, owner: Owner, *, limit: int) -> list[StoredEvent]:
        """Return an owner's events after a position, oldest first."""
        return await event_log.after(self._connection, position, owner=owner, limit=limit)

    async def changed(self, since: Iterable[tuple[Owner, int]]) -> list[tuple[Owner, str, int]]:
        """Return which items of these owners have events after the positions: (owner, item_id, position), in order."""
        return await event_log.changed(self._connection, since)

    async def place(self, owner: Owner) -> Place:
        """Return where an owner's events stand; in a snapshot it is read before what it shows."""
        return await event_log.place(self._connection, owner)

    async def trim_events(self, *, older_than: timedelta) -> int:
        """Remove some thousand old events. Returns how many; when it is none, no old one is left."""
        return await event_log.trim(self._connection, older_than=older_than)


class Storage(TransactionalStorage[Transaction]):
    """The library's database."""

    def __init__(self, db: Database) -> None:
        super().__init__(db, Transaction)

    @property
    def is_ours_alone(self) -> bool:
        """Whether no other process can have this database: on SQLite the folder is locked."""
        return self._db.is_sqlite


__all__ = ["CHANGED", "DELETED", "MIGRATIONS", "SAVED", "Storage", "Transaction"]
