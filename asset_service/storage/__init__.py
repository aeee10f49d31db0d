"""Every query of the asset service, and the transactions that they run in."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from asset_service.domain import Settlement
from asset_service.storage.assets import Assets
from asset_service.storage.events import Events
from asset_service.storage.holds import Holds
from asset_service.storage.imports import ImportRows
from asset_service.storage.job_locks import lock_jobs, lock_jobs_later
from asset_service.storage.renditions import RenditionTasks
from asset_service.storage.settlements import Settlements
from asset_service.storage.tables import audit, metadata
from asset_service.storage.uploads import Uploads
from service_kit.bulk import delete_some, insert_rows
from service_kit.database import Database, db_now
from service_kit.erasure import Erased
from service_kit.identity import Owner
from service_kit.storage import TransactionalStorage, View

MIGRATIONS = "asset_service.storage.migrations"


class Transaction(View):
    """The queries of one transaction, by what they are about."""

    def __init__(self, db: Database, connection: AsyncConnection) -> None:
        self._db = db
        self._connection = connection
        self.assets = Assets(connection)
        self.uploads = Uploads(connection)
        self.settlements = Settlements(connection)
        self.holds = Holds(connection)
        self.renditions = RenditionTasks(connection)
        self.imports = ImportRows(connection)
        self.events = Events(connection)
        self.erased = Erased(connection, metadata)

    async def finish(self) -> None:
        """Write the events: their owners' heads are locked last, and not for long."""
        await self.events.write()

    async def now(self) -> datetime:
        """Return the moment of the database's clock."""
        return await self._db.now(self._connection)

    async def lock_jobs(self, job_ids: Iterable[str]) -> None:
        """Keep everybody else from these jobs until the end of this transaction: before any row is read."""
        await lock_jobs(self._connection, job_ids)

    async def settled_among(self, job_ids: Collection[str]) -> dict[str, Settlement]:
        """Lock jobs as `lock_jobs` does, and return how those of them were settled that are, by id.

        The lock and the look are one message to PostgreSQL; the look sees what was committed before the lock was had.
        """
        lock_jobs_later(self._connection, job_ids)
        return await self.settlements.find_many(sorted(job_ids))

    async def keep_open(self, job_id: str) -> None:
        """Keep a job from being settled until the end of this transaction: before any row is read.

        Raises:
            FailedPrecondition: `already_settled`.
        """
        await lock_jobs(self._connection, [job_id])
        await self.settlements.refuse_settled(job_id)

    async def note(self, action: str, owner: Owner, subject_id: str, **detail: object) -> None:
        """Write a line of the audit: what was done to whose thing. Never prompts or names."""
        await self.note_all([(action, owner, subject_id, detail)])

    async def note_all(self, notes: Iterable[tuple[str, Owner, str, dict[str, Any]]]) -> None:
        """Write lines of the audit: for each the action, whose thing, which, and details."""
        rows = [
            {
                "tenant_id": owner.tenant_id,
                "owner_id": owner.owner_id,
                "action": action,
                "subject_id": subject_id,
                "detail": detail or None,
            }
            for action, owner, subject_id, detail in notes
        ]
        await insert_rows(self._connection, audit, rows, moment="at")

    async def trim_audit(self, older_than: timedelta) -> int:
        """Delete some old lines of the audit. Returns how many; when it is none, no old one is left."""
        return await delete_some(self._connection, audit, audit.c.at <= db_now(plus=-older_than))


class Storage(TransactionalStorage[Transaction]):
    """The asset service's database."""

    def __init__(self, db: Database) -> None:
        super().__init__(db, Transaction)
