"""What owners do with their assets: look, list, discard; and what the library marks as saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from asset_service.domain import Asset, AssetSource, AssetState, EventKind, Upload
from asset_service.removal import Removal
from asset_service.storage import Storage, Transaction
from asset_service.watch import Watchers
from service_kit.errors import NotFound
from service_kit.identity import Owner
from service_kit.paging import decode_page_token, encode_page_token, not_of_this_list

_TOKEN = "asset.assets"  # noqa: S105 - the name of a list, not a secret


@dataclass(frozen=True, slots=True)
class Page:
    """A page of assets, and the token of the next one; empty on the last."""

    assets: Sequence[Asset]
    next_page_token: str


class Workspace:
    """The assets of owners."""

    def __init__(self, storage: Storage, removal: Removal, watchers: Watchers, *, asset_expiry: timedelta) -> None:
        self._storage = storage
        self._removal = removal
        self._watchers = watchers
        self._asset_expiry = asset_expiry

    async def get(self, asset_id: str, owner: Owner) -> Asset:
        """Return one asset that its owner can see. Raises NotFound also when somebody else owns it."""
        async with self._storage.read() as tx:
            asset = await tx.assets.find(asset_id, owner)
        if asset is None or asset.state is not AssetState.AVAILABLE:
            raise NotFound.of("asset", asset_id)
        return asset

    async def list(self, owner: Owner, *, job_id: str, page_size: int, page_token: str) -> Page:
        """Return a page of what an owner sees, newest job first, by index within a job.

        Raises:
            InvalidArgument: the token is not one of this list.
        """
        after = _place(page_token) if page_token else None
        async with self._storage.read() as tx:
            found = await tx.assets.list_page(owner, job_id=job_id, after=after, limit=page_size + 1)
        if len(found) <= page_size:
            return Page(found, "")
        last = found[page_size - 1]
        return Page(found[:page_size], encode_page_token(_TOKEN, [last.group_id, last.asset_index]))

    async def discard(self, asset_id: str, owner: Owner) -> Asset:
        """Remove an asset. One that is gone is returned as it is; one that is not published yet never will be.

        Raises:
            NotFound: there never was such an asset, or somebody else owns it.
        """
        async with self._storage.write() as tx:
            # In this order: what a settlement publishes meanwhile is an asset when its lock is ours.
            uploads = await tx.uploads.of_asset(asset_id, owner)
            await tx.lock_jobs(upload.job_id for upload in uploads if upload.job_id is not None)
            asset = (await tx.assets.lock([asset_id], owner)).get(asset_id)
            if asset is not None and asset.state.gone:
                return asset
            if asset is not None:
                gone = await self._removal.hide(tx, asset, "discarded")
            elif uploads := await tx.uploads.of_asset(asset_id, owner):
                gone = await self._refuse_publication(tx, uploads[0])
            else:
                raise NotFound.of("asset", asset_id)
        self._watchers.notify(owner)
        self._removal.nudge()
        return gone

    async def _refuse_publication(self, tx: Transaction, upload: Upload) -> Asset:
        """Leave a tombstone for an output that is not published yet, so that no settlement publishes it."""
        asset_id, owner = upload.asset_id, upload.owner
        now = await tx.now()
        tombstone = Asset(
            asset_id=asset_id,
            owner=owner,
            job_id=upload.job_id,
            asset_index=upload.asset_index,
            source=AssetSource.JOB,
            state=AssetState.REMOVED,
            media=None,
            blob=None,
            renditions=(),
            provenance=b"",
            filename="",
            saved_item_id="",
            saved_version=0,
            created_at=now,
            expires_at=now + self._asset_expiry,
            version=1,
        )
        await tx.assets.add(tombstone)
        tx.events.add(EventKind.REMOVED, tombstone)
        await tx.note("discarded", owner, asset_id)
        return tombstone

    async def mark_saved(self, asset_id: str, owner: Owner, item_id: str, version: int) -> None:
        """Say as which item an asset is saved. Nothing changes for an older version, or when the asset is gone."""
        async with self._storage.write() as tx:
            asset = (await tx.assets.lock([asset_id], owner)).get(asset_id)
            if asset is None or asset.state.gone or version <= asset.saved_version:
                return
            marked = replace(asset, saved_item_id=item_id, saved_version=version, version=asset.version + 1)
            if not await tx.assets.replace(marked, expected_version=asset.version):
                raise RuntimeError("an asset changed although its row was locked")
            tx.events.add(EventKind.CHANGED, marked)
        self._watchers.notify(owner)


def _place(page_token: str) -> tuple[str, int]:
    match decode_page_token(_TOKEN, page_token):
        case [str(group), int(index)]:
            return group, index
        case _:
            raise not_of_this_list()
