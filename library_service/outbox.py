"""Makes the calls to the asset service that the outbox owes, each until it succeeds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from library_service.clients import AssetControl
from library_service.domain import Mark
from library_service.storage import Storage
from library_service.storage.outbox import Debt, DebtKind
from service_kit.errors import AtelierError, FailedPrecondition, InvalidArgument, NotFound
from service_kit.identity import Owner
from service_kit.telemetry import get_logger

_BATCH = 200
# A replica that dies with a batch leaves it to the others then. One that takes longer has some of its calls made twice,
# which changes nothing: a mark carries a version, and what is released stays so.
_CLAIM = timedelta(seconds=10)
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
                left = {debt.id for debt in debts}
                try:
                    for some in _calls(debts):
                        done += await self._deliver(some)
                        left -= {debt.id for debt in some}
                finally:
                    # Whoever breaks off, such as a call that waited long enough, leaves the rest to the next round.
                    if left:
                        async with self._storage.write() as tx:
                            await tx.outbox.unclaim(sorted(left))
                if len(debts) < _BATCH:
                    return done

    async def _deliver(self, debts: Sequence[Debt]) -> int:
        """Make one call. Returns how many debts it has paid."""
        ids = [debt.id for debt in debts]
        try:
            await self._call(debts)
        except _PERMANENT as error:
            if len(debts) > 1:
                # One that is refused for good must not take the others with it.
                return sum([await self._deliver([debt]) for debt in debts])
            # It blocks nothing else, and nobody waits for it; but it should not happen.
            log.error("outbox_call_refused", kind=debts[0].kind, payload=debts[0].payload, error=error.message)
        except AtelierError as error:
            attempts = max(debt.attempts for debt in debts)
            wait = min(_FIRST_WAIT * 2 ** min(attempts, 16), _LONGEST_WAIT)
            log.warning("outbox_call_failed", kind=debts[0].kind, attempts=attempts + 1, error=error.message)
            async with self._storage.write() as tx:
                await tx.outbox.postpone(ids, wait=wait)
            return 0
        async with self._storage.write() as tx:
            await tx.outbox.settle(ids)
        return len(ids)

    async def _call(self, debts: Sequence[Debt]) -> None:
        if debts[0].kind is DebtKind.RELEASE_HOLD:
            await self._assets.release_hold(debts[0].payload["holder"])
            return
        await self._assets.mark_saved([_mark(debt.payload) for debt in debts])


def _calls(debts: Sequence[Debt]) -> Iterator[list[Debt]]:
    """Give debts as they are paid: what is said of saved assets together, the end of each hold by itself."""
    marks = [debt for debt in debts if debt.kind is DebtKind.MARK_SAVED]
    if marks:
        yield marks
    for debt in debts:
        if debt.kind is DebtKind.RELEASE_HOLD:
            yield [debt]


def _mark(owed: Mapping[str, Any]) -> Mark:
    owner = Owner(owed["tenant_id"], owed["owner_id"])
    return Mark(owner, owed["asset_id"], owed["item_id"], owed["version"])
