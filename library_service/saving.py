"""Saves assets: hold, copy on the server, verify, commit. Whatever breaks off leaves the asset where it was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from library_service.clients import AssetControl
from library_service.domain import Copying, HeldAsset, Item, SaveResult
from library_service.moves import restore
from library_service.outbox import Deliveries
from library_service.removal import erase
from library_service.storage import SAVED, Storage, Transaction
from service_kit import crash
from service_kit.blobs import LIBRARY_BUCKET, BlobStore, key_segment
from service_kit.errors import (
    Aborted,
    AtelierError,
    ErrorReason,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from service_kit.events.followers import Changes
from service_kit.identity import Caller, Owner
from service_kit.ids import new_id, parse_id
from service_kit.storage_errors import RETRY_AFTER, is_full
from service_kit.telemetry import get_logger

_AT_ONCE = 8
_TRIES = 3
_DELIVERY_LIMIT_S = 2.0
_RENEWALS_PER_HOLD = 3

log = get_logger(__name__)


class Saving:
    """Copies assets into libraries, each once."""

    def __init__(
        self,
        storage: Storage,
        store: BlobStore,
        assets: AssetControl,
        deliveries: Deliveries,
        changes: Changes,
        *,
        hold_ttl: timedelta,
    ) -> None:
        """Hold an asset for `hold_ttl` at a time while it is copied."""
        self._storage = storage
        self._store = store
        self._assets = assets
        self._deliveries = deliveries
        self._changes = changes
        self._hold_ttl = hold_ttl

    async def save(self, caller: Caller, asset_ids: Sequence[str]) -> list[SaveResult]:
        """Save assets of the caller's workspace. Returns what became of each, in the order that was asked.

        An asset whose item is in the trash gets it back, unless it was trashed after this was asked.

        Raises:
            Unavailable: the asset service cannot be reached and nothing was saved.
        """
        turns = asyncio.Semaphore(_AT_ONCE)
        async with self._storage.read() as tx:
            asked_at = await tx.now()

        async def save_in_turn(asset_id: str) -> SaveResult:
            async with turns:
                return await self._result(caller, asset_id, asked_at)

        async with asyncio.TaskGroup() as group:
            tasks = {asset_id: group.create_task(save_in_turn(asset_id)) for asset_id in dict.fromkeys(asset_ids)}
        results = [tasks[asset_id].result() for asset_id in asset_ids]
        failures = [result.failure for result in results]
        if failures and all(isinstance(failure, Unavailable) for failure in failures):
            raise Unavailable(
                "The workspace cannot be reached at the moment; nothing was saved. Repeat.",
                retry_after=timedelta(seconds=1),
            )
        await self._deliver()
        return results

    async def _result(self, caller: Caller, asset_id: str, asked_at: datetime) -> SaveResult:
        try:
            return SaveResult(asset_id, item=await self._save(caller, asset_id, asked_at))
        except AtelierError as error:
            failure = error
        except OSError as error:
            log.exception("save_failed", asset_id=asset_id)
            failure = Internal("The copy failed; the asset stays where it was. Repeat later.")
            if is_full(error):
                failure = ResourceExhausted(
                    "The disk is full; the asset stays where it was. Repeat when the operator has made room.",
                    ErrorReason.SERVICE_UNAVAILABLE,
                    retry_after=RETRY_AFTER,
                )
        log.info("save_refused", asset_id=asset_id, reason=failure.reason)
        return SaveResult(asset_id, failure=failure)

    async def _save(self, caller: Caller, asset_id: str, asked_at: datetime) -> Item:
        """Save one asset, or return the item that it is saved as."""
        try:
            parse_id(asset_id, "asset_ids")
        except InvalidArgument:
            raise NotFound.of("asset", asset_id) from None
        for _ in range(_TRIES):
            async with self._storage.read() as tx:
                saved = await tx.items.find_saved(caller.owner, asset_id)
            if saved is not None:
                return saved if saved.trashed_at is None else await self._restore(caller, saved, asked_at)
            try:
                return await self._copy_in(caller, asset_id)
            except Aborted:
                continue
        raise Aborted("Something else changed this item at the same moment; repeat.")

    async def _restore(self, caller: Caller, trashed: Item, asked_at: datetime) -> Item:
        """Return an item that was in the trash as it is now: back, unless it was trashed after a moment."""
        async with self._storage.write() as tx:
            await restore(tx, caller, trashed, trashed_by=asked_at)
            found = await tx.items.find(caller.owner, trashed.item_id)
        self._changes.tell(caller.owner)
        if found is None or found.deleted_at is not None:
            raise Aborted
        return found

    async def _copy_in(self, caller: Caller, asset_id: str) -> Item:
        """Hold, copy, verify and commit one asset.

        Raises:
            Aborted: a copy was given up, or a twin came up, at the same moment: start over.
        """
        item_id = new_id()
        holder = f"save:{item_id}"
        held = await self._assets.take_hold(holder, caller.owner, asset_id, self._hold_ttl)
        crash.reach("library.save.held")
        copies = await self._announce(caller.owner, held)
        crash.reach("library.save.copying")
        try:
            async with self._renewing(holder, caller.owner, held, copies):
                generations = [await self._copy(copy) for copy in copies]
            crash.reach("library.save.copied")
            item = await self._commit(caller, item_id, holder, held, list(zip(copies, generations, strict=True)))
        except (AtelierError, OSError):
            await self._give_up(copies, holder)
            raise
        crash.reach("library.save.committed")
        self._changes.tell(caller.owner)
        return item

    async def _announce(self, owner: Owner, held: HeldAsset) -> list[Copying]:
        """Write a row with a fresh key for each file, before its first byte."""
        folder = f"{key_segment(owner.tenant_id)}/{key_segment(owner.owner_id)}"
        copies = []
        for file in held.files:
            blob_id = new_id()
            copies.append(Copying(blob_id, LIBRARY_BUCKET, f"{folder}/{blob_id}", file))
        async with self._storage.write() as tx:
            await tx.blobs.announce(owner, copies, writes_for=self._hold_ttl)
        return copies

    async def _copy(self, copy: Copying) -> str:
        """Copy one file inside the store and look at what came out. Returns its generation.

        Raises:
            Internal: the copy is not what the asset service measured, or its source is gone.
        """
        source, media = copy.source.place, copy.source.media
        try:
            await self._store.copy(
                (source.bucket, source.key), (copy.bucket, copy.key), generation=source.generation or None
            )
        except NotFound:
            raise Internal(
                "The bytes of the asset are not there; nothing was saved.", ErrorReason.OUTPUT_LOST
            ) from None
        found = await self._store.stat(copy.bucket, copy.key)
        if found is None or (found.size_bytes, found.sha256) != (media.size_bytes, media.sha256):
            log.error("copy_differs", blob_id=copy.blob_id, source_key=source.key)
            raise Internal("The copy is not what the asset was; nothing was saved.", ErrorReason.DIGEST_MISMATCH)
        return found.generation

    async def _commit(
        self, caller: Caller, item_id: str, holder: str, held: HeldAsset, copied: Sequence[tuple[Copying, str]]
    ) -> Item:
        """Make an item of verified copies, or return the one that somebody else made of the asset meanwhile."""
        async with self._storage.write() as tx:
            await tx.outbox.owe_release(holder)
            saved = await tx.items.find_saved(caller.owner, held.asset_id)
            if saved is not None:
                await tx.blobs.give_up([copy.blob_id for copy, _ in copied])
                return saved
            await tx.blobs.lock_for(caller.owner, [copy for copy, _ in copied])
            blob_ids = [await tx.blobs.publish(caller.owner, copy, generation) for copy, generation in copied]
            await self._write_item(tx, caller, item_id, held, blob_ids)
            item = await tx.items.find(caller.owner, item_id)
        if item is None:
            raise Internal
        log.info("item_saved", item_id=item_id, asset_id=held.asset_id, files=len(item.files))
        return item

    async def _write_item(
        self, tx: Transaction, caller: Caller, item_id: str, held: HeldAsset, blob_ids: Sequence[str]
    ) -> None:
        item = Item(
            item_id=item_id,
            owner=caller.owner,
            asset_id=held.asset_id,
            format=held.format,
            provenance=held.provenance,
            files=held.files,
            created_at=await tx.now(),
            deleted_at=None,
            version=1,
        )
        await tx.items.add(item, blob_ids, held.facts)
        tx.tell(item, SAVED)
        await tx.items.note(caller, "item_saved", item_id)
        version = await tx.items.mark(caller.owner, held.asset_id, item_id)
        await tx.outbox.owe_mark(caller.owner, asset_id=held.asset_id, item_id=item_id, version=version)

    async def _give_up(self, copies: Sequence[Copying], holder: str) -> None:
        """Have the copies deleted and the hold released; what cannot be written now happens when their time is over."""
        try:
            async with self._storage.write() as tx:
                known = await tx.blobs.give_up([copy.blob_id for copy in copies])
                await tx.outbox.owe_release(holder)
        except ResourceExhausted as error:
            log.warning("give_up_postponed", holder=holder, error=error.message)
            return
        for copy in copies:
            # A process that stood still for long finds its rows gone: nobody else will look at these keys.
            if copy.blob_id not in known:
                await erase(self._store, copy.bucket, copy.key)

    async def _deliver(self) -> None:
        """Tell the asset service now rather than in a moment, so that who looks at the workspace next sees the mark."""
        try:
            async with asyncio.timeout(_DELIVERY_LIMIT_S):
                await self._deliveries.deliver_due()
        except (TimeoutError, AtelierError) as error:
            log.info("delivery_postponed", error=repr(error))

    @asynccontextmanager
    async def _renewing(
        self, holder: str, owner: Owner, held: HeldAsset, copies: Sequence[Copying]
    ) -> AsyncIterator[None]:
        """Keep the hold and the announced copies alive while they are made."""
        task = asyncio.create_task(self._renew(holder, owner, held, [copy.blob_id for copy in copies]))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _renew(self, holder: str, owner: Owner, held: HeldAsset, blob_ids: Sequence[str]) -> None:
        while True:
            await asyncio.sleep(self._hold_ttl.total_seconds() / _RENEWALS_PER_HOLD)
            try:
                await self._assets.renew_hold(holder, owner, held.asset_id, self._hold_ttl)
                async with self._storage.write() as tx:
                    await tx.blobs.go_on(blob_ids, writes_for=self._hold_ttl)
            except AtelierError as error:
                # The commit finds out whether it still holds.
                log.warning("renewal_failed", holder=holder, error=error.message)
