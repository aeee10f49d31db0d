"""Every query of the asset service, and the transactions that they run in."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from asset_service.storage.assets import Assets
from asset_service.storage.events import Events
from asset_service.storage.holds import Holds
from asset_service.storage.settlements import Settlements
from asset_service.storage.tables import audit
from asset_service.storage.uploads import Uploads
from service_kit.database import Database, db_now
from service_kit.identity import Owner
from service_kit.storage import TransactionalStorage

MIGRATIONS = "asset_service.storage.migrations"


class Transaction:
    """The queries of one transaction, by what they are about."""

    def __init__(self, db: Database, connection: AsyncConnection) -> None:
        self._db = db
        self._connection = connection
        self.assets = Assets(connection)
        self.uploads = Uploads(connection)
        self.settlements = Settlements(connection)
        self.holds = Holds(connection)
        self.events = Events(connection)

    async def now(self) -> datetime:
        """Return the moment of the database's clock."""
        return await self._db.now(self._connection)

    async def note(self, action: str, owner: Owner, subject_id: str, **detail: object) -> None:
        """Write a line of the audit: what was done to whose thing. Never prompts or names."""
        await self._connection.execute(
            insert(audit).values(
                at=db_now(),
                tenant_id=owner.tenant_id,
                owner_id=owner.owner_id,
                action=action,
                subject_id=subject_id,
                detail=detail or None,
            )
        )


class Storage(TransactionalStorage[Transaction]):
    """The asset service's database."""

    def __init__(self, db: Database) -> None:
        super().__init__(db, Transaction)
