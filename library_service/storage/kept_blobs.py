"""Which blobs the rows of the library know, for backups."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from library_service.domain import BlobState
from library_service.storage.tables import blobs
from service_kit.backup import KnownBlob, Place

_AT_ONCE = 1000


async def kept_blobs(connection: AsyncConnection) -> AsyncIterator[KnownBlob]:
    """Give every blob that a row knows, whatever its state; also those that are not there yet, or go."""
    after = ""
    query = select(blobs).order_by(blobs.c.blob_id).limit(_AT_ONCE)
    while rows := (await connection.execute(query.where(blobs.c.blob_id > after))).all():
        for row in rows:
            yield KnownBlob(row.bucket, row.key, row.generation if row.state == BlobState.LIVE.value else "")
        after = rows[-1].blob_id


async def regenerate(connection: AsyncConnection, generations: Mapping[Place, str]) -> None:
    """Have rows know blobs by the generations that they have now, given by bucket and key."""
    after = ""
    query = select(blobs).where(blobs.c.generation.is_not(None)).order_by(blobs.c.blob_id).limit(_AT_ONCE)
    while rows := (await connection.execute(query.where(blobs.c.blob_id > after))).all():
        for row in rows:
            generation = generations.get((row.bucket, row.key), row.generation)
            await connection.execute(update(blobs).where(blobs.c.blob_id == row.blob_id).values(generation=generation))
        after = rows[-1].blob_id
