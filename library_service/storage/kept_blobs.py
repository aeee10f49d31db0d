"""Which blobs the rows of the library know, for backups."""

from __future__ import annotations

from collections.abc import AsyncIterator

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from library_service.storage.tables import blobs

_AT_ONCE = 1000


async def kept_blobs(connection: AsyncConnection) -> AsyncIterator[tuple[str, str]]:
    """Give (bucket, key) of every blob that a row knows, whatever its state; also of those that are not there yet."""
    after = ""
    query = select(blobs.c.blob_id, blobs.c.bucket, blobs.c.key).order_by(blobs.c.blob_id).limit(_AT_ONCE)
    while rows := (await connection.execute(query.where(blobs.c.blob_id > after))).all():
        for row in rows:
            yield row.bucket, row.key
        after = rows[-1].blob_id
