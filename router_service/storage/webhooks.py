"""Every query on webhooks: deliveries, and what the secrets of owners are made from."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ScalarSelect,
    Subquery,
    and_,
    delete,
    func,
    literal,
    null,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from router_service.delivery_domain import deliveries_of
from router_service.domain import Job
from router_service.storage.webhook_tables import webhook_deliveries as deliveries
from router_service.storage.webhook_tables import webhook_secrets as secrets
from router_service.webhook_domain import (
    HOLDS_BACK_FOR,
    IN_ORDER,
    Delivery,
    DeliveryState,
    WebhookDialect,
    WebhookEvent,
)
from service_kit.bulk import among, delete_some, insert_new_rows
from service_kit.database import db_now
from service_kit.errors import NotFound
from service_kit.identity import Owner

# Of how many that are due those to lease are chosen, so that nobody's deliveries keep all others' waiting.
_LOOK_AT = 2000
_Columns = ReadOnlyColumnCollection[str, Any]


@dataclass(frozen=True, slots=True)
class SecretSeed:
    """What one secret of an owner is made from. `position` grows; `retired_at` is None for the newest only."""

    position: int
    key_id: str
    nonce: str
    created_at: datetime
    retired_at: datetime | None


class Deliveries:
    """The deliveries. What transitions of jobs add is written at the end of the transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._new: list[dict[str, Any]] = []

    def add(self, before: Job, after: Job, document: str) -> None:
        """Tell receivers of a transition; `document` is the job after it as JSON."""
        self._new.extend(_to_row(new) | {"document": document} for new in deliveries_of(before, after))

    async def write(self) -> None:
        """Write what was added. What is there already stays as it is."""
        new, self._new = sorted(self._new, key=lambda row: str(row["delivery_id"])), []
        await insert_new_rows(self._connection, deliveries, new, unique=["delivery_id"], returning="delivery_id")

    async def any_due(self) -> bool:
        """Tell whether a delivery is due. What is held back may be: `lease_due` puts it off then."""
        return (await self._connection.execute(_ANY_DUE)).first() is not None

    async def lease_due(
        self, *, limit: int, lease_for: timedelta, most_per_owner: int, busy: Collection[Owner] = ()
    ) -> list[tuple[Delivery, Job]]:
        """Lease deliveries that are due, with the jobs as they were; nobody else gets them for a time.

        Every owner that is not busy has its turn before anybody has a second one; among equals the oldest go first.
        What a receiver is told of a job goes one after the other: see `HOLDS_BACK_FOR`. What is held back is put off
        until that which holds it back is due, so each call looks at a bounded number of rows, however many wait.
        """
        due = _due(busy)
        late = select(due).where(_waits_until(due.c).is_(null())).subquery()
        turn = func.row_number().over(partition_by=[late.c.tenant_id, late.c.owner_id], order_by=late.c.due_at)
        ranked = select(late.c.delivery_id, late.c.due_at, turn.label("turn")).subquery()
        first = (
            select(ranked.c.delivery_id)
            .where(ranked.c.turn <= most_per_owner)
            .order_by(ranked.c.turn, ranked.c.due_at)
            .limit(limit)
        )
        # Chosen and locked in two steps: a window cannot be locked, and another may have been quicker.
        chosen = (
            select(deliveries.c.delivery_id)
            .where(deliveries.c.delivery_id.in_(first), deliveries.c.due_at <= db_now())
            .with_for_update(skip_locked=True)
        )
        leased = (
            update(deliveries)
            .where(deliveries.c.delivery_id.in_(chosen))
            .values(due_at=db_now(plus=lease_for), lease=deliveries.c.lease + 1)
            .returning(deliveries)
        )
        rows = (await self._connection.execute(leased)).all()
        await self._put_off(due)
        found = [(_to_delivery(row), row.document) for row in rows]
        return sorted(found, key=lambda pair: (pair[0].created_at, pair[0].delivery_id))

    async def _put_off(self, due: Subquery) -> None:
        """Let what is held back become due with what holds it back, if that is later."""
        late = select(due.c.delivery_id).where(_waits_until(due.c) > due.c.due_at)
        # Locked first: what is reported meanwhile is seen by the second statement, or waits for it.
        locked = select(deliveries.c.delivery_id).where(deliveries.c.delivery_id.in_(late))
        chosen = (await self._connection.execute(locked.with_for_update(skip_locked=True))).scalars().all()
        if chosen:
            until = _waits_until(deliveries.c)
            behind = among(deliveries.c.delivery_id, chosen), deliveries.c.due_at < until
            await self._connection.execute(update(deliveries).where(*behind).values(due_at=until))

    async def lock(self, delivery_ids: Collection[str]) -> dict[str, Delivery]:
        """Lock deliveries and return those that exist, by id."""
        query = (
            select(deliveries)
            .where(among(deliveries.c.delivery_id, sorted(delivery_ids)))
            .order_by(deliveries.c.delivery_id)
            .with_for_update()
        )
        return {row.delivery_id: _to_delivery(row) for row in await self._connection.execute(query)}

    async def save(self, changed: Sequence[tuple[Delivery, Delivery]]) -> None:
        """Write deliveries that are locked, from what they were to what they are; what they hold back moves along."""
        for before, after in changed:
            values = {name: value for name, value in _to_row(after).items() if name != "delivery_id"}
            same = deliveries.c.delivery_id == after.delivery_id
            await self._connection.execute(update(deliveries).where(same).values(values))
            later = [event.value for event in IN_ORDER[IN_ORDER.index(before.event) + 1 :]]
            if before.holds_back and later:
                # What was put off is due at this very moment, to which nothing else is set. What is due may be put off
                # at the same time, by a look that has not committed: this waits for it, and sees what it did.
                moves = or_(deliveries.c.due_at == before.due_at, deliveries.c.due_at <= db_now())
                waited = deliveries.c.event.in_(later), moves
                due_at = after.due_at if after.holds_back else db_now()
                behind = update(deliveries).where(deliveries.c.job_id == before.job_id, *waited)
                await self._connection.execute(behind.values(due_at=due_at))

    async def find_page(
        self,
        owner: Owner,
        *,
        job_id: str = "",
        state: DeliveryState | None = None,
        before: tuple[datetime, str] | None = None,
        limit: int,
    ) -> list[Delivery]:
        """Return an owner's deliveries, newest first, older than `before` (created_at, delivery_id). May be empty."""
        query = select(deliveries).where(
            deliveries.c.tenant_id == owner.tenant_id, deliveries.c.owner_id == owner.owner_id
        )
        if job_id:
            query = query.where(deliveries.c.job_id == job_id)
        if state is not None:
            query = query.where(deliveries.c.state == state.value)
        if before is not None:
            place = literal(before[0], deliveries.c.created_at.type), literal(before[1], deliveries.c.delivery_id.type)
            query = query.where(tuple_(deliveries.c.created_at, deliveries.c.delivery_id) < tuple_(*place))
        query = query.order_by(deliveries.c.created_at.desc(), deliveries.c.delivery_id.desc()).limit(limit)
        return [_to_delivery(row) for row in await self._connection.execute(query)]

    async def lock_owned(self, delivery_id: str, owner: Owner) -> Delivery:
        """Lock one delivery of one owner and return it. Raises NotFound when there is none."""
        found = (await self.lock([delivery_id])).get(delivery_id)
        if found is None or found.owner != owner:
            raise NotFound.of("delivery", delivery_id)
        return found

    async def remove_finished_of(self, job_id: str) -> None:
        """Forget the deliveries of a job that have ended."""
        mine = (deliveries.c.job_id == job_id, deliveries.c.finished_at.is_not(None))
        await self._connection.execute(delete(deliveries).where(*mine))

    async def remove_finished(self, older_than: timedelta) -> int:
        """Forget some deliveries that ended longer ago than this. Returns how many."""
        return await delete_some(self._connection, deliveries, deliveries.c.finished_at < db_now(plus=-older_than))


_EARLIER = deliveries.alias("earlier")


def _due(busy: Collection[Owner]) -> Subquery:
    """Choose those deliveries that have been due for longest, of owners who are not busy."""
    row = deliveries.c
    enough = tuple_(row.tenant_id, row.owner_id).not_in([(owner.tenant_id, owner.owner_id) for owner in busy])
    needed = select(row.delivery_id, row.tenant_id, row.owner_id, row.job_id, row.event, row.due_at)
    return needed.where(row.due_at <= db_now(), enough).order_by(row.due_at).limit(_LOOK_AT).subquery("due")


def _waits_until(row: _Columns) -> ScalarSelect[datetime | None]:
    """Tell of a row when the last of those that hold it back is due; NULL when none does.

    As a value, for which PostgreSQL always looks the job up; a join may read all that wait.
    """
    after = [
        and_(row.event == event.value, _EARLIER.c.event.in_([before.value for before in IN_ORDER[:place]]))
        for place, event in enumerate(IN_ORDER)
        if place
    ]
    holds_back = _EARLIER.c.due_at.is_not(None), _EARLIER.c.tries < HOLDS_BACK_FOR
    same = _EARLIER.c.job_id == row.job_id
    return select(func.max(_EARLIER.c.due_at)).where(same, *holds_back, or_(*after)).scalar_subquery()


# Made once: gateways ask each second. In order, or PostgreSQL may read the whole table for one row that is not there.
_ANY_DUE = (
    select(deliveries.c.delivery_id).where(deliveries.c.due_at <= db_now()).order_by(deliveries.c.due_at).limit(1)
)


class SecretSeeds:
    """What the secrets of owners are made from."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def find(self, owners: Collection[Owner], *, retired_within: timedelta) -> dict[Owner, list[SecretSeed]]:
        """Return the seeds of some owners that still sign, the newest first. Owners without any are absent."""
        found: dict[Owner, list[SecretSeed]] = {}
        wanted = tuple_(secrets.c.tenant_id, secrets.c.owner_id).in_([(one.tenant_id, one.owner_id) for one in owners])
        query = (
            select(secrets)
            .where(wanted, secrets.c.retired_at.is_(null()) | (secrets.c.retired_at > db_now(plus=-retired_within)))
            .order_by(secrets.c.position.desc())
        )
        for row in await self._connection.execute(query):
            seed = SecretSeed(row.position, row.key_id, row.nonce, row.created_at, row.retired_at)
            found.setdefault(Owner(row.tenant_id, row.owner_id), []).append(seed)
        return found

    async def add(self, owner: Owner, position: int, *, key_id: str, nonce: str) -> bool:
        """Add a seed. Returns whether it was: another may have taken the position."""
        row = {"tenant_id": owner.tenant_id, "owner_id": owner.owner_id, "position": position, "key_id": key_id}
        row |= {"nonce": nonce, "created_at": (await self._connection.execute(select(db_now()))).scalar_one()}
        unique = ["tenant_id", "owner_id", "position"]
        return bool(await insert_new_rows(self._connection, secrets, [row], unique=unique, returning="nonce"))

    async def retire(self, owner: Owner, *, before: int) -> None:
        """Retire the seeds of an owner before a position, but for those that are already."""
        mine = (secrets.c.tenant_id == owner.tenant_id, secrets.c.owner_id == owner.owner_id)
        old = (secrets.c.position < before, secrets.c.retired_at.is_(null()))
        await self._connection.execute(update(secrets).where(*mine, *old).values(retired_at=db_now()))

    async def remove_retired(self, older_than: timedelta) -> int:
        """Forget seeds that sign no more. Returns how many."""
        old = delete(secrets).where(secrets.c.retired_at < db_now(plus=-older_than))
        return (await self._connection.execute(old)).rowcount


def _to_row(delivery: Delivery) -> dict[str, Any]:
    return {
        "delivery_id": delivery.delivery_id,
        "tenant_id": delivery.owner.tenant_id,
        "owner_id": delivery.owner.owner_id,
        "job_id": delivery.job_id,
        "event": delivery.event.value,
        "dialect": delivery.dialect.value,
        "address": delivery.url,
        "state": delivery.state.value,
        "attempts": delivery.attempts,
        "tries": delivery.tries,
        "lease": delivery.lease,
        "created_at": delivery.created_at,
        "due_at": delivery.due_at,
        "attempted_at": delivery.attempted_at,
        "finished_at": delivery.finished_at,
        "last_status": delivery.last_status,
        "last_error": delivery.last_error,
    }


def _to_delivery(row: Any) -> Delivery:
    return Delivery(
        delivery_id=row.delivery_id,
        owner=Owner(row.tenant_id, row.owner_id),
        job_id=row.job_id,
        event=WebhookEvent(row.event),
        dialect=WebhookDialect(row.dialect),
        url=row.address,
        created_at=row.created_at,
        due_at=row.due_at,
        state=DeliveryState(row.state),
        attempts=row.attempts,
        tries=row.tries,
        lease=row.lease,
        attempted_at=row.attempted_at,
        finished_at=row.finished_at,
        last_status=row.last_status,
        last_error=row.last_error,
    )
