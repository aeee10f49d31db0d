"""Every query on the library's blobs. A row is there before the first byte, and goes after the last one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import ColumnElement, and_, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from library_service.domain import BlobState, Copying, Place
from library_service.storage.tables import blobs, item_files
from service_kit.blobs import BlobInfo
from service_kit.bulk import among, update_rows
from service_kit.database import db_now
from service_kit.errors import Aborted
from service_kit.identity import Owner

_Bytes = tuple[str, int, str]
"""What tells bytes apart: digest, size, type."""


@dataclass(frozen=True, slots=True)
class Doomed:
    """A blob to delete. While something may still write to its key, the row must stay."""

    blob_id: str
    bucket: str
    key: str
    may_be_written: bool


@dataclass(frozen=True, slots=True)
class Live:
    """A blob that should be there: how often its row says that it is used, how often it is, and an item that has it."""

    blob_id: str
    place: Place
    size_bytes: int
    ref_count: int
    uses: int
    item_id: str


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

    async def publish(self, owner: Owner, copied: Sequence[tuple[Copying, str]]) -> list[str]:
        """Count one more use of the bytes of each copy, given with its generation. The rows are locked.

        Returns:
            The blob to use for each: the copy, or a live twin with the same bytes.

        Raises:
            Aborted: a copy was given up meanwhile, or a twin came up at the same moment.
        """
        live = await self._live(owner, [copy for copy, _ in copied])
        twins, uses, used, own = frozenset(live.values()), Counter[str](), [], []
        for copy, _ in copied:
            blob_id = live.setdefault(_bytes_of(copy), copy.blob_id)
            uses[blob_id] += 1
            used.append(blob_id)
        for copy, generation in copied:
            twin = live[_bytes_of(copy)] != copy.blob_id
            state = BlobState.DELETING if twin else BlobState.LIVE
            own.append(
                {
                    "blob_id": copy.blob_id,
                    "state": BlobState.COPYING.value,
                    "new_state": state.value,
                    "generation": generation,
                    "ref_count": 0 if twin else uses[copy.blob_id],
                    "writes_until": None,
                }
            )
        try:
            changed = await update_rows(self._tx, blobs, own, match=("blob_id", "state"))
        except IntegrityError as error:
            raise Aborted from error
        if changed != len(own):
            raise Aborted
        for blob_id in sorted(twins & uses.keys()):
            await self._use(blob_id, uses[blob_id])
        return used

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
            delete(blobs).where(blobs.c.blob_id == blob_id, blobs.c.state == BlobState.DELETING.value)
        )

    async def known_keys(self, keys: Sequence[str]) -> set[str]:
        """Return those of some keys that a row knows."""
        return set((await self._tx.execute(select(blobs.c.key).where(among(blobs.c.key, keys)))).scalars())

    async def users_of(self, key: str, *, limit: int) -> list[str]:
        """Return the ids of items that have the bytes at a key, in their order; empty when none has."""
        query = select(item_files.c.item_id).distinct().join(blobs, blobs.c.blob_id == item_files.c.blob_id)
        found = await self._tx.execute(query.where(blobs.c.key == key).order_by(item_files.c.item_id).limit(limit))
        return list(found.scalars())

    async def find_live(self, *, after: str, limit: int) -> list[Live]:
        """Return blobs that are in use, or should be, by id, after an id, each with how often it is used."""
        uses = select(func.count()).select_from(item_files).where(item_files.c.blob_id == blobs.c.blob_id)
        item = select(func.min(item_files.c.item_id)).where(item_files.c.blob_id == blobs.c.blob_id)
        query = (
            select(blobs, uses.scalar_subquery().label("uses"), item.scalar_subquery().label("item_id"))
            .where(blobs.c.state == BlobState.LIVE.value, blobs.c.blob_id > after)
            .order_by(blobs.c.blob_id)
            .limit(limit)
        )
        return [
            Live(
                row.blob_id,
                Place(row.bucket, row.key, row.generation),
                row.size_bytes,
                row.ref_count,
                row.uses,
                row.item_id or "",
            )
            for row in await self._tx.execute(query)
        ]

    async def recount(self, blob_id: str) -> bool:
        """Count again how often a live blob is used, under its lock; one that nothing uses is to be deleted.

        Returns:
            Whether it was live and counted wrongly.
        """
        locked = select(blobs.c.ref_count).where(blobs.c.blob_id == blob_id, blobs.c.state == BlobState.LIVE.value)
        counted = (await self._tx.execute(locked.with_for_update())).scalar_one_or_none()
        uses = select(func.count()).select_from(item_files).where(item_files.c.blob_id == blob_id)
        used = (await self._tx.execute(uses)).scalar_one()
        if counted is None or counted == used:
            return False
        state = BlobState.LIVE if used else BlobState.DELETING
        await self._tx.execute(
            update(blobs).where(blobs.c.blob_id == blob_id).values(ref_count=used, state=state.value)
        )
        return True

    async def take_stray(self, blob_id: str, owner: Owner, stray: BlobInfo) -> None:
        """Write a row for a blob that has none: it is to be deleted."""
        await self._tx.execute(
            insert(blobs).values(
                blob_id=blob_id,
                tenant_id=owner.tenant_id,
                owner_id=owner.owner_id,
                state=BlobState.DELETING.value,
                bucket=stray.bucket,
                key=stray.key,
                generation=stray.generation,
                content_type=stray.content_type,
                size_bytes=stray.size_bytes,
                sha256=stray.sha256,
                width=0,
                height=0,
                duration_ms=0,
                ref_count=0,
                created_at=db_now(),
            )
        )

    async def give_up_owner(self, owner: Owner, *, limit: int) -> int:
        """Have some of an owner's blobs deleted, whoever uses them; what may still be written to stays until then.

        Returns:
            How many. Fewer than `limit`: there are no more.
        """
        some = select(blobs.c.blob_id).where(_of(owner), blobs.c.state != BlobState.DELETING.value).limit(limit)
        given_up = await self._tx.execute(
            update(blobs).where(blobs.c.blob_id.in_(some)).values(state=BlobState.DELETING.value, ref_count=0)
        )
        return given_up.rowcount

    async def _live(self, owner: Owner, copies: Sequence[Copying]) -> dict[_Bytes, str]:
        """Return the owner's live blobs that may have the bytes of copies."""
        digests = sorted({copy.source.media.sha256 for copy in copies})
        query = select(blobs.c.sha256, blobs.c.size_bytes, blobs.c.content_type, blobs.c.blob_id).where(
            _of(owner), among(blobs.c.sha256, digests), blobs.c.state == BlobState.LIVE.value
        )
        return {(row.sha256, row.size_bytes, row.content_type): row.blob_id for row in await self._tx.execute(query)}

    async def _use(self, blob_id: str, times: int) -> None:
        used = await self._tx.execute(
            update(blobs)
            .where(blobs.c.blob_id == blob_id, blobs.c.state == BlobState.LIVE.value)
            .values(ref_count=blobs.c.ref_count + times)
        )
        if used.rowcount != 1:
            raise Aborted


def _bytes_of(copy: Copying) -> _Bytes:
    media = copy.source.media
    return media.sha256, media.size_bytes, media.content_type


def _of(owner: Owner) -> ColumnElement[bool]:
    return and_(blobs.c.tenant_id == owner.tenant_id, blobs.c.owner_id == owner.owner_id)
