"""Which blobs the rows of the asset service know, for backups."""

from __future__ import annotations

from collections.abc import AsyncIterator

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from asset_service.storage.tables import uploads, workspace_assets
from service_kit.blobs import WORKSPACE_BUCKET

_AT_ONCE = 1000


async def kept_blobs(connection: AsyncConnection) -> AsyncIterator[tuple[str, str]]:
    """Give (bucket, key) of every blob that a row knows, whatever its state; also of those that are not there yet."""
    after = ""
    columns = (workspace_assets.c.asset_id, workspace_assets.c.bucket, workspace_assets.c.key)
    query = select(*columns, workspace_assets.c.renditions).order_by(workspace_assets.c.asset_id).limit(_AT_ONCE)
    while assets := (await connection.execute(query.where(workspace_assets.c.asset_id > after))).all():
        for asset in assets:
            if asset.key:
                yield asset.bucket, asset.key
            for rendition in asset.renditions:
                yield rendition["bucket"], rendition["key"]
        after = assets[-1].asset_id
    after = ""
    query = select(uploads.c.upload_id, uploads.c.key).order_by(uploads.c.upload_id).limit(_AT_ONCE)
    while rows := (await connection.execute(query.where(uploads.c.upload_id > after))).all():
        for row in rows:
            yield WORKSPACE_BUCKET, row.key
        after = rows[-1].upload_id
