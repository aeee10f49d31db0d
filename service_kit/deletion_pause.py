"""The pause that a backup asks for: while it lasts, a service deletes no blob.

A row that has to go is still marked at once; only its bytes stay until the pause is over. Whoever deletes looks here
after the row was marked, and before the bytes go: a backup that has set the pause first and looked at the rows then
finds the bytes of every row that is not marked. A pause has a deadline, so that a backup that died stops nobody.
"""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import Any, cast

from sqlalchemy import Column, Integer, MetaData, Table, Text, delete, select, update

from service_kit.blobs import BlobStore
from service_kit.bulk import upsert
from service_kit.database import Database, UtcDateTime, db_now
from service_kit.errors import Unavailable

_LOOK_AGAIN = timedelta(seconds=30)
_NAME = "deletion_pause"


def pause_columns() -> list[Column[Any]]:
    """Return the columns of the table `deletion_pause`: one row, or none."""
    return [
        Column("id", Integer, primary_key=True, autoincrement=False),
        # Who asked for it, so that one backup never takes the pause of another for its own.
        Column("token", Text, nullable=False),
        Column("until", UtcDateTime, nullable=False),
    ]


def add_pause_table(metadata: MetaData) -> None:
    """Add the table to a service's tables."""
    Table(_NAME, metadata, *pause_columns())


def create_pause_table(op: Any) -> None:
    """Create the table in a migration, with no pause in it."""
    op.create_table(_NAME, *pause_columns())


_pause = Table(_NAME, MetaData(), *pause_columns())


async def begin_pause(db: Database, length: timedelta) -> str:
    """Have a service delete no blob for a time from now on. Returns the token to go on with."""
    token = secrets.token_hex(8)
    async with db.write() as tx:
        new = upsert(tx, _pause).values(id=1, token=token, until=db_now(plus=length))
        taken = {"token": new.excluded.token, "until": new.excluded.until}
        await tx.execute(new.on_conflict_do_update(index_elements=["id"], set_=taken))
    return token


async def extend_pause(db: Database, token: str, length: timedelta) -> bool:
    """Prolong a pause. Returns False when it lapsed meanwhile, or somebody else began one: then bytes may be gone."""
    async with db.write() as tx:
        changed = await tx.execute(
            update(_pause).where(_pause.c.token == token, _pause.c.until > db_now()).values(until=db_now(plus=length))
        )
        return changed.rowcount == 1


async def end_pause(db: Database, token: str) -> None:
    """Let a service delete again."""
    async with db.write() as tx:
        await tx.execute(delete(_pause).where(_pause.c.token == token))


async def is_paused(db: Database) -> bool:
    """Return whether no blob may be deleted at this moment."""
    async with db.read() as tx:
        return (await tx.execute(select(_pause.c.id).where(_pause.c.until > db_now()))).first() is not None


class _Pausing:
    def __init__(self, store: BlobStore, db: Database) -> None:
        self._store = store
        self._db = db

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def delete(self, bucket: str, key: str, generation: str) -> bool:
        if await is_paused(self._db):
            raise Unavailable("A backup is running: nothing is deleted meanwhile.", retry_after=_LOOK_AGAIN)
        return await self._store.delete(bucket, key, generation)


def pausing(store: BlobStore, db: Database) -> BlobStore:
    """Return a store that answers `delete` with Unavailable while a backup of this service is running."""
    return cast(BlobStore, _Pausing(store, db))
