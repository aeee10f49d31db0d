"""Erasing an owner: its keys go at once, its jobs when they have ended; and nothing more is taken for it."""

from __future__ import annotations

from router_service.ending import Ending
from router_service.storage import Storage
from service_kit import crash
from service_kit.erasure import Steps, owner_digest
from service_kit.errors import AtelierError, ErrorReason, FailedPrecondition
from service_kit.identity import Caller, Owner
from service_kit.telemetry import get_logger

log = get_logger(__name__)
_BATCH = 200
# What still has to be told to the asset service hangs on these.
_UNTIL_THE_END = frozenset({"jobs", "queue", "leases"})


class Erasure:
    """Erases owners. May break off anywhere: a repeat goes on."""

    def __init__(self, storage: Storage, ending: Ending) -> None:
        self._storage = storage
        self._ending = ending

    async def erase(self, caller: Caller, owner: Owner) -> int:
        """Erase an owner, in many small transactions.

        Returns how many rows are left, because a call lasts so long and no longer, or because jobs have not ended yet
        or are not settled: repeat until it is none.

        Raises:
            FailedPrecondition: it is the caller's own owner.
        """
        if owner == caller.owner:
            raise FailedPrecondition(
                "The key that erases belongs to this owner: use the key of another one.",
                ErrorReason.FAILED_PRECONDITION,
            )
        steps = Steps()
        async with self._storage.write() as tx:
            await tx.erased.mark(owner)
        crash.reach("router.erase.marked")

        keep = _UNTIL_THE_END

        async def delete_rows(limit: int) -> int:
            async with self._storage.write() as tx:
                return await tx.erased.delete_rows(owner, keep=keep, limit=limit)

        async def delete_jobs(limit: int) -> int:
            async with self._storage.write() as tx:
                return await tx.jobs.erase_settled(owner, limit=limit)

        if await steps.repeat(delete_rows):
            await self._cancel_all(owner)
            if await steps.repeat(delete_jobs):
                async with self._storage.read() as tx:
                    keep = keep if await tx.jobs.count_of(owner) else frozenset()
                # What was told of jobs while they ended.
                await steps.repeat(delete_rows)
        async with self._storage.read() as tx:
            left = await tx.erased.count_rows(owner)
        log.info("owner_erased", digest=owner_digest(owner), left=left)
        return left

    async def _cancel_all(self, owner: Owner) -> None:
        async with self._storage.read() as tx:
            unfinished = await tx.jobs.find_unfinished(owner, limit=_BATCH)
        for job in unfinished:
            try:
                await self._ending.cancel(job.job_id, owner)
            except AtelierError as error:
                # Its outcome is recorded: it ends when it is settled.
                log.info("erasure_waits", job_id=job.job_id, reason=error.reason)
