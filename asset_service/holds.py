"""Holds: promises that the bytes of assets stay, for the references of jobs and for the library's copies."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from asset_service.domain import MAX_HOLD_TTL, Asset, AssetState, held_job, is_patient
from asset_service.removal import Removal
from asset_service.renditions import Renditions
from asset_service.storage import Storage, Transaction
from service_kit.errors import ErrorReason, InvalidArgument, NotFound
from service_kit.identity import Owner


class Holds:
    """Takes, confirms and releases holds. One per holder and asset."""

    def __init__(self, storage: Storage, removal: Removal, renditions: Renditions) -> None:
        self._storage = storage
        self._removal = removal
        self._renditions = renditions

    async def take(
        self, holder: str, owner: Owner, asset_ids: Sequence[str], ttl: timedelta, *, skip_missing: bool = False
    ) -> list[Asset]:
        """Hold assets for a time, all or none; with `skip_missing` those that can be held.

        Returns those that are held, in the order of the ids.

        Raises:
            NotFound: an asset does not exist, is gone, or is not the owner's; names the first.
            FailedPrecondition: `already_settled` for the hold of a job that is settled.
            InvalidArgument: the time is not one that can be promised.
        """
        if not timedelta(0) < ttl <= MAX_HOLD_TTL:
            raise InvalidArgument.field(
                "ttl",
                f"must be above 0 and at most {MAX_HOLD_TTL.total_seconds():g} s, got {ttl.total_seconds():g} s",
                ErrorReason.OUT_OF_RANGE,
            )
        assets = await self._take(holder, owner, asset_ids, ttl, skip_missing=skip_missing)
        # A job reads an asset itself; whoever else holds one is about to copy its renditions with it.
        return assets if held_job(holder) or is_patient(holder) else await self._renditions.hurry(owner, assets)

    async def confirm(self, holder: str, owner: Owner, asset_ids: Sequence[str]) -> None:
        """Make holds last until they are released; those that have lapsed are taken again.

        Raises:
            NotFound: an asset is gone.
            FailedPrecondition: `already_settled` for the hold of a job that is settled.
        """
        await self._take(holder, owner, asset_ids, None)

    async def release(self, holder: str) -> None:
        """End all holds of a holder."""
        async with self._storage.write() as tx:
            released = await tx.holds.release([holder])
        if released:
            self._removal.nudge()

    async def _take(
        self, holder: str, owner: Owner, asset_ids: Sequence[str], ttl: timedelta | None, *, skip_missing: bool = False
    ) -> list[Asset]:
        async with self._storage.write() as tx:
            job_id = held_job(holder)
            if job_id is not None:
                await tx.keep_open(job_id)
            assets = await _holdable(tx, holder, owner, asset_ids, skip_missing=skip_missing)
            await tx.holds.take(holder, [asset.asset_id for asset in assets], ttl)
        return assets


async def _holdable(
    tx: Transaction, holder: str, owner: Owner, asset_ids: Sequence[str], *, skip_missing: bool
) -> list[Asset]:
    """Return the assets whose bytes this holder may have kept: what the owner has, and what it holds already."""
    known = await tx.assets.lock(asset_ids, owner)
    mine = await tx.holds.of_holder(holder, asset_ids)
    assets = []
    for asset_id in asset_ids:
        asset = known.get(asset_id)
        # What is hidden is there still: whoever held it before it was hidden may go on doing so, nobody else may begin.
        if asset is None or not (
            asset.state is AssetState.AVAILABLE or (asset.state is AssetState.HIDDEN and asset_id in mine)
        ):
            if skip_missing:
                continue
            raise NotFound.of("asset", asset_id)
        assets.append(asset)
    return assets
