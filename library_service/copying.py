"""Copies the files of held assets into the library's bucket: rows first, bytes after, looked at when they are there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

from library_service.clients import AssetControl
from library_service.domain import Copying, HeldAsset
from library_service.storage import Storage
from service_kit.blobs import LIBRARY_BUCKET, BlobStore, erase, key_segment
from service_kit.errors import AtelierError, ErrorReason, Internal, NotFound, ResourceExhausted
from service_kit.identity import Owner
from service_kit.ids import new_id
from service_kit.storage_errors import RETRY_AFTER, is_full
from service_kit.telemetry import get_logger

log = get_logger(__name__)
_AT_ONCE = 8
_RENEWALS_PER_HOLD = 3

Copied = Sequence[tuple[Copying, str]]
"""The files of one asset, each with the generation of its copy."""


class Copier:
    """Copies inside the store. Its holds and rows are renewed for as long as a copy takes."""

    def __init__(self, storage: Storage, store: BlobStore, assets: AssetControl, *, hold_ttl: timedelta) -> None:
        """Hold assets for `hold_ttl` at a time while they are copied."""
        self._storage = storage
        self._store = store
        self._assets = assets
        self._hold_ttl = hold_ttl
        # Of all calls together: a store that has too much to do does none of it sooner.
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def hold(self, holder: str, owner: Owner, asset_ids: Sequence[str]) -> dict[str, HeldAsset]:
        """Have the bytes of assets stay. Returns those that the owner can see, by id."""
        return await self._assets.take_hold(holder, owner, asset_ids, self._hold_ttl)

    async def keep(self, holder: str, owner: Owner, asset_id: str, ttl: timedelta) -> HeldAsset | None:
        """Have the bytes of an asset stay for `ttl`, also when it was discarded since the holder took it first."""
        held = await self._assets.take_hold(holder, owner, [asset_id], ttl, discarded_too=True)
        return held.get(asset_id)

    async def announce(self, owner: Owner, held: Iterable[HeldAsset]) -> dict[str, list[Copying]]:
        """Write a row with a fresh key for each file, before its first byte. Returns the copies to make, by asset.

        Raises:
            FailedPrecondition: `owner_erased`.
        """
        folder = f"{key_segment(owner.tenant_id)}/{key_segment(owner.owner_id)}"
        copies: dict[str, list[Copying]] = {}
        for asset in held:
            named = [(new_id(), file) for file in asset.files]
            copies[asset.asset_id] = [Copying(name, LIBRARY_BUCKET, f"{folder}/{name}", file) for name, file in named]
        new = [copy for some in copies.values() for copy in some]
        async with self._storage.write() as tx:
            await tx.erased.refuse(owner)
            await tx.blobs.announce(owner, new, writes_for=self._hold_ttl)
        return copies

    async def copy(
        self, holder: str, owner: Owner, copies: Mapping[str, Sequence[Copying]]
    ) -> dict[str, Copied | AtelierError]:
        """Copy the files of assets. Returns for each what came out, or why it is not copied."""
        async with self._renewing(holder, owner, copies):
            done = await asyncio.gather(*(self._copy_asset(asset_id, some) for asset_id, some in copies.items()))
        return dict(zip(copies, done, strict=True))

    async def give_up(self, copies: Iterable[Copying], holder: str | None) -> None:
        """Have copies deleted and a hold released; what cannot be written now happens when their time is over."""
        some = list(copies)
        try:
            async with self._storage.write() as tx:
                known = await tx.blobs.give_up([copy.blob_id for copy in some])
                if holder is not None:
                    await tx.outbox.owe_release(holder)
        except ResourceExhausted as error:
            log.warning("give_up_postponed", holder=holder, error=error.message)
            return
        for copy in some:
            # A process that stood still for long finds its rows gone: nobody else will look at these keys.
            if copy.blob_id not in known:
                await erase(self._store, copy.bucket, copy.key)

    async def _copy_asset(self, asset_id: str, copies: Sequence[Copying]) -> Copied | AtelierError:
        try:
            return [(copy, await self._copy_file(copy)) for copy in copies]
        except AtelierError as error:
            return error
        except OSError as error:
            log.exception("save_failed", asset_id=asset_id)
            if is_full(error):
                return ResourceExhausted(
                    "The disk is full; the asset stays where it was. Repeat when the operator has made room.",
                    ErrorReason.SERVICE_UNAVAILABLE,
                    retry_after=RETRY_AFTER,
                )
            return Internal("The copy failed; the asset stays where it was. Repeat later.")

    async def _copy_file(self, copy: Copying) -> str:
        """Copy one file inside the store and look at what came out. Returns its generation.

        Raises:
            Internal: the copy is not what the asset service measured, or its source is gone.
        """
        source, media = copy.source.place, copy.source.media
        async with self._turns:
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

    @asynccontextmanager
    async def _renewing(
        self, holder: str, owner: Owner, copies: Mapping[str, Sequence[Copying]]
    ) -> AsyncIterator[None]:
        """Keep the hold and the announced copies alive while they are made."""
        task = asyncio.create_task(self._renew(holder, owner, copies), name="save.renew")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _renew(self, holder: str, owner: Owner, copies: Mapping[str, Sequence[Copying]]) -> None:
        blob_ids = [copy.blob_id for some in copies.values() for copy in some]
        while True:
            await asyncio.sleep(self._hold_ttl.total_seconds() / _RENEWALS_PER_HOLD)
            try:
                await self._assets.renew_hold(holder, owner, list(copies), self._hold_ttl)
                async with self._storage.write() as tx:
                    await tx.blobs.go_on(blob_ids, writes_for=self._hold_ttl)
            except AtelierError as error:
                # The commit finds out whether it still holds.
                log.warning("renewal_failed", holder=holder, error=error.message)
            except Exception:
                log.exception("renewal_failed", holder=holder)
                return
