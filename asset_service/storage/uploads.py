"""Every query on uploads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from asset_service.domain import Upload, UploadState
from asset_service.storage.rows import upload_from, upload_values
from asset_service.storage.tables import uploads
from service_kit.bulk import among, delete_rows, insert_rows, write_rows
from service_kit.database import db_now
from service_kit.identity import Owner

_MEASURED = ("state", "generation", "media", "output_upload_id", "receipt")
# Made once: to make a statement costs more than to run it.
_OF_OUTPUTS = select(uploads).where(among(uploads.c.asset_id, "asset_ids"), uploads.c.job_id.is_not(None))
_LOCKED = (
    select(uploads)
    .where(among(uploads.c.job_id, "job_ids"), uploads.c.state != UploadState.DELETING.value)
    .order_by(uploads.c.upload_id)
    .with_for_update()
)
_OPEN = select(uploads.c.upload_id).where(
    among(uploads.c.upload_id, "upload_ids"), uploads.c.state == UploadState.OPEN.value
)
_GIVE_UP_OF_JOBS = (
    update(uploads)
    .where(among(uploads.c.job_id, "job_ids"), uploads.c.state != UploadState.DELETING.value)
    .values(state=UploadState.DELETING.value)
)


class Uploads:
    """Every query on uploads."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, upload: Upload) -> None:
        """Insert an upload: before its first byte."""
        await self._connection.execute(insert(uploads).values(created_at=db_now()), [upload_values(upload)])

    async def add_many(self, new: Sequence[Upload]) -> None:
        """Insert uploads: before their first bytes."""
        await insert_rows(self._connection, uploads, [upload_values(upload) for upload in new], moment="created_at")

    async def of_outputs(self, asset_ids: Sequence[str]) -> Sequence[Upload]:
        """Return all uploads of jobs that may become one of some assets."""
        return await self._select(_OF_OUTPUTS, asset_ids=list(asset_ids))

    async def find(self, upload_id: str) -> Upload | None:
        """Return one upload; None when there is none."""
        found = await self._select(select(uploads).where(uploads.c.upload_id == upload_id))
        return found[0] if found else None

    async def find_same(self, wanted: Upload) -> Upload | None:
        """Return the upload of the same job, fence, index, rendition, digest and size; None when there is none."""
        values = upload_values(wanted)
        same = ("job_id", "fence", "asset_index", "rendition", "sha256", "size_bytes")
        found = await self._select(select(uploads).where(*(uploads.c[name] == values[name] for name in same)))
        return found[0] if found else None

    async def count_same_file(self, wanted: Upload) -> int:
        """Return how many uploads one lease has for one file."""
        values = upload_values(wanted)
        same = ("job_id", "fence", "asset_index", "rendition")
        query = select(func.count()).select_from(uploads).where(*(uploads.c[name] == values[name] for name in same))
        return (await self._connection.execute(query)).scalar_one()

    async def count_open_of_client(self, owner: Owner) -> int:
        """Return how many open uploads an owner has that belong to no job."""
        mine = and_(uploads.c.tenant_id == owner.tenant_id, uploads.c.owner_id == owner.owner_id)
        open_ones = and_(uploads.c.state == UploadState.OPEN.value, uploads.c.job_id.is_(None))
        # Those of renditions are ours.
        query = select(func.count()).select_from(uploads).where(mine, open_ones, uploads.c.rendition == "")
        return (await self._connection.execute(query)).scalar_one()

    async def prolong(self, upload_id: str, deadline_at: datetime) -> None:
        """Let an upload of a client stay for longer."""
        await self._connection.execute(
            update(uploads)
            .where(uploads.c.upload_id == upload_id, uploads.c.job_id.is_(None))
            .values(deadline_at=deadline_at)
        )

    async def of_assets(self, asset_ids: Sequence[str], owner: Owner) -> Sequence[Upload]:
        """Return an owner's uploads that may still become one of some assets."""
        return await self._select(
            select(uploads).where(
                among(uploads.c.asset_id, asset_ids),
                uploads.c.tenant_id == owner.tenant_id,
                uploads.c.owner_id == owner.owner_id,
                uploads.c.job_id.is_not(None),
                uploads.c.state != UploadState.DELETING.value,
            )
        )

    async def renditions_of(self, output: Upload) -> Sequence[Upload]:
        """Return the staged renditions of an output."""
        mine = and_(uploads.c.asset_id == output.asset_id, uploads.c.output_upload_id == output.upload_id)
        return await self._select(
            select(uploads).where(mine, uploads.c.state == UploadState.STAGED.value).order_by(uploads.c.upload_id)
        )

    async def stage(self, upload: Upload) -> bool:
        """Write what was measured. Returns False when the upload is no longer open."""
        changed = await self._connection.execute(
            update(uploads)
            .where(uploads.c.upload_id == upload.upload_id, uploads.c.state == UploadState.OPEN.value)
            .values(**upload_values(upload))
        )
        return changed.rowcount == 1

    async def stage_many(self, measured: Sequence[Upload]) -> None:
        """Write what was measured of uploads of jobs whose locks the caller has, and whose state it has looked at."""
        rows = [
            {name: value for name, value in upload_values(upload).items() if name in ("upload_id", *_MEASURED)}
            for upload in measured
        ]
        await write_rows(self._connection, uploads, rows, match=("upload_id",))

    async def lock_jobs(self, job_ids: Sequence[str]) -> Sequence[Upload]:
        """Return the uploads of jobs that were not given up, by id, and keep everybody else from them."""
        return await self._select(_LOCKED, job_ids=list(job_ids))

    async def delete_later(self, upload_id: str) -> bool:
        """Give up an upload: its bytes are deleted after the commit. Returns False when it is gone already."""
        return await self._give_up(uploads.c.upload_id == upload_id) == 1

    async def delete_later_of_jobs(self, job_ids: Sequence[str]) -> int:
        """Give up all uploads of jobs: their bytes are deleted after the commit. Returns how many."""
        return (await self._connection.execute(_GIVE_UP_OF_JOBS, {"job_ids": list(job_ids)})).rowcount

    async def _give_up(self, *which: ColumnElement[bool]) -> int:
        changed = await self._connection.execute(
            update(uploads)
            .where(*which, uploads.c.state != UploadState.DELETING.value)
            .values(state=UploadState.DELETING.value)
        )
        return changed.rowcount

    async def delete_overdue_later(self) -> int:
        """Give up overdue uploads of clients. Those of jobs have no deadline: only a settlement ends them."""
        return await self._give_up(uploads.c.job_id.is_(None), uploads.c.deadline_at <= db_now())

    async def deleting(self, after: str, limit: int) -> Sequence[Upload]:
        """Return uploads whose bytes are to be deleted, by id, after an id."""
        return await self._select(
            select(uploads)
            .where(uploads.c.state == UploadState.DELETING.value, uploads.c.upload_id > after)
            .order_by(uploads.c.upload_id)
            .limit(limit)
        )

    async def delete_later_of_owner(self, owner: Owner, limit: int) -> int:
        """Give up some uploads of an owner: their bytes are deleted after the commit. Returns how many.

        Fewer than `limit`: there are no more.
        """
        kept = uploads.c.state != UploadState.DELETING.value
        some = select(uploads.c.upload_id).where(_of(owner), kept).order_by(uploads.c.upload_id).limit(limit)
        return await self._give_up(uploads.c.upload_id.in_(some.with_for_update()))

    async def owned_deleting(self, owner: Owner, *, after: str = "", limit: int) -> Sequence[Upload]:
        """Return an owner's uploads whose bytes are to be deleted, by id, after an id."""
        deleting = and_(_of(owner), uploads.c.state == UploadState.DELETING.value, uploads.c.upload_id > after)
        return await self._select(select(uploads).where(deleting).order_by(uploads.c.upload_id).limit(limit))

    async def at_keys(self, keys: Sequence[str]) -> dict[str, str]:
        """Return those of some keys that belong to an upload, each with its id."""
        query = select(uploads.c.key, uploads.c.upload_id).where(among(uploads.c.key, keys))
        return {row.key: row.upload_id for row in await self._connection.execute(query)}

    async def staged(self, after: str, limit: int) -> Sequence[Upload]:
        """Return uploads whose bytes should be there, by id, after an id."""
        query = select(uploads).where(uploads.c.state == UploadState.STAGED.value, uploads.c.upload_id > after)
        return await self._select(query.order_by(uploads.c.upload_id).limit(limit))

    async def open_among(self, upload_ids: Sequence[str]) -> set[str]:
        """Return those of the ids whose uploads still take bytes."""
        return set((await self._connection.execute(_OPEN, {"upload_ids": list(upload_ids)})).scalars())

    async def forget(self, upload_ids: Iterable[str]) -> None:
        """Delete rows: their keys are empty, or belong to an asset from now on."""
        await delete_rows(self._connection, uploads, "upload_id", list(upload_ids))

    async def _select(self, query: Select[Any], **values: Any) -> Sequence[Upload]:
        return [upload_from(row) for row in (await self._connection.execute(query, values)).mappings()]


def _of(owner: Owner) -> ColumnElement[bool]:
    return and_(uploads.c.tenant_id == owner.tenant_id, uploads.c.owner_id == owner.owner_id)
