"""Erased owners: whose rows are gone from a service, and for whom it takes nothing more.

What is kept of an erased owner is a digest, and only for as long as something late may arrive. Whoever writes the first
row of something for an owner asks here first, in its transaction: the lock lets an erasure wait for those that asked
before it, and lets those that ask after it see it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Collection, Iterable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    MetaData,
    Table,
    Text,
    and_,
    column,
    delete,
    func,
    literal,
    or_,
    select,
    text,
    tuple_,
)
from sqlalchemy import table as table_of
from sqlalchemy.ext.asyncio import AsyncConnection

from service_kit.bulk import among, delete_some, upsert
from service_kit.database import UtcDateTime, db_now
from service_kit.errors import ErrorReason, FailedPrecondition
from service_kit.identity import Owner
from service_kit.postgres_driver import send_later

ERASED_AT_ONCE = 200
"""So many rows, at most, does one transaction of an erasure change."""

_CALL_LIMIT = timedelta(seconds=10)
_NAME = "erased_owners"
# Sorted, so that two transactions that want the same locks never wait for each other; the schema keeps services apart.
_SHARE = (
    "SELECT pg_advisory_xact_lock_shared(hashtextextended(current_schema() || key, 0)) "
    "FROM unnest(%(keys)b::text[]) AS key"
)
_TAKE = text("SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || :key, 0))")
# One row at least, for the sake of the clock.
_ROWS = table_of(_NAME, column("digest", Text))
_ERASED = select(db_now().label("moment"), _ROWS.c.digest).select_from(
    select(literal(1)).subquery().outerjoin(_ROWS, among(_ROWS.c.digest, "digests"))
)


def erased_columns() -> list[Column[Any]]:
    """Return the columns of the table `erased_owners`."""
    return [Column("digest", Text, primary_key=True), Column("erased_at", UtcDateTime, nullable=False)]


def add_erased_table(metadata: MetaData) -> None:
    """Add the table to a service's tables."""
    Table(_NAME, metadata, *erased_columns())


def create_erased_table(op: Any) -> None:
    """Create the table in a migration."""
    op.create_table(_NAME, *erased_columns())


class Erased:
    """The erased owners of one service, within one transaction."""

    def __init__(
        self, tx: AsyncConnection, metadata: MetaData, told_moment: Callable[[datetime], None] | None = None
    ) -> None:
        """Look into the tables of a service, which have `add_erased_table`'s among them.

        Whoever looks hears from the database's clock as well, in `told_moment`: that saves a question.
        """
        self._tx = tx
        self._told_moment = told_moment
        self._metadata = metadata
        self._table = metadata.tables[_NAME]

    async def among(self, owners: Iterable[Owner]) -> set[Owner]:
        """Return those of some owners that are erased. None of them is erased before this transaction has ended."""
        wanted = {owner_digest(owner): owner for owner in owners}
        if wanted and self._tx.dialect.name == "postgresql":
            send_later(self._tx, _SHARE, {"keys": sorted(wanted)})
        # Each statement sees what was committed before it began, and the locks come before this one.
        rows = (await self._tx.execute(_ERASED, {"digests": sorted(wanted)})).all() if wanted else []
        if rows and self._told_moment is not None:
            self._told_moment(rows[0].moment)
        return {wanted[row.digest] for row in rows if row.digest is not None}

    async def refuse(self, owner: Owner) -> None:
        """Raise FailedPrecondition with `owner_erased` for an erased owner; others are not erased meanwhile."""
        if await self.among([owner]):
            raise owner_erased()

    async def mark(self, owner: Owner) -> None:
        """Say that an owner is erased, after all transactions have ended that were told that it is not."""
        digest = owner_digest(owner)
        if self._tx.dialect.name == "postgresql":
            await self._tx.execute(_TAKE, {"key": digest})
        new = upsert(self._tx, self._table).values(digest=digest, erased_at=db_now())
        await self._tx.execute(new.on_conflict_do_update(index_elements=["digest"], set_={"erased_at": db_now()}))

    async def delete_rows(self, owner: Owner, *, keep: Collection[str] = (), limit: int = ERASED_AT_ONCE) -> int:
        """Delete some of the rows that name an owner, and those that hang on them, but for those of some tables.

        Returns:
            How many. Fewer than `limit`: none is left.
        """
        count = 0
        for table in reversed(self._metadata.sorted_tables):
            condition = None if table.name in keep else _of(table, owner)
            if condition is not None and count < limit:
                key = list(table.primary_key.columns)
                some = select(*key).where(condition).limit(limit - count)
                chosen = tuple_(*key).in_(some) if len(key) > 1 else key[0].in_(some)
                count += (await self._tx.execute(delete(table).where(chosen))).rowcount
        return count

    async def count_rows(self, owner: Owner) -> int:
        """Return how many rows name an owner, or hang on one that does."""
        count = 0
        for table in self._metadata.sorted_tables:
            condition = _of(table, owner)
            if condition is not None:
                found = await self._tx.execute(select(func.count()).select_from(table).where(condition))
                count += found.scalar_one()
        return count

    async def trim(self, older_than: timedelta) -> int:
        """Forget some that were erased long ago. Returns how many; when it is none, no old one is left."""
        return await delete_some(self._tx, self._table, self._table.c.erased_at <= db_now(plus=-older_than))


class Steps:
    """The transactions of one call of an erasure, each of a bounded size, until the time of the call is over."""

    def __init__(self, at_once: int = ERASED_AT_ONCE, limit: timedelta = _CALL_LIMIT) -> None:
        self._at_once = at_once
        self._until = asyncio.get_running_loop().time() + limit.total_seconds()

    async def repeat(self, step: Callable[[int], Awaitable[int]]) -> bool:
        """Take a step, which is told how much it may do, until it does less. Tells whether it came to that in time."""
        while await step(self._at_once) >= self._at_once:
            if asyncio.get_running_loop().time() >= self._until:
                return False
        return True


def owner_digest(owner: Owner) -> str:
    """Return what is kept of an erased owner: it tells nobody who it was, and everybody whether it was this one."""
    return hashlib.sha256(json.dumps(["atelier.erased", owner.tenant_id, owner.owner_id]).encode()).hexdigest()


def owner_erased() -> FailedPrecondition:
    """Return the refusal of whatever comes for an erased owner."""
    return FailedPrecondition("The owner was erased: nothing is taken for it any more.", ErrorReason.OWNER_ERASED)


def _of(table: Table, owner: Owner) -> ColumnElement[bool] | None:
    """Return which rows of a table are an owner's, by its columns or by those of what it refers to; None for none."""
    if {"tenant_id", "owner_id"} <= set(table.c.keys()):
        return and_(table.c.tenant_id == owner.tenant_id, table.c.owner_id == owner.owner_id)
    hanging = []
    for constraint in table.foreign_key_constraints:
        parent = constraint.referred_table
        mine = _of(parent, owner)
        if mine is not None:
            keys = [element.column for element in constraint.elements]
            own = [element.parent for element in constraint.elements]
            inside = select(*keys).where(mine)
            hanging.append(own[0].in_(inside) if len(own) == 1 else tuple_(*own).in_(inside))
    return or_(*hanging) if hanging else None
