"""Every query on assets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, Text, and_, cast, exists, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from asset_service.domain import Asset, AssetState
from asset_service.storage.renditions import queue_renditions
from asset_service.storage.rows import asset_from, asset_values
from asset_service.storage.tables import holds, rendition_tasks, uploads, workspace_assets
from service_kit.bulk import among, delete_some, insert_rows, update_rows
from service_kit.database import db_now
from service_kit.errors import Aborted
from service_kit.identity import Owner

_assets = workspace_assets
_OWNERS = select(_assets.c.asset_id, _assets.c.tenant_id, _assets.c.owner_id).where(
    among(_assets.c.asset_id, "asset_ids")
)
_SEEN = (AssetState.AVAILABLE.value,)
_KEPT = (AssetState.AVAILABLE.value, AssetState.WITHHELD.value)


class Assets:
    """Every query on assets."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def find(self, asset_id: str, owner: Owner) -> Asset | None:
        """Return one asset of one owner, in whatever state; None when there is none or somebody else owns it."""
        found = await self._select(select(_assets).where(_assets.c.asset_id == asset_id, _owned_by(owner)))
        return found[0] if found else None

    async def find_many(self, asset_ids: Sequence[str], owner: Owner) -> dict[str, Asset]:
        """Return those of an owner's assets that exist, by id."""
        wanted = select(_assets).where(_assets.c.asset_id.in_(asset_ids), _owned_by(owner))
        return {asset.asset_id: asset for asset in await self._select(wanted)}

    async def lock(self, asset_ids: Sequence[str], owner: Owner) -> dict[str, Asset]:
        """Return those of an owner's assets that exist, by id, and keep everybody else from changing them."""
        wanted = select(_assets).where(_assets.c.asset_id.in_(asset_ids), _owned_by(owner))
        locked = await self._select(wanted.order_by(_assets.c.asset_id).with_for_update())
        return {asset.asset_id: asset for asset in locked}

    async def find_bare(self, *, after: str, limit: int) -> Sequence[Asset]:
        """Return assets without any rendition, and without a task or a reason for it, by id, after an id."""
        tasks = rendition_tasks.c
        queued = select(tasks.asset_id).where(tasks.asset_id == _assets.c.asset_id).exists()
        bare = and_(cast(_assets.c.renditions, Text) == "[]", _assets.c.rendition_error == "", ~queued)
        kept = _assets.c.state.in_(_KEPT)
        query = select(_assets).where(bare, kept, _assets.c.asset_id > after)
        return await self._select(query.order_by(_assets.c.asset_id).limit(limit))

    async def list_page(
        self, owner: Owner, *, job_id: str, after: tuple[str, int] | None, limit: int
    ) -> Sequence[Asset]:
        """Return what an owner sees, newest group first and by index in it, after (group, index)."""
        query = select(_assets).where(_owned_by(owner), _assets.c.state.in_(_SEEN))
        if job_id:
            query = query.where(_assets.c.group_id == job_id)
        if after is not None:
            group, index = after
            same = and_(_assets.c.group_id == group, _assets.c.asset_index > index)
            query = query.where(or_(_assets.c.group_id < group, same))
        return await self._select(query.order_by(_assets.c.group_id.desc(), _assets.c.asset_index).limit(limit))

    async def add(self, asset: Asset) -> None:
        """Insert an asset, or the tombstone of one that was never published; queue it if it lacks renditions.

        Raises:
            Aborted: the item that it is a copy of was copied at the same moment.
        """
        try:
            await self._connection.execute(insert(_assets).values(**asset_values(asset)))
        except IntegrityError as error:
            if not asset.source_item_id:
                raise
            raise Aborted from error
        await queue_renditions(self._connection, [asset])

    async def add_many(self, assets: Sequence[Asset]) -> None:
        """Insert assets, and queue those that lack renditions."""
        await insert_rows(self._connection, _assets, [asset_values(asset) for asset in assets])
        await queue_renditions(self._connection, assets)

    async def owners(self, asset_ids: Sequence[str]) -> dict[str, Owner]:
        """Return whose those of the assets are that exist, tombstones too, by id."""
        found = await self._connection.execute(_OWNERS, {"asset_ids": list(asset_ids)})
        return {row.asset_id: Owner(row.tenant_id, row.owner_id) for row in found}

    async def replace(self, asset: Asset, *, expected_version: int) -> bool:
        """Write an asset over the version that was read. Returns False when it was changed meanwhile."""
        changed = await self._connection.execute(
            update(_assets)
            .where(_assets.c.asset_id == asset.asset_id, _assets.c.version == expected_version)
            .values(**asset_values(asset))
        )
        return changed.rowcount == 1

    async def take_away(self, gone: Sequence[Asset]) -> int:
        """Write the state, the text and the next version of locked assets. Returns how many were as expected."""
        rows = [
            {
                "asset_id": asset.asset_id,
                "version": asset.version - 1,
                "new_version": asset.version,
                "state": asset.state.value,
                "provenance": asset.provenance,
                "filename": asset.filename,
            }
            for asset in gone
        ]
        return await update_rows(self._connection, _assets, rows, match=("asset_id", "version"))

    async def extend(self, extended: Sequence[Asset]) -> int:
        """Write the end and the next version of locked assets. Returns how many were as expected."""
        rows = [
            {
                "asset_id": asset.asset_id,
                "version": asset.version - 1,
                "new_version": asset.version,
                "expires_at": asset.expires_at,
            }
            for asset in extended
        ]
        return await update_rows(self._connection, _assets, rows, match=("asset_id", "version"))

    async def mark(self, marked: Sequence[Asset]) -> int:
        """Write as what locked assets are saved, and their next version. Returns how many were as expected."""
        rows = [
            {
                "asset_id": asset.asset_id,
                "version": asset.version - 1,
                "new_version": asset.version,
                "saved_item_id": asset.saved_item_id,
                "saved_version": asset.saved_version,
            }
            for asset in marked
        ]
        return await update_rows(self._connection, _assets, rows, match=("asset_id", "version"))

    async def find_copy(self, item_id: str, owner: Owner) -> Asset | None:
        """Return the copy of an item that its owner sees; None when there is none."""
        found = await self._select(
            select(_assets).where(_owned_by(owner), _assets.c.source_item_id == item_id, _assets.c.state.in_(_SEEN))
        )
        return found[0] if found else None

    async def of_owner(self, owner: Owner, limit: int) -> Sequence[Asset]:
        """Lock and return some of an owner's assets whose bytes are not on their way out."""
        kept = _assets.c.state.not_in((AssetState.DELETING.value, AssetState.REMOVED.value))
        query = select(_assets).where(_owned_by(owner), kept).order_by(_assets.c.asset_id).limit(limit)
        return await self._select(query.with_for_update())

    async def owned_deleting(self, owner: Owner, *, after: str = "", limit: int) -> Sequence[Asset]:
        """Return an owner's assets whose bytes are to be deleted, by id, after an id."""
        deleting = and_(_owned_by(owner), _assets.c.state == AssetState.DELETING.value, _assets.c.asset_id > after)
        return await self._select(select(_assets).where(deleting).order_by(_assets.c.asset_id).limit(limit))

    async def with_bytes(self, after: str, limit: int) -> Sequence[Asset]:
        """Return assets whose bytes should be there, by id, after an id."""
        kept = _assets.c.state.not_in((AssetState.DELETING.value, AssetState.REMOVED.value))
        query = select(_assets).where(kept, _assets.c.asset_id > after).order_by(_assets.c.asset_id).limit(limit)
        return await self._select(query)

    async def with_ids(self, asset_ids: Sequence[str]) -> Sequence[Asset]:
        """Return those of some assets that exist, whoever owns them."""
        return await self._select(select(_assets).where(among(_assets.c.asset_id, asset_ids)))

    async def with_keys(self, keys: Sequence[str]) -> Sequence[Asset]:
        """Return the assets without a job whose own bytes lie at some keys."""
        return await self._select(select(_assets).where(_assets.c.job_id.is_(None), among(_assets.c.key, keys)))

    async def with_rendition_at(self, key: str) -> str | None:
        """Return the id of an asset that has a rendition at a key; None when none has. Slow: it looks at all."""
        told = cast(_assets.c.renditions, Text).contains(json.dumps(key, ensure_ascii=False), autoescape=True)
        found = await self._connection.execute(select(_assets.c.asset_id).where(told).limit(1))
        return found.scalar_one_or_none()

    async def due(self, limit: int) -> Sequence[Asset]:
        """Lock and return assets whose time is over, the longest first; none that somebody else has locked."""
        return await self._select(
            select(_assets)
            .where(_assets.c.state.in_(_KEPT), _assets.c.expires_at <= db_now())
            .order_by(_assets.c.expires_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )

    async def let_go(self, limit: int) -> Sequence[Asset]:
        """Lock and return hidden assets that nobody holds any more; none that somebody else has locked."""
        live = exists().where(
            holds.c.asset_id == _assets.c.asset_id, or_(holds.c.expires_at.is_(None), holds.c.expires_at > db_now())
        )
        hidden = select(_assets).where(_assets.c.state == AssetState.HIDDEN.value)
        found = await self._select(hidden.where(~live).limit(limit).with_for_update(skip_locked=True))
        # Again under the locks: a hold may have been renewed while they were taken.
        ids = [asset.asset_id for asset in found]
        free = set(
            (
                await self._connection.execute(select(_assets.c.asset_id).where(_assets.c.asset_id.in_(ids), ~live))
            ).scalars()
        )
        return [asset for asset in found if asset.asset_id in free]

    async def deleting(self, after: str, limit: int) -> Sequence[Asset]:
        """Return assets whose bytes are to be deleted, by id, after an id."""
        return await self._select(
            select(_assets)
            .where(_assets.c.state == AssetState.DELETING.value, _assets.c.asset_id > after)
            .order_by(_assets.c.asset_id)
            .limit(limit)
        )

    async def trim(self, older_than: timedelta) -> int:
        """Delete some tombstones of assets whose time was over that long ago. Returns how many; 0 when none is left.

        The tombstone of an output that is not settled yet stays: it is what keeps it from being published.
        """
        waiting = exists().where(uploads.c.asset_id == _assets.c.asset_id, uploads.c.job_id.is_not(None))
        old = and_(
            _assets.c.state == AssetState.REMOVED.value, _assets.c.expires_at <= db_now(plus=-older_than), ~waiting
        )
        return await delete_some(self._connection, _assets, old)

    async def _select(self, query: Select[Any]) -> Sequence[Asset]:
        return [asset_from(row) for row in (await self._connection.execute(query)).mappings()]


def _owned_by(owner: Owner) -> ColumnElement[bool]:
    return and_(_assets.c.tenant_id == owner.tenant_id, _assets.c.owner_id == owner.owner_id)
