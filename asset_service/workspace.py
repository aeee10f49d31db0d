"""What owners do with their assets: look, list, discard; and what the library marks as saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from asset_service.domain import Asset, AssetSource, AssetState, EventKind, Upload
from asset_service.removal import Removal
from asset_service.storage import Storage, Transaction
from asset_service.watch import Watchers
from service_kit.errors import NotFound
from service_kit.identity import Owner
from service_kit.paging import decode_page_token, encode_page_token, not_of_this_list

Result = Asset | NotFound
"""What became of one asset of several."""

_AT_ONCE = 200
_TOKEN = "asset.assets"  # noqa: S105 - the name of a list, not a secret


@dataclass(frozen=True, slots=True)
class Page:
    """A page of assets, and the token of the next one; empty on the last."""

    assets: Sequence[Asset]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class Mark:
    """As which item an asset is saved; empty: it is not. Of two marks the one with the higher version counts."""

    asset_id: str
    owner: Owner
    item_id: str
    version: int


class Workspace:
    """The assets of owners."""

    def __init__(
        self,
        storage: Storage,
        removal: Removal,
        watchers: Watchers,
        *,
        asset_expiry: timedelta,
        max_asset_age: timedelta,
    ) -> None:
        self._storage = storage
        self._removal = removal
        self._watchers = watchers
        self._asset_expiry = asset_expiry
        self._max_asset_age = max_asset_age

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
            FailedPrecondition: `owner_erased`.
        """
        gone = (await self._discard([asset_id], owner)).get(asset_id)
        if gone is None:
            raise NotFound.of("asset", asset_id)
        return gone

    async def discard_many(self, asset_ids: Sequence[str], owner: Owner) -> Sequence[Result]:
        """Remove assets, each as `discard` does. Returns what became of each, in the order of the ids.

        Raises:
            FailedPrecondition: `owner_erased`.
        """
        gone: dict[str, Asset] = {}
        for some in _slices(asset_ids):
            gone |= await self._discard(some, owner)
        return [gone.get(asset_id) or NotFound.of("asset", asset_id) for asset_id in asset_ids]

    async def _discard(self, asset_ids: Sequence[str], owner: Owner) -> dict[str, Asset]:
        """Remove assets in one transaction. Returns what is left of those that there are, or may come to be."""
        async with self._storage.write() as tx:
            await tx.erased.refuse(owner)
            # In this order: what a settlement publishes meanwhile is an asset when its lock is ours.
            uploads = await tx.uploads.of_assets(asset_ids, owner)
            await tx.lock_jobs(upload.job_id for upload in uploads if upload.job_id is not None)
            left = await tx.assets.lock(asset_ids, owner)
            here = [asset for asset in left.values() if not asset.state.gone]
            left |= {asset.asset_id: asset for asset in await self._removal.hide(tx, here, "discarded")}
            coming = {upload.asset_id: upload for upload in await tx.uploads.of_assets(asset_ids, owner)}
            refused = [upload for asset_id, upload in coming.items() if asset_id not in left]
            left |= {upload.asset_id: await self._refuse_publication(tx, upload) for upload in refused}
        if here or refused:
            self._watchers.notify(owner)
            self._removal.nudge()
        return left

    async def extend(self, asset_ids: Sequence[str], owner: Owner, expires_at: datetime | None) -> Sequence[Result]:
        """Have assets stay until a moment, or without one as long from now as a new one does; never shorter.

        No asset becomes older than the setting says. Returns each as it is now, in the order of the ids, or NotFound.

        Raises:
            FailedPrecondition: `owner_erased`.
        """
        found: dict[str, Asset] = {}
        for some in _slices(asset_ids):
            async with self._storage.write() as tx:
                await tx.erased.refuse(owner)
                wanted = expires_at or await tx.now() + self._asset_expiry
                locked = (await tx.assets.lock(some, owner)).values()
                seen = {asset.asset_id: asset for asset in locked if asset.state is AssetState.AVAILABLE}
                longer = [
                    replace(asset, expires_at=end, version=asset.version + 1)
                    for asset in seen.values()
                    if (end := min(wanted, asset.created_at + self._max_asset_age)) > asset.expires_at
                ]
                if await tx.assets.extend(longer) != len(longer):
                    raise RuntimeError("an asset changed although its row was locked")
                for asset in longer:
                    tx.events.add(EventKind.CHANGED, asset)
                await tx.note_all(("extended", owner, asset.asset_id, {}) for asset in longer)
            found |= seen | {asset.asset_id: asset for asset in longer}
            if longer:
                self._watchers.notify(owner)
        return [found.get(asset_id) or NotFound.of("asset", asset_id) for asset_id in asset_ids]

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

    async def mark_saved(self, marks: Sequence[Mark]) -> None:
        """Say as which items assets are saved. Nothing changes for an older version, or when the asset is gone."""
        by_owner: dict[Owner, dict[str, Mark]] = {}
        for mark in marks:
            mine = by_owner.setdefault(mark.owner, {})
            known = mine.get(mark.asset_id)
            if known is None or known.version < mark.version:
                mine[mark.asset_id] = mark
        for owner, mine in by_owner.items():
            if await self._mark(owner, mine):
                self._watchers.notify(owner)

    async def _mark(self, owner: Owner, marks: Mapping[str, Mark]) -> bool:
        async with self._storage.write() as tx:
            locked = await tx.assets.lock(list(marks), owner)
            marked = []
            for asset_id, asset in locked.items():
                item_id, version = marks[asset_id].item_id, marks[asset_id].version
                if not (asset.state.gone or version <= asset.saved_version):
                    marked.append(
                        replace(asset, saved_item_id=item_id, saved_version=version, version=asset.version + 1)
                    )
            if await tx.assets.mark(marked) != len(marked):
                raise RuntimeError("an asset changed although its row was locked")
            for asset in marked:
                tx.events.add(EventKind.CHANGED, asset)
        return bool(marked)


def _slices(asset_ids: Sequence[str]) -> Iterator[list[str]]:
    """Give ids in parts that one transaction takes, each id once."""
    ids = list(dict.fromkeys(asset_ids))
    for start in range(0, len(ids), _AT_ONCE):
        yield ids[start : start + _AT_ONCE]


def _place(page_token: str) -> tuple[str, int]:
    match decode_page_token(_TOKEN, page_token):
        case [str(group), int(index)]:
            return group, index
        case _:
            raise not_of_this_list()
