"""Every query on settlements."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from asset_service.domain import Settlement
from asset_service.storage.tables import settlements
from service_kit.bulk import among, delete_some, insert_rows
from service_kit.database import db_now
from service_kit.errors import ErrorReason, FailedPrecondition
from service_kit.identity import Owner

_MANY = select(settlements).where(among(settlements.c.job_id, "job_ids"))


class Settlements:
    """Every query on settlements."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def find_many(self, job_ids: Sequence[str]) -> dict[str, Settlement]:
        """Return how those of the jobs were settled that are, by id."""
        return {
            row["job_id"]: Settlement(
                row["job_id"],
                Owner(row["tenant_id"], row["owner_id"]),
                tuple(row["published"]),
                tuple(row["lost"]),
                row["refusal"],
            )
            for row in (await self._connection.execute(_MANY, {"job_ids": list(job_ids)})).mappings()
        }

    async def refuse_settled(self, job_id: str) -> None:
        """Raise FailedPrecondition with `already_settled` when the job is settled."""
        if await self.find_many([job_id]):
            raise FailedPrecondition(
                "The job has been settled: it accepts no further upload and no hold.", ErrorReason.ALREADY_SETTLED
            )

    async def add_many(self, new: Sequence[Settlement]) -> None:
        """Insert the settlements of jobs."""
        await insert_rows(
            self._connection,
            settlements,
            [
                {
                    "job_id": settlement.job_id,
                    "tenant_id": settlement.owner.tenant_id,
                    "owner_id": settlement.owner.owner_id,
                    "published": list(settlement.published),
                    "lost": list(settlement.lost),
                    "refusal": settlement.refusal,
                }
                for settlement in new
            ],
            moment="created_at",
        )

    async def trim(self, older_than: timedelta) -> int:
        """Delete some old settlements. Returns how many; when it is none, no old one is left."""
        return await delete_some(self._connection, settlements, settlements.c.created_at <= db_now(plus=-older_than))
