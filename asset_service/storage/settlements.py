"""Every query on settlements."""

from __future__ import annotations

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from asset_service.domain import Settlement
from asset_service.storage.tables import settlements
from service_kit.database import db_now
from service_kit.errors import ErrorReason, FailedPrecondition
from service_kit.identity import Owner


class Settlements:
    """Every query on settlements."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def find(self, job_id: str) -> Settlement | None:
        """Return how a job was settled; None when it was not."""
        found = (await self._connection.execute(select(settlements).where(settlements.c.job_id == job_id))).mappings()
        row = found.one_or_none()
        if row is None:
            return None
        owner = Owner(row["tenant_id"], row["owner_id"])
        return Settlement(row["job_id"], owner, tuple(row["published"]), tuple(row["lost"]))

    async def refuse_settled(self, job_id: str) -> None:
        """Raise FailedPrecondition with `already_settled` when the job is settled."""
        if await self.find(job_id) is not None:
            raise FailedPrecondition(
                "The job has been settled: it accepts no further upload and no hold.", ErrorReason.ALREADY_SETTLED
            )

    async def add(self, settlement: Settlement) -> None:
        """Insert the settlement of a job."""
        await self._connection.execute(
            insert(settlements).values(
                job_id=settlement.job_id,
                tenant_id=settlement.owner.tenant_id,
                owner_id=settlement.owner.owner_id,
                published=list(settlement.published),
                lost=list(settlement.lost),
                created_at=db_now(),
            )
        )
