"""Gives items the renditions that their assets did not have yet when they were saved.

Which items that are was written with them. Their assets are held from before that until they have all, or nothing more
is to be hoped for, so that one that is discarded meanwhile is hidden only. They are copied as anything that is saved:
held, announced, copied, looked at, committed; so a crash between any two steps leaves nothing behind, and the item is
due again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence, Set
from dataclasses import replace
from datetime import timedelta

from library_service.copying import Copied, Copier
from library_service.domain import Copying, HeldAsset
from library_service.storage import CHANGED, Storage, Transaction
from library_service.storage.late_items import LateItem
from service_kit import crash
from service_kit.errors import Aborted, AtelierError
from service_kit.events.followers import Changes
from service_kit.identity import Owner
from service_kit.telemetry import get_logger

log = get_logger(__name__)

FIRST_WAIT = timedelta(seconds=5)
"""How long after an item was saved its asset is asked for the first time."""

MAX_ATTEMPTS = 100
"""How often; with the pauses between it is two days."""

_LONGEST_WAIT = timedelta(minutes=30)
_MOST_DOUBLINGS = 20
# The longest that a hold can be taken for, and longer than the longest wait: each look takes it anew.
_KEPT_FOR = timedelta(hours=1)
_AT_ONCE = 20
# Longer than all copies of one round may take.
_CLAIM = timedelta(minutes=10)


class LateRenditions:
    """Brings renditions to items."""

    def __init__(self, storage: Storage, copier: Copier, changes: Changes) -> None:
        self._storage = storage
        self._copier = copier
        self._changes = changes

    async def bring_due(self) -> int:
        """Look after some of the items that are due. Returns how many there were."""
        async with self._storage.write() as tx:
            late = await tx.late_items.claim(limit=_AT_ONCE, claim=_CLAIM)
            known = await tx.late_items.renditions_of([one.item_id for one in late]) if late else {}
        for one in late:
            try:
                await self._bring(one, known.get(one.item_id))
            except AtelierError as error:
                log.info("late_renditions_postponed", item_id=one.item_id, error=error.message)
                await self._postpone(one)
        return len(late)

    async def _bring(self, late: LateItem, has: Set[str] | None) -> None:
        """Look after an item that has some renditions; None: it was deleted."""
        holder, owner, asset_id = _holder(late.asset_id), late.owner, late.asset_id
        copies: dict[str, list[Copying]] = {}
        used: set[str] = set()
        try:
            held = await self._copier.keep(holder, owner, asset_id, _KEPT_FOR)
            if held is None:
                # What is gone has none to give.
                await self._end(late)
                return
            lacking = tuple(file for file in held.files if has is not None and file.rendition not in has)
            copies = await self._copier.announce(owner, [replace(held, files=lacking)]) if lacking else {}
            crash.reach("library.late.copying")
            done = await self._copier.copy(holder, owner, copies)
            crash.reach("library.late.copied")
            files = done.get(asset_id, ())
            if isinstance(files, AtelierError):
                await self._postpone(late)
            elif await self._commit(late, files, is_last=not held.awaits_renditions):
                used = {copy.blob_id for copy, _ in files}
        finally:
            wasted = [copy for some in copies.values() for copy in some if copy.blob_id not in used]
            await self._copier.give_up(wasted, None)
        self._changes.tell(owner)

    async def _commit(self, late: LateItem, files: Copied, *, is_last: bool) -> bool:
        """Give an item its files. Tells whether it has them now; it is not when it was deleted, or got them already."""
        try:
            async with self._storage.write() as tx:
                await tx.erased.refuse(late.owner)
                known = await tx.late_items.lock(late)
                taken = (
                    bool(files) and known is not None and known.isdisjoint(copy.source.rendition for copy, _ in files)
                )
                if taken:
                    await tx.blobs.lock_for(late.owner, [copy for copy, _ in files])
                    blob_ids = await tx.blobs.publish(late.owner, files)
                    named = [(copy.source, blob_id) for (copy, _), blob_id in zip(files, blob_ids, strict=True)]
                    await tx.late_items.add_files(late, named)
                    item = await tx.items.find(late.owner, late.item_id)
                    if item is not None and item.trashed_at is None:
                        tx.tell(item, CHANGED)
                if is_last or known is None:
                    await _end(tx, late)
        except Aborted:
            # A twin of a file came up at this moment: the next round finds it.
            await self._postpone(late)
            return False
        crash.reach("library.late.committed")
        if not is_last and known is not None:
            await self._postpone(late)
        return taken

    async def _postpone(self, late: LateItem) -> None:
        if late.attempts >= MAX_ATTEMPTS:
            await self._end(late)
            return
        # Without an end to the doublings the number would have none either.
        wait = min(FIRST_WAIT * 2 ** min(late.attempts - 1, _MOST_DOUBLINGS), _LONGEST_WAIT)
        async with self._storage.write() as tx:
            await tx.late_items.postpone([late.item_id], wait=wait)

    async def _end(self, late: LateItem) -> None:
        async with self._storage.write() as tx:
            await _end(tx, late)


async def keep_for_later(copier: Copier, owner: Owner, saved: Sequence[HeldAsset]) -> None:
    """Have the bytes of assets stay that await renditions, also when they are discarded right after they were saved.

    A save does not fail for it: without it an item may only lack its renditions.
    """
    ids = [asset.asset_id for asset in saved if asset.awaits_renditions]
    for some in (ids[start : start + _AT_ONCE] for start in range(0, len(ids), _AT_ONCE)):
        try:
            async with asyncio.TaskGroup() as group:
                for name in some:
                    group.create_task(copier.keep(_holder(name), owner, name, _KEPT_FOR))
        except* AtelierError as errors:
            log.info("late_renditions_unheld", assets=len(some), error=str(errors.exceptions[0]))


def _holder(asset_id: str) -> str:
    """Return as whom the asset of a late item is held: only who held it before it was discarded may go on."""
    return f"late:{asset_id}"


async def _end(tx: Transaction, late: LateItem) -> None:
    await tx.late_items.end([late.item_id])
    await tx.outbox.owe_release(_holder(late.asset_id))
