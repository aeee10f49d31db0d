"""Every query on the library's blobs. A row is there before the first byte, and goes after the last one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import ColumnElement, and_, insert, or_, select, update
from sqlalchemy import delete as delete_rows
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from library_service.domain import BlobState, Copying
from library_service.storage.tables import blobs
from service_kit.database import db_now
from service_kit.errors import Aborted
from service_kit.identity import Owner


@dataclass(frozen=True, slots=True)
class Doomed:
    """A blob to delete. While something may still write to its key, the row must stay."""

    blob_id: str
    bucket: str
    key: str
    may_be_written: bool


class BlobRows:
    """Blobs within one transaction."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def announce(self, owner: Owner, copies: Sequence[Copying], *, writes_for: timedelta) -> None:
        """Write a COPYING row for each copy that is about to begin."""
        await self._tx.execute(
            insert(blobs).values(
                state=BlobState.COPYING.value, writes_until=db_now(plus=writes_for), ref_count=0, created_at=db_now()
            ),
            [
                {
                    "blob_id": copy.blob_id,
                    "tenant_id": owner.tenant_id,
                    "owner_id": owner.owner_id,
                    "bucket": copy.bucket,
                    "key": copy.key,
                    "content_type": copy.source.media.content_type,
                    "size_bytes": copy.source.media.size_bytes,
                    "sha256": copy.source.media.sha256,
                    "width": copy.source.media.width,
                    "height": copy.source.media.height,
                    "duration_ms": copy.source.media.duration_ms,
                }
                for copy in copies
            ],
        )

    async def go_on(self, blob_ids: Sequence[str], *, writes_for: timedelta) -> None:
        """Say that copies are still being written."""
        await self._tx.execute(
            update(blobs)
            .where(blobs.c.blob_id.in_(blob_ids), blobs.c.state == BlobState.COPYING.value)
            .values(writes_until=db_now(plus=writes_for))
        )

    async def lock_for(self, owner: Owner, copies: Sequence[Copying]) -> None:
        """Keep everybody else from the rows of copies and of their live twins until the end of the transaction.

        All at once and sorted, so that two transactions never wait for each other.
        """
        own = [copy.blob_id for copy in copies]
        digests = {copy.source.media.sha256 for copy in copies}
        twins = and_(_of(owner), blobs.c.sha256.in_(digests), blobs.c.state == BlobState.LIVE.value)
        query = select(blobs.c.blob_id).where(or_(blobs.c.blob_id.in_(own), twins))
        await self._tx.execute(query.order_by(blobs.c.blob_id).with_for_update())

    async def publish(self, owner: Owner, copy: Copying, generation: str) -> str:
        """Count one more use of a copy's bytes. Returns the blob to use: the copy, or a live twin with the same bytes.

        Raises:
            Aborted: the copy was given up meanwhile, or a twin came up at the same moment.
        """
        twin = await self._use_twin(owner, copy)
        state = BlobState.DELETING if twin is not None else BlobState.LIVE
        values = {
            "state": state.value,
            "generation": generation,
            "ref_count": 0 if twin is not None else 1,
            "writes_until": None,
        }
        own = update(blobs).where(blobs.c.blob_id == copy.blob_id, blobs.c.state == BlobState.COPYING.value)
        try:
            changed = await self._tx.execute(own.values(values))
        except IntegrityError as error:
            raise Aborted from error
        if changed.rowcount != 1:
            raise Aborted
        return twin or copy.blob_id

    async def release(self, blob_ids: Sequence[str]) -> None:
        """Count one use less for each id; a blob that nothing uses any more is to be deleted."""
        rows = select(blobs.c.blob_id).where(blobs.c.blob_id.in_(blob_ids))
        await self._tx.execute(rows.order_by(blobs.c.blob_id).with_for_update())
        for blob_id in blob_ids:
            await self._tx.execute(
                update(blobs).where(blobs.c.blob_id == blob_id).values(ref_count=blobs.c.ref_count - 1)
            )
        await self._tx.execute(
            update(blobs)
            .where(blobs.c.blob_id.in_(blob_ids), blobs.c.ref_count <= 0, blobs.c.state == BlobState.LIVE.value)
            .values(state=BlobState.DELETING.value)
        )

    async def give_up(self, blob_ids: Sequence[str]) -> set[str]:
        """Have copies deleted that nothing writes to any more. Returns those that are still known."""
        await self._tx.execute(
            update(blobs)
            .where(blobs.c.blob_id.in_(blob_ids), blobs.c.state == BlobState.COPYING.value)
            .values(state=BlobState.DELETING.value, writes_until=None)
        )
        known = await self._tx.execute(select(blobs.c.blob_id).where(blobs.c.blob_id.in_(blob_ids)))
        return set(known.scalars())

    async def give_up_overdue(self, *, linger: timedelta) -> int:
        """Have copies deleted that nobody went on with in time, and watch their keys for `linger`. Returns how many."""
        overdue = await self._tx.execute(
            update(blobs)
            .where(blobs.c.state == BlobState.COPYING.value, blobs.c.writes_until <= db_now())
            .values(state=BlobState.DELETING.value, writes_until=db_now(plus=linger))
        )
        return overdue.rowcount

    async def give_up_all(self) -> int:
        """Have every copy deleted, where whoever made them must be dead. Returns how many."""
        found = await self._tx.execute(
            update(blobs)
            .where(blobs.c.state == BlobState.COPYING.value)
            .values(state=BlobState.DELETING.value, writes_until=None)
        )
        return found.rowcount

    async def find_doomed(self, *, after: str, limit: int) -> list[Doomed]:
        """Return blobs to delete, by id, after an id."""
        may_be_written = ~or_(blobs.c.writes_until.is_(None), blobs.c.writes_until <= db_now())
        query = (
            select(blobs.c.blob_id, blobs.c.bucket, blobs.c.key, may_be_written.label("may_be_written"))
            .where(blobs.c.state == BlobState.DELETING.value, blobs.c.blob_id > after)
            .order_by(blobs.c.blob_id)
            .limit(limit)
        )
        return [
            Doomed(row.blob_id, row.bucket, row.key, bool(row.may_be_written)) for row in await self._tx.execute(query)
        ]

    async def forget(self, blob_id: str) -> None:
        """Remove the row of a deleted blob, whose key is empty."""
        await self._tx.execute(
            delete_rows(blobs).where(blobs.c.blob_id == blob_id, blobs.c.state == BlobState.DELETING.value)
        )

    async def _use_twin(self, owner: Owner, copy: Copying) -> str | None:
        media = copy.source.media
        used = await self._tx.execute(
            update(blobs)
            .where(
                _of(owner),
                blobs.c.sha256 == media.sha256,
                blobs.c.size_bytes == media.size_bytes,
                blobs.c.content_type == media.content_type,
                blobs.c.state == BlobState.LIVE.value,
            )
            .values(ref_count=blobs.c.ref_count + 1)
            .returning(blobs.c.blob_id)
        )
        found: str | None = used.scalar_one_or_none()
        return found


def _of(owner: Owner) -> ColumnElement[bool]:
    return and_(blobs.c.tenant_id == owner.tenant_id, blobs.c.owner_id == owner.owner_id)
