"""Every query on the outbox: calls to the asset service that are owed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from library_service.storage.tables import outbox
from service_kit.bulk import among
from service_kit.database import db_now
from service_kit.identity import Owner
from service_kit.ids import new_id


class DebtKind(StrEnum):
    """What is owed."""

    MARK_SAVED = "mark_saved"
    RELEASE_HOLD = "release_hold"


@dataclass(frozen=True, slots=True)
class Debt:
    """One call that is owed; `attempts` have failed."""

    id: str
    kind: DebtKind
    payload: dict[str, Any]
    attempts: int


class Outbox:
    """The outbox within one transaction."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def owe_mark(self, owner: Owner, *, asset_id: str, item_id: str, version: int) -> None:
        """Owe the asset service the news that an asset is saved as an item; an empty item: that it is not saved."""
        await self._owe(
            DebtKind.MARK_SAVED,
            {
                "tenant_id": owner.tenant_id,
                "owner_id": owner.owner_id,
                "asset_id": asset_id,
                "item_id": item_id,
                "version": version,
            },
        )

    async def owe_release(self, holder: str) -> None:
        """Owe the asset service the end of a hold."""
        await self._owe(DebtKind.RELEASE_HOLD, {"holder": holder})

    async def claim_due(self, *, limit: int, claim: timedelta) -> list[Debt]:
        """Take what is to be tried now, what has waited longest first; nobody else gets it until the claim is over."""
        due = select(outbox.c.id).where(outbox.c.due_at <= db_now()).order_by(outbox.c.due_at, outbox.c.id).limit(limit)
        claimed = await self._tx.execute(
            update(outbox)
            .where(outbox.c.id.in_(due.with_for_update(skip_locked=True)))
            .values(due_at=db_now(plus=claim))
            .returning(outbox)
        )
        debts = [Debt(row.id, DebtKind(row.kind), row.payload, row.attempts) for row in claimed]
        # Ids grow with time: what was owed first is tried first.
        return sorted(debts, key=lambda debt: debt.id)

    async def unclaim(self, debt_ids: Sequence[str]) -> None:
        """Give back what was claimed and not tried."""
        await self._tx.execute(update(outbox).where(outbox.c.id.in_(debt_ids)).values(due_at=db_now()))

    async def unclaim_all(self) -> None:
        """Have everything tried at once, where whoever claimed it must be dead."""
        await self._tx.execute(update(outbox).where(outbox.c.due_at > db_now()).values(due_at=db_now()))

    async def settle(self, debt_ids: Sequence[str]) -> None:
        """Remove what is owed no more."""
        await self._tx.execute(delete(outbox).where(among(outbox.c.id, debt_ids)))

    async def postpone(self, debt_ids: Sequence[str], *, wait: timedelta) -> None:
        """Try again after a time."""
        await self._tx.execute(
            update(outbox)
            .where(among(outbox.c.id, debt_ids))
            .values(attempts=outbox.c.attempts + 1, due_at=db_now(plus=wait))
        )

    async def forget_owner(self, owner: Owner) -> None:
        """Remove what is owed about an owner's assets."""
        mine = (outbox.c.payload["tenant_id"].as_string(), outbox.c.payload["owner_id"].as_string())
        await self._tx.execute(delete(outbox).where(mine[0] == owner.tenant_id, mine[1] == owner.owner_id))

    async def _owe(self, kind: DebtKind, payload: dict[str, Any]) -> None:
        await self._tx.execute(
            insert(outbox).values(id=new_id(), kind=kind.value, payload=payload, attempts=0, due_at=db_now())
        )
