"""Which blobs the rows of the asset service know, for backups."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from asset_service.domain import AssetState, UploadState
from asset_service.storage.tables import uploads, workspace_assets
from service_kit.backup import KnownBlob, Place
from service_kit.blobs import WORKSPACE_BUCKET

_AT_ONCE = 1000
_THERE = (AssetState.AVAILABLE.value, AssetState.HIDDEN.value)


async def kept_blobs(connection: AsyncConnection) -> AsyncIterator[KnownBlob]:
    """Give every blob that a row knows, whatever its state; also those that are not there yet, or go."""
    after = ""
    query = select(workspace_assets).order_by(workspace_assets.c.asset_id).limit(_AT_ONCE)
    while assets := (await connection.execute(query.where(workspace_assets.c.asset_id > after))).all():
        for asset in assets:
            is_there = asset.state in _THERE
            files = [rendition for rendition in asset.renditions if rendition["key"]]
            if asset.key:
                files.append({"bucket": asset.bucket, "key": asset.key, "generation": asset.generation})
            for file in files:
                yield KnownBlob(file["bucket"], file["key"], file["generation"] if is_there else "")
        after = assets[-1].asset_id
    after = ""
    query = select(uploads).order_by(uploads.c.upload_id).limit(_AT_ONCE)
    while rows := (await connection.execute(query.where(uploads.c.upload_id > after))).all():
        for row in rows:
            is_there = row.state == UploadState.STAGED.value
            yield KnownBlob(WORKSPACE_BUCKET, row.key, row.generation if is_there else "")
        after = rows[-1].upload_id


async def regenerate(connection: AsyncConnection, generations: Mapping[Place, str]) -> None:
    """Have rows know blobs by the generations that they have now, given by bucket and key."""
    after = ""
    query = select(workspace_assets).order_by(workspace_assets.c.asset_id).limit(_AT_ONCE)
    while assets := (await connection.execute(query.where(workspace_assets.c.asset_id > after))).all():
        for asset in assets:
            renditions = [
                {**one, "generation": generations.get((one["bucket"], one["key"]), one["generation"])}
                for one in asset.renditions
            ]
            generation = generations.get((asset.bucket, asset.key), asset.generation)
            await connection.execute(
                update(workspace_assets)
                .where(workspace_assets.c.asset_id == asset.asset_id)
                .values(generation=generation, renditions=renditions)
            )
        after = assets[-1].asset_id
    for (bucket, key), generation in generations.items():
        if bucket == WORKSPACE_BUCKET:
            changed = update(uploads).where(uploads.c.key == key, uploads.c.generation.is_not(None))
            await connection.execute(changed.values(generation=generation))
