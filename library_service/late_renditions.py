"""Gives items the renditions that their assets did not have yet when they were saved.

Which items that are was written with them. They are copied as anything that is saved: held, announced, copied, looked
at, committed; so a crash between any two steps leaves nothing behind, and the item is due again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import groupby

from library_service.copying import Copied, Copier
from library_service.domain import Copying, HeldAsset
from library_service.storage import CHANGED, Storage
from library_service.storage.late_items import LateItem
from service_kit import crash
from service_kit.errors import Aborted, AtelierError
from service_kit.events.followers import Changes
from service_kit.identity import Owner
from service_kit.ids import new_id
from service_kit.telemetry import get_logger

log = get_logger(__name__)

FIRST_WAIT = timedelta(seconds=5)
"""How long after an item was saved its asset is asked for the first time."""

MAX_ATTEMPTS = 20
"""How often; with the pauses between it is two days."""

_LONGEST_WAIT = timedelta(hours=4)
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
        for owner, some in groupby(sorted(late, key=_whose), key=lambda one: one.owner):
            mine = list(some)
            try:
                await self._bring(owner, mine)
            except AtelierError as error:
                log.info("late_renditions_postponed", items=len(mine), error=error.message)
                await self._postpone(mine)
        return len(late)

    async def _bring(self, owner: Owner, late: Sequence[LateItem]) -> None:
        holder = f"late:{new_id()}"
        copies: dict[str, list[Copying]] = {}
        used: set[str] = set()
        try:
            held = await self._copier.hold(holder, owner, [one.asset_id for one in late])
            # What is gone has none to give.
            await self._end([one for one in late if one.asset_id not in held])
            there = [one for one in late if one.asset_id in held]
            wanted = await self._lacking(there, held)
            copies = await self._copier.announce(owner, list(wanted.values())) if wanted else {}
            crash.reach("library.late.copying")
            done = await self._copier.copy(holder, owner, copies)
            crash.reach("library.late.copied")
            for one in there:
                files = done.get(one.asset_id, ())
                if isinstance(files, AtelierError):
                    await self._postpone([one])
                elif await self._commit(one, files, is_last=not held[one.asset_id].awaits_renditions):
                    used |= {copy.blob_id for copy, _ in files}
        finally:
            wasted = [copy for some in copies.values() for copy in some if copy.blob_id not in used]
            await self._copier.give_up(wasted, holder)
        self._changes.tell(owner)

    async def _lacking(self, late: Sequence[LateItem], held: dict[str, HeldAsset]) -> dict[str, HeldAsset]:
        """Return the assets of items with only the files that the items lack."""
        async with self._storage.read() as tx:
            known = await tx.late_items.renditions_of([one.item_id for one in late])
        wanted: dict[str, HeldAsset] = {}
        for one in late:
            asset = held[one.asset_id]
            has = known.get(one.item_id)
            # Without any file it was deleted meanwhile.
            files = tuple(file for file in asset.files if has is not None and file.rendition not in has)
            if files:
                wanted[one.asset_id] = replace(asset, files=files)
        return wanted

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
                    await tx.late_items.end([late.item_id])
        except Aborted:
            # A twin of a file came up at this moment: the next round finds it.
            await self._postpone([late])
            return False
        crash.reach("library.late.committed")
        if not is_last and known is not None:
            await self._postpone([late])
        return taken

    async def _postpone(self, late: Sequence[LateItem]) -> None:
        await self._end([one for one in late if one.attempts >= MAX_ATTEMPTS])
        async with self._storage.write() as tx:
            for one in late:
                if one.attempts < MAX_ATTEMPTS:
                    wait = min(FIRST_WAIT * 2 ** (one.attempts - 1), _LONGEST_WAIT)
                    await tx.late_items.postpone([one.item_id], wait=wait)

    async def _end(self, late: Sequence[LateItem]) -> None:
        if late:
            async with self._storage.write() as tx:
                await tx.late_items.end([one.item_id for one in late])


def _whose(late: LateItem) -> tuple[str, str]:
    return late.owner.tenant_id, late.owner.owner_id
