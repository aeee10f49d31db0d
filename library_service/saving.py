"""Saves assets: hold, copy on the server, verify, commit. Whatever breaks off leaves the asset where it was."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial

from library_service.copying import Copied, Copier
from library_service.domain import Copying, HeldAsset, Item, SaveResult
from library_service.late_renditions import FIRST_WAIT, keep_for_later
from library_service.moves import restore
from library_service.outbox import Deliveries
from library_service.storage import SAVED, Storage, Transaction
from library_service.storage.saves import NewItem
from service_kit import crash
from service_kit.errors import Aborted, AtelierError, InvalidArgument, NotFound, Unavailable
from service_kit.events.followers import Changes
from service_kit.finishing import OneAtATime
from service_kit.identity import Caller
from service_kit.ids import new_id, parse_id
from service_kit.telemetry import get_logger

_TOGETHER = 64
_TRIES = 3
_DELIVERY_LIMIT_S = 2.0
_AT_ONCE = 256

log = get_logger(__name__)
Outcomes = dict[str, Item | AtelierError]
"""What became of assets, by id: the item, or why there is none."""


class Saving:
    """Copies assets into libraries, each once."""

    def __init__(self, storage: Storage, copier: Copier, deliveries: Deliveries, changes: Changes) -> None:
        self._storage = storage
        self._copier = copier
        self._deliveries = deliveries
        self._changes = changes
        self._begun = OneAtATime(_AT_ONCE)

    async def close(self) -> None:
        """Break off what is being saved; what that leaves is given up later, as after a crash."""
        await self._begun.break_off()

    async def save(self, caller: Caller, asset_ids: Sequence[str], key: str = "") -> list[SaveResult]:
        """Save assets of the caller's workspace. Returns what became of each, in the order that was asked.

        An asset whose item is in the trash gets it back, unless it was trashed after this was asked: a call that has an
        idempotency key was asked when the key came first. What was begun is done, though the caller has gone.

        Raises:
            Unavailable: nothing was saved; the asset service cannot be reached, or too much is being saved.
            FailedPrecondition: `owner_erased`.
        """
        async with self._storage.read() as tx:
            asked_at = await tx.now()
        outcomes: Outcomes = {}
        for some in _together(asset_ids):
            work = partial(self._save_some, caller, some, asked_at, key)
            try:
                outcomes |= await self._begun.run(caller.owner, (caller.owner, *some), work)
            except Unavailable as error:
                outcomes |= dict.fromkeys(some, error)
        results = [_result(asset_id, outcomes[asset_id]) for asset_id in asset_ids]
        failures = [result.failure for result in results]
        if failures and all(isinstance(failure, Unavailable) for failure in failures):
            raise Unavailable(
                "Nothing was saved: the workspace cannot be reached, or too much is being saved at the moment. Repeat.",
                retry_after=timedelta(seconds=1),
            )
        await self._deliver()
        return results

    async def _save_some(self, caller: Caller, asset_ids: Sequence[str], asked_at: datetime, key: str) -> Outcomes:
        outcomes: Outcomes = {asset_id: NotFound.of("asset", asset_id) for asset_id in asset_ids}
        left = [asset_id for asset_id in asset_ids if _is_id(asset_id)]
        if key:
            answered = await self._answered(caller, left, key)
            outcomes |= answered
            left = [asset_id for asset_id in left if asset_id not in answered]
        for _ in range(_TRIES):
            saved = await self._saved_already(caller, left, asked_at, key)
            outcomes |= saved
            left = [asset_id for asset_id in left if asset_id not in saved]
            if not left:
                return outcomes
            outcomes |= await self._copy_in(caller, left, asked_at, key)
            left = [asset_id for asset_id in left if isinstance(outcomes[asset_id], Aborted)]
        return outcomes | {
            asset_id: Aborted("Something else changed this item at the same moment; repeat.") for asset_id in left
        }

    async def _answered(self, caller: Caller, asset_ids: Sequence[str], key: str) -> Outcomes:
        """Return what the first call of an idempotency key has saved, as it is now: nothing is restored."""
        async with self._storage.read() as tx:
            answered = await tx.saves.answered(caller.owner, key, asset_ids)
            items = await tx.saves.find_items(caller.owner, list(answered.values()))
        return {
            asset_id: items.get(item_id) or NotFound("This call has saved the asset, and its item was deleted since.")
            for asset_id, item_id in answered.items()
        }

    async def _saved_already(self, caller: Caller, asset_ids: Sequence[str], asked_at: datetime, key: str) -> Outcomes:
        """Return the items of those assets that have one; one in the trash comes back, unless it went there later."""
        async with self._storage.read() as tx:
            found = await tx.saves.find(caller.owner, asset_ids)
        return await self._as_they_are(caller, found, asked_at, key)

    async def _as_they_are(self, caller: Caller, found: Mapping[str, Item], asked_at: datetime, key: str) -> Outcomes:
        """Return the items of assets; one in the trash comes back, unless it went there after this was asked."""
        items = {asset_id: item for asset_id, item in found.items() if item.trashed_at is None}
        trashed = {asset_id: item for asset_id, item in found.items() if item.trashed_at is not None}
        if trashed or (key and items):
            async with self._storage.write() as tx:
                await tx.erased.refuse(caller.owner)
                for _, item in sorted(trashed.items()):
                    await restore(tx, caller, item, trashed_by=asked_at)
                items |= _by_asset(trashed, await tx.saves.find_items(caller.owner, _item_ids(trashed)))
                if key:
                    await tx.saves.answer(caller.owner, key, {name: item.item_id for name, item in items.items()})
        if trashed:
            self._changes.tell(caller.owner)
        return {**items}

    async def _copy_in(self, caller: Caller, asset_ids: Sequence[str], asked_at: datetime, key: str) -> Outcomes:
        """Hold, copy, verify and commit assets. Aborted for those that are to be tried again."""
        holder = f"save:{new_id()}"
        try:
            held = await self._copier.hold(holder, caller.owner, asset_ids)
        except AtelierError as error:
            return dict.fromkeys(asset_ids, error)
        crash.reach("library.save.held")
        outcomes = await self._from_items(caller, held, asked_at, key)
        wanted = [asset for asset_id, asset in held.items() if asset_id not in outcomes]
        copies: Mapping[str, Sequence[Copying]] = {}
        try:
            copies = await self._copier.announce(caller.owner, wanted) if wanted else {}
            crash.reach("library.save.copying")
            done = await self._copier.copy(holder, caller.owner, copies)
            crash.reach("library.save.copied")
            copied = {asset_id: files for asset_id, files in done.items() if not isinstance(files, AtelierError)}
            outcomes |= {asset_id: error for asset_id, error in done.items() if isinstance(error, AtelierError)}
            await keep_for_later(self._copier, caller.owner, [held[name] for name in copied])
            outcomes |= await self._commit_or_each(caller, holder, {name: held[name] for name in copied}, copied, key)
        except AtelierError as error:
            outcomes |= {asset.asset_id: error for asset in wanted if asset.asset_id not in outcomes}
        wasted = [copy for name, some in copies.items() if not isinstance(outcomes[name], Item) for copy in some]
        if wasted or not copies:
            await self._copier.give_up(wasted, holder)
        crash.reach("library.save.committed")
        self._changes.tell(caller.owner)
        for asset_id, outcome in outcomes.items():
            if isinstance(outcome, AtelierError):
                log.info("save_refused", asset_id=asset_id, reason=outcome.reason)
        return outcomes

    async def _from_items(
        self, caller: Caller, held: Mapping[str, HeldAsset], asked_at: datetime, key: str
    ) -> Outcomes:
        """Return the items that assets were copied from: those are saved, as long as the item is there."""
        sources = {name: asset.source_item_id for name, asset in held.items() if asset.source_item_id}
        if not sources:
            return {}
        async with self._storage.read() as tx:
            items = await tx.saves.find_items(caller.owner, list(sources.values()))
        found = {name: items[item_id] for name, item_id in sources.items() if item_id in items}
        return await self._as_they_are(caller, found, asked_at, key)

    async def _commit_or_each(
        self, caller: Caller, holder: str, held: Mapping[str, HeldAsset], copied: Mapping[str, Copied], key: str
    ) -> Outcomes:
        """Commit all in one transaction; when something else was quicker with one of them, each in its own."""
        if not copied:
            return {}
        try:
            return await self._commit(caller, holder, held, copied, key)
        except Aborted as error:
            if len(copied) == 1:
                return dict.fromkeys(copied, error)
        outcomes: Outcomes = {}
        for asset_id, files in copied.items():
            outcomes |= await self._commit_or_each(caller, holder, held, {asset_id: files}, key)
        return outcomes

    async def _commit(
        self, caller: Caller, holder: str, held: Mapping[str, HeldAsset], copied: Mapping[str, Copied], key: str
    ) -> Outcomes:
        """Make items of verified copies. Aborted for an asset of which somebody else made one meanwhile.

        Raises:
            Aborted: a copy was given up, or a twin came up, at the same moment.
            FailedPrecondition: `owner_erased`.
        """
        owner = caller.owner
        async with self._storage.write() as tx:
            # Asked again: an erasure that began since the copies were announced must not miss what is written here.
            await tx.erased.refuse(owner)
            await tx.outbox.owe_release(holder)
            saved = await tx.saves.find(owner, list(copied))
            new = sorted(asset_id for asset_id in copied if asset_id not in saved)
            if new:
                await self._write_items(tx, caller, [held[asset_id] for asset_id in new], copied, key)
            items = await tx.saves.find(owner, new)
        for item in items.values():
            log.info("item_saved", item_id=item.item_id, asset_id=item.asset_id, files=len(item.files))
        return {**dict.fromkeys(saved, Aborted()), **items}

    async def _write_items(
        self, tx: Transaction, caller: Caller, held: Sequence[HeldAsset], copied: Mapping[str, Copied], key: str
    ) -> None:
        owner, now = caller.owner, await tx.now()
        files = [file for asset in held for file in copied[asset.asset_id]]
        await tx.blobs.lock_for(owner, [copy for copy, _ in files])
        blob_ids = iter(await tx.blobs.publish(owner, files))
        items = [
            Item(
                item_id=new_id(),
                owner=owner,
                asset_id=asset.asset_id,
                format=asset.format,
                provenance=asset.provenance,
                files=asset.files,
                created_at=now,
                deleted_at=None,
                version=1,
            )
            for asset in held
        ]
        new = [
            NewItem(item, [next(blob_ids) for _ in item.files], asset.facts)
            for item, asset in zip(items, held, strict=True)
        ]
        await tx.saves.add(caller, new)
        for item in items:
            tx.tell(item, SAVED)
        late = {item.item_id: item.asset_id for item, asset in zip(items, held, strict=True) if asset.awaits_renditions}
        await tx.late_items.add(owner, late, wait=FIRST_WAIT)
        await tx.saves.mark(owner, {item.asset_id: item.item_id for item in items})
        if key:
            await tx.saves.answer(owner, key, {item.asset_id: item.item_id for item in items})

    async def _deliver(self) -> None:
        """Tell the asset service now rather than in a moment, so that who looks at the workspace next sees the mark."""
        try:
            async with asyncio.timeout(_DELIVERY_LIMIT_S):
                await self._deliveries.deliver_due()
        except (TimeoutError, AtelierError) as error:
            log.info("delivery_postponed", error=repr(error))


def _result(asset_id: str, outcome: Item | AtelierError) -> SaveResult:
    if isinstance(outcome, Item):
        return SaveResult(asset_id, item=outcome)
    return SaveResult(asset_id, failure=outcome)


def _together(asset_ids: Sequence[str]) -> Iterator[list[str]]:
    """Give ids in parts that are held, copied and committed together, each id once."""
    ids = list(dict.fromkeys(asset_ids))
    for start in range(0, len(ids), _TOGETHER):
        yield ids[start : start + _TOGETHER]


def _is_id(text: str) -> bool:
    try:
        parse_id(text, "asset_ids")
    except InvalidArgument:
        return False
    return True


def _item_ids(items: Mapping[str, Item]) -> list[str]:
    return [item.item_id for item in items.values()]


def _by_asset(items: Mapping[str, Item], found: Mapping[str, Item]) -> dict[str, Item]:
    """Return what was found of the items of assets, by asset."""
    return {asset_id: found[item.item_id] for asset_id, item in items.items() if item.item_id in found}
