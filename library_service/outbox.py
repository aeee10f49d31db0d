"""Makes the calls to the asset service that the outbox owes, each until it succeeds."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from library_service.clients import AssetControl
from library_service.storage import Storage
from library_service.storage.outbox import Debt, DebtKind
from service_kit.errors import AtelierError, FailedPrecondition, InvalidArgument, NotFound
from service_kit.identity import Owner
from service_kit.telemetry import get_logger

_BATCH = 10
# Longer than a batch of calls may take: a replica that dies with it leaves it to the others then.
_CLAIM = timedelta(minutes=2)
_FIRST_WAIT = timedelta(milliseconds=500)
_LONGEST_WAIT = timedelta(minutes=1)
# What a repeat of the same call can never cure.
_PERMANENT = (InvalidArgument, NotFound, FailedPrecondition)

log = get_logger(__name__)


class Deliveries:
    """Pays what the outbox owes."""

    def __init__(self, storage: Storage, assets: AssetControl) -> None:
        self._storage = storage
        self._assets = assets
        self._turn = asyncio.Lock()

    async def deliver_due(self) -> int:
        """Try everything that is due once. Returns how many calls succeeded; the others are tried again later."""
        done = 0
        async with self._turn:
            while True:
                async with self._storage.write() as tx:
                    debts = await tx.outbox.claim_due(limit=_BATCH, claim=_CLAIM)
                left = [debt.id for debt in debts]
                try:
                    for debt in debts:
                        done += await self._deliver(debt)
                        left.remove(debt.id)
                finally:
                    # Whoever breaks off, such as a call that waited long enough, leaves the rest to the next round.
                    if left:
                        async with self._storage.write() as tx:
                            await tx.outbox.unclaim(left)
                if len(debts) < _BATCH:
                    return done

    async def _deliver(self, debt: Debt) -> bool:
        try:
            await self._call(debt)
        except _PERMANENT as error:
            # It blocks nothing else, and nobody waits for it; but it should not happen.
            log.error("outbox_call_refused", kind=debt.kind, payload=debt.payload, error=error.message)
        except AtelierError as error:
            wait = min(_FIRST_WAIT * 2 ** min(debt.attempts, 16), _LONGEST_WAIT)
            log.warning("outbox_call_failed", kind=debt.kind, attempts=debt.attempts + 1, error=error.message)
            async with self._storage.write() as tx:
                await tx.outbox.postpone(debt.id, wait=wait)
            return False
        async with self._storage.write() as tx:
            await tx.outbox.settle(debt.id)
        return True

    async def _call(self, debt: Debt) -> None:
        owed = debt.payload
        if debt.kind is DebtKind.RELEASE_HOLD:
            await self._assets.release_hold(owed["holder"])
            return
        await self._assets.mark_saved(
            Owner(owed["tenant_id"], owed["owner_id"]),
            asset_id=owed["asset_id"],
            item_id=owed["item_id"],
            version=owed["version"],
        )
