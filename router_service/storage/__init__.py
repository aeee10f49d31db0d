"""The router's storage: every query is a named method of one of the classes that a transaction carries.

Who locks several rows locks pools first, then names, then jobs in the order of their ids, then what hangs on jobs, and
the heads of owners' events last. So no two transactions wait for each other.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from router_service.storage.events import Events
from router_service.storage.jobs import Jobs
from router_service.storage.leases import Leases
from router_service.storage.ledger import Ledger
from router_service.storage.limits import PartyLimits
from router_service.storage.locks import Locks
from router_service.storage.metadata import metadata
from router_service.storage.moment import Moment
from router_service.storage.queue import Queue
from router_service.storage.recent import RecentEvents
from router_service.storage.registry import Registry
from router_service.storage.webhooks import Deliveries, SecretSeeds
from service_kit.database import Database
from service_kit.erasure import Erased
from service_kit.storage import TransactionalStorage, View

MIGRATIONS = "router_service.storage.migrations"


class Transaction(View):
    """One transaction, seen as the router's tables."""

    def __init__(self, db: Database, connection: AsyncConnection) -> None:
        self._db = db
        self._connection = connection
        self._moment = Moment()
        self.events = Events(connection)
        self.deliveries = Deliveries(connection)
        self.secret_seeds = SecretSeeds(connection)
        self.jobs = Jobs(connection, self.events, self._moment, self.deliveries)
        self.queue = Queue(connection, self._moment)
        self.leases = Leases(connection, self._moment)
        self.ledger = Ledger(connection)
        self.registry = Registry(connection)
        self.limits = PartyLimits(connection)
        self.locks = Locks(connection)
        self.erased = Erased(connection, metadata, self._moment.hear)

    async def finish(self) -> None:
        """Write deliveries and events: the heads of their owners are locked last, and not for long."""
        await self.deliveries.write()
        await self.events.write()

    async def now(self) -> datetime:
        """Return the moment of the database's clock, the same during the whole transaction."""
        if self._moment.now is None:
            self._moment.now = await self._db.now(self._connection)
        return self._moment.now


class Storage(TransactionalStorage[Transaction]):
    """The router's database."""

    def __init__(self, db: Database) -> None:
        super().__init__(db, Transaction)
        self.recent = RecentEvents()

    def _committed(self, view: Transaction) -> None:
        """Remember the events that it wrote."""
        self.recent.add(view.events.written)
