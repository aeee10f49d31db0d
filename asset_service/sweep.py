"""The sweep: compares the workspace's bucket with its rows. Blobs without a row go, but for those of open jobs.

A row is there before the first byte at its key, and is gone only after the last: so a blob that was listed before the
rows were read, and that no row knows, has been forgotten. It gets a row again, which says DELETING, and goes the way of
every other. Nothing is concluded from a row whose blob is missing: a store that was mounted wrongly looks the same.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from itertools import chain

from asset_service.domain import Asset, Blob, KeyParts, Upload, UploadState, read_key
from asset_service.removal import Removal
from asset_service.storage import Storage, Transaction
from service_kit import crash
from service_kit.blobs import WORKSPACE_BUCKET, BlobInfo, BlobStore, UnreadableBlob, owner_of_key
from service_kit.errors import AtelierError
from service_kit.identity import Owner
from service_kit.ids import new_id
from service_kit.sweeping import (
    ROWS_AT_ONCE,
    Finding,
    Place,
    SweepAction,
    SweepKind,
    SweptPage,
    damaged,
    list_some,
    not_a_blob,
    place_of,
    token_of,
)
from service_kit.telemetry import get_logger
from service_kit.verifying import AT_ONCE_BYTES, Verifying

log = get_logger(__name__)
_TOKEN = "asset.sweep"  # noqa: S105 - the name of a list, not a secret
_BLOBS, _ASSETS, _UPLOADS = "blobs", "assets", "uploads"
_PARTS = frozenset({_BLOBS, _ASSETS, _UPLOADS})

_OF_AN_OPEN_JOB = (
    "No row knows these bytes, and their key says that they are of job {job_id}, which is not settled: "
    "they are never deleted automatically."
)
_OF_A_SETTLED_JOB = "No row knows these bytes, and their key says that they are of job {job_id}, which was settled."
_UNKNOWN = "No row knows these bytes: nobody can see them."
_ASSET_LOST = "The bytes of an asset are not there: restore them from a backup, or discard the asset."
_RENDITION_LOST = "A smaller file of an asset is not there; the asset itself is."
_UPLOAD_LOST = "The bytes of a finished upload are not there; when its job is settled, this output counts as lost."


class Sweep:
    """Finds what does not fit, and deletes the blobs that nobody can miss."""

    def __init__(self, storage: Storage, store: BlobStore, removal: Removal) -> None:
        self._storage = storage
        self._store = store
        self._removal = removal
        self._verifying = Verifying(store)

    async def page(self, dry_run: bool, token: str, *, verify: bool = False) -> SweptPage:
        """Look at some blobs or rows, and say where the next page begins. With `verify` the bytes of blobs are read.

        Raises:
            InvalidArgument: the token is not of this sweep.
        """
        place = place_of(_TOKEN, token, _BLOBS, _PARTS)
        if place.part == _BLOBS:
            return await self._blobs(dry_run, place.after, verify)
        assets, uploads = await self._rows(place)
        last = (assets[-1].asset_id if assets else "") or (uploads[-1].upload_id if uploads else "")
        following_rows: Place | None = Place(place.part, last)
        if len(assets) + len(uploads) < ROWS_AT_ONCE:
            following_rows = Place(_UPLOADS, "") if place.part == _ASSETS else None
        missing = [finding async for finding in self._missing(assets, uploads)]
        return SweptPage(tuple(missing), 0, len(assets) + len(uploads), token_of(_TOKEN, following_rows))

    async def _blobs(self, dry_run: bool, after: str, verify: bool) -> SweptPage:
        listed = await list_some(self._store, WORKSPACE_BUCKET, after, most_bytes=AT_ONCE_BYTES if verify else None)
        # Listed before this looks at the rows.
        async with self._storage.read() as tx:
            known = await _users(tx, listed.keys)
        dealt = [await self._deal(info, dry_run) for info in listed.blobs if info.key not in known]
        findings = [finding for finding in dealt if finding is not None]
        findings += [not_a_blob(entry, known.get(entry.key, "")) for entry in listed.others]
        read = [info for info in listed.blobs if verify and info.key in known]
        for info in read:
            if why := await self._verifying.damage(info):
                findings.append(damaged(info, known[info.key], why))
        following = Place(_ASSETS, "") if listed.after is None else Place(_BLOBS, listed.after)
        read_bytes = sum(info.size_bytes for info in read)
        return SweptPage(tuple(findings), len(listed.blobs), 0, token_of(_TOKEN, following), read_bytes)

    async def _deal(self, info: BlobInfo, dry_run: bool) -> Finding | None:
        """Return what is to be said about a blob that no row knows, after it was done; None when it has just gone."""
        try:
            now = await self._store.stat(WORKSPACE_BUCKET, info.key)
        except UnreadableBlob:
            # It became something else in this moment; the next sweep tells of it.
            return None
        if now is None or now.generation != info.generation:
            return None
        parts = read_key(info.key)
        async with self._storage.write() as tx:
            if parts.job_id is not None:
                # Settlements lock the same: what is not settled now stays so until this has ended.
                await tx.lock_jobs([parts.job_id])
            if await _users(tx, [info.key]):
                return None
            settled = parts.job_id is None or parts.job_id in await tx.settlements.find_many([parts.job_id])
            finding = _unknown(info, parts, settled)
            if not settled:
                return finding
            if dry_run:
                return replace(finding, action=SweepAction.WOULD_DELETE)
            upload = _upload(info, parts)
            if await tx.erased.among([upload.owner]):
                # What is noted of it outlives it, and nothing may name who was erased.
                upload = replace(upload, owner=Owner("", ""))
            await tx.uploads.add(upload)
            await tx.note("swept", upload.owner, upload.upload_id)
        crash.reach("asset.sweep.committed")
        try:
            await self._removal.delete_upload(upload)
        except (AtelierError, OSError) as error:
            log.warning("deletion_failed", id=upload.upload_id, error=str(error))
        return replace(finding, action=SweepAction.DELETED)

    async def _rows(self, place: Place) -> tuple[Sequence[Asset], Sequence[Upload]]:
        async with self._storage.read() as tx:
            if place.part == _ASSETS:
                return await tx.assets.with_bytes(place.after, ROWS_AT_ONCE), ()
            return (), await tx.uploads.staged(place.after, ROWS_AT_ONCE)

    async def _missing(self, assets: Sequence[Asset], uploads: Sequence[Upload]) -> AsyncIterator[Finding]:
        """Give what is said about rows whose blobs are not there, unless the rows have changed meanwhile."""
        for asset in assets:
            wanted = [(rendition.blob, rendition.media.size_bytes, _RENDITION_LOST) for rendition in asset.renditions]
            if asset.blob is not None and asset.media is not None:
                wanted.insert(0, (asset.blob, asset.media.size_bytes, _ASSET_LOST))
            for blob, size_bytes, why in wanted:
                if not await self._is_there(blob) and await self._is_still(asset):
                    yield _lost(blob, size_bytes, f"asset {asset.asset_id}", why)
        for upload in uploads:
            if not await self._is_there(upload.blob) and await self._is_still_staged(upload):
                yield _lost(upload.blob, upload.size_bytes, f"upload {upload.upload_id}", _UPLOAD_LOST)

    async def _is_there(self, blob: Blob) -> bool:
        try:
            info = await self._store.stat(blob.bucket, blob.key)
        except UnreadableBlob:
            # It was told when the blobs were looked at.
            return True
        return info is not None and info.generation == blob.generation

    async def _is_still(self, asset: Asset) -> bool:
        async with self._storage.read() as tx:
            found = await tx.assets.find(asset.asset_id, asset.owner)
        return found is not None and (found.state, found.version) == (asset.state, asset.version)

    async def _is_still_staged(self, upload: Upload) -> bool:
        async with self._storage.read() as tx:
            found = await tx.uploads.find(upload.upload_id)
        return found is not None and found.state is UploadState.STAGED


async def _users(tx: Transaction, keys: Sequence[str]) -> dict[str, str]:
    """Return those of some keys that a row knows, each with what the row is, such as `asset 0197…`."""
    # Uploads first: one that becomes an asset meanwhile is an asset then.
    known = {key: f"upload {upload_id}" for key, upload_id in (await tx.uploads.at_keys(keys)).items()}
    left = [key for key in keys if key not in known]
    named = {parts.asset_id for key in left if (parts := read_key(key)).asset_id is not None}
    assets = chain(await tx.assets.with_ids(sorted(filter(None, named))), await tx.assets.with_keys(left))
    for asset in assets:
        subject = f"asset {asset.asset_id}"
        known |= {rendition.blob.key: subject for rendition in asset.renditions}
        known |= {asset.blob.key: subject} if asset.blob else {}
    for key in left:
        if key not in known and (owner_id := await tx.assets.with_rendition_at(key)) is not None:
            known[key] = f"asset {owner_id}"
    return known


def _unknown(info: BlobInfo, parts: KeyParts, settled: bool) -> Finding:
    why = _UNKNOWN
    if parts.job_id is not None:
        why = (_OF_A_SETTLED_JOB if settled else _OF_AN_OPEN_JOB).format(job_id=parts.job_id)
    return Finding(
        SweepKind.BLOB_WITHOUT_ROW,
        info.bucket,
        info.key,
        info.generation,
        info.size_bytes,
        why,
        created_at=info.created_at,
    )


def _lost(blob: Blob, size_bytes: int, subject: str, why: str) -> Finding:
    return Finding(SweepKind.ROW_WITHOUT_BLOB, blob.bucket, blob.key, blob.generation, size_bytes, why, subject=subject)


def _upload(info: BlobInfo, parts: KeyParts) -> Upload:
    """Return the row with which a blob that was forgotten is deleted."""
    return Upload(
        upload_id=new_id(),
        asset_id=parts.asset_id or "",
        owner=owner_of_key(info.key) or Owner("", ""),
        job_id=parts.job_id,
        # Not one that a lease has: each upload of a job is another one.
        stage=-1,
        fence=-1,
        asset_index=0,
        rendition=None,
        key=info.key,
        size_bytes=info.size_bytes,
        sha256=f"{info.sha256}:{info.generation}",
        state=UploadState.DELETING,
        generation=info.generation,
    )
