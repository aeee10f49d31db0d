"""The sweep: compares the library's bucket with its rows. Blobs without a row are deleted; an item never is.

A row is there before the first byte at its key, and is gone only after the last: so a blob that was listed before the
rows were read, and that no row knows, has been forgotten. It gets a row again, which says DELETING, and goes the way of
every other. Nothing is concluded from a row whose blob is missing: a store that was mounted wrongly looks the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from library_service.storage import Storage
from library_service.storage.blob_rows import Live
from service_kit import crash
from service_kit.blobs import LIBRARY_BUCKET, BlobInfo, BlobStore, UnreadableBlob, owner_of_key
from service_kit.identity import Owner
from service_kit.ids import new_id
from service_kit.sweeping import (
    ROWS_AT_ONCE,
    Finding,
    Place,
    SweepAction,
    SweepKind,
    SweptPage,
    damaged,
    list_some,
    not_a_blob,
    place_of,
    token_of,
)
from service_kit.verifying import AT_ONCE_BYTES, Verifying

_TOKEN = "library.sweep"  # noqa: S105 - the name of a list, not a secret
_BLOBS, _ROWS = "blobs", "rows"
_PARTS = frozenset({_BLOBS, _ROWS})

_NAMED = 10
"""How many items a finding names."""

_UNKNOWN = "No row knows these bytes: no item has them."
_LOST = "The bytes of an item are not there: restore them from a backup, or delete the item."
_UNUSED = "The row says that these bytes are used, and no item has them."
_MISCOUNTED = "The row says that {counted} files have these bytes, and it is {used}: it is counted again."


class Sweep:
    """Finds what does not fit, and deletes the blobs that nobody can miss."""

    def __init__(self, storage: Storage, store: BlobStore, delete_doomed: Callable[[], Awaitable[object]]) -> None:
        """Compare a store with the rows; `delete_doomed` deletes the bytes of all whose rows say so."""
        self._storage = storage
        self._store = store
        self._delete_doomed = delete_doomed
        self._verifying = Verifying(store)

    async def page(self, dry_run: bool, token: str, *, verify: bool = False) -> SweptPage:
        """Look at some blobs or rows, and say where the next page begins. With `verify` the bytes of blobs are read.

        Raises:
            InvalidArgument: the token is not of this sweep.
        """
        place = place_of(_TOKEN, token, _BLOBS, _PARTS)
        swept = await (
            self._blobs(dry_run, place.after, verify) if place.part == _BLOBS else self._rows(dry_run, place)
        )
        if any(finding.action is SweepAction.DELETED for finding in swept.findings):
            await self._delete_doomed()
        return swept

    async def _blobs(self, dry_run: bool, after: str, verify: bool) -> SweptPage:
        listed = await list_some(self._store, LIBRARY_BUCKET, after, most_bytes=AT_ONCE_BYTES if verify else None)
        # Listed before this looks at the rows.
        async with self._storage.read() as tx:
            known = await tx.blobs.known_keys(listed.keys)
        dealt = [await self._deal(info, dry_run) for info in listed.blobs if info.key not in known]
        findings = [finding for finding in dealt if finding is not None]
        findings += [not_a_blob(entry, await self._subject(entry.key, known)) for entry in listed.others]
        read = [info for info in listed.blobs if verify and info.key in known]
        for info in read:
            if why := await self._verifying.damage(info):
                findings.append(damaged(info, await self._subject(info.key, known), why))
        following = Place(_ROWS, "") if listed.after is None else Place(_BLOBS, listed.after)
        read_bytes = sum(info.size_bytes for info in read)
        return SweptPage(tuple(findings), len(listed.blobs), 0, token_of(_TOKEN, following), read_bytes)

    async def _rows(self, dry_run: bool, place: Place) -> SweptPage:
        async with self._storage.read() as tx:
            rows = await tx.blobs.find_live(after=place.after, limit=ROWS_AT_ONCE)
        findings = [await self._judge(row, dry_run) for row in rows]
        following = Place(_ROWS, rows[-1].blob_id) if len(rows) == ROWS_AT_ONCE else None
        found = tuple(finding for finding in findings if finding is not None)
        return SweptPage(found, 0, len(rows), token_of(_TOKEN, following))

    async def _subject(self, key: str, known: set[str]) -> str:
        """Return what has the bytes at a key: `item 0197…`, or several; empty when no row knows the key."""
        if key not in known:
            return ""
        async with self._storage.read() as tx:
            items = await tx.blobs.users_of(key, limit=_NAMED + 1)
        more = " and more" if len(items) > _NAMED else ""
        return ", ".join(f"item {item_id}" for item_id in items[:_NAMED]) + more or "a blob that no item has"

    async def _deal(self, info: BlobInfo, dry_run: bool) -> Finding | None:
        """Say what is to be said about a blob that no row knows, and have it deleted; None when it has just gone."""
        try:
            now = await self._store.stat(LIBRARY_BUCKET, info.key)
        except UnreadableBlob:
            # It became something else in this moment; the next sweep tells of it.
            return None
        if now is None or now.generation != info.generation:
            return None
        finding = Finding(
            SweepKind.BLOB_WITHOUT_ROW,
            info.bucket,
            info.key,
            info.generation,
            info.size_bytes,
            _UNKNOWN,
            SweepAction.WOULD_DELETE,
            created_at=info.created_at,
        )
        if dry_run:
            return finding
        async with self._storage.write() as tx:
            if await tx.blobs.known_keys([info.key]):
                return None
            await tx.blobs.take_stray(new_id(), owner_of_key(info.key) or Owner("", ""), info)
        crash.reach("library.sweep.committed")
        return replace(finding, action=SweepAction.DELETED)

    async def _judge(self, row: Live, dry_run: bool) -> Finding | None:
        """Say what is to be said about a row; None when its blob is there and counted, or it has just changed."""
        finding = Finding(
            SweepKind.ROW_WITHOUT_BLOB,
            row.place.bucket,
            row.place.key,
            row.place.generation,
            row.size_bytes,
            _LOST,
            subject=f"item {row.item_id}" if row.item_id else f"blob {row.blob_id}",
        )
        try:
            info = await self._store.stat(row.place.bucket, row.place.key)
        except UnreadableBlob:
            # It was told when the blobs were looked at.
            return None
        if info is None or info.generation != row.place.generation:
            return finding if await self._is_still(row) else None
        if row.uses == row.ref_count:
            return None
        why = _MISCOUNTED.format(counted=row.ref_count, used=row.uses) if row.uses else _UNUSED
        finding = replace(finding, kind=SweepKind.UNUSED_BLOB, explanation=why)
        if dry_run:
            wrong = await self._is_still(row)
            action = SweepAction.REPORTED if row.uses else SweepAction.WOULD_DELETE
        else:
            async with self._storage.write() as tx:
                wrong = await tx.blobs.recount(row.blob_id)
            action = SweepAction.REPORTED if row.uses else SweepAction.DELETED
        return replace(finding, action=action) if wrong else None

    async def _is_still(self, row: Live) -> bool:
        async with self._storage.read() as tx:
            # Ids are longer than their beginnings: nothing comes between.
            found = await tx.blobs.find_live(after=row.blob_id[:-1], limit=1)
        return row in found
