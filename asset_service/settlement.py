"""Settlements: how a job ended, carried out once and answered the same ever after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from asset_service.domain import (
    Asset,
    AssetSource,
    AssetState,
    Blob,
    EventKind,
    RenditionFile,
    Settlement,
    Upload,
    UploadState,
    job_holder,
)
from asset_service.receipts import Receipts
from asset_service.removal import Removal
from asset_service.storage import Storage, Transaction
from asset_service.watch import Watchers
from service_kit import crash
from service_kit.blobs import WORKSPACE_BUCKET, BlobStore
from service_kit.identity import Owner
from service_kit.telemetry import get_logger

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Winner:
    """An output that won: its receipt, and how it was made."""

    asset_index: int
    receipt: str
    provenance: bytes


@dataclass(frozen=True, slots=True)
class _Proven:
    """A winner whose receipt is good."""

    winner: Winner
    upload_id: str
    generation: str


class Settling:
    """Carries settlements out."""

    def __init__(
        self,
        storage: Storage,
        store: BlobStore,
        receipts: Receipts,
        removal: Removal,
        watchers: Watchers,
        *,
        asset_expiry: timedelta,
    ) -> None:
        self._storage = storage
        self._store = store
        self._receipts = receipts
        self._removal = removal
        self._watchers = watchers
        self._asset_expiry = asset_expiry

    async def settle(self, job_id: str, owner: Owner, winners: Sequence[Winner]) -> Settlement:
        """Publish a job's winners, give up its other uploads, release its holds; a repeat gets the first answer."""
        async with self._storage.read() as tx:
            first = await tx.settlements.find(job_id)
        if first is not None:
            return first
        proven = [good for winner in winners if (good := await self._prove(job_id, winner)) is not None]
        async with self._storage.write() as tx:
            first = await tx.settlements.find(job_id)
            if first is not None:
                return first
            published = set()
            for good in proven:
                index = good.winner.asset_index
                if index not in published and await self._publish(tx, job_id, owner, good):
                    published.add(index)
            lost = {winner.asset_index for winner in winners} - published
            settlement = Settlement(job_id, owner, tuple(sorted(published)), tuple(sorted(lost)))
            await tx.settlements.add(settlement)
            await tx.uploads.delete_later(job_id=job_id)
            await tx.holds.release(job_holder(job_id))
            await tx.note("settled", owner, job_id, published=list(settlement.published), lost=list(settlement.lost))
            crash.reach("asset.settle.before_commit")
        crash.reach("asset.settle.committed")
        log.info("job_settled", job_id=job_id, published=len(settlement.published), lost=list(settlement.lost))
        self._watchers.notify(owner)
        self._removal.nudge()
        return settlement

    async def _prove(self, job_id: str, winner: Winner) -> _Proven | None:
        """Check a receipt, and that the bytes are still there; None when the output is lost."""
        receipt = self._receipts.verify(winner.receipt, job_id=job_id, asset_index=winner.asset_index)
        if receipt is None:
            log.warning("receipt_refused", job_id=job_id, asset_index=winner.asset_index)
            return None
        info = await self._store.stat(WORKSPACE_BUCKET, receipt.key)
        if info is None or info.generation != receipt.generation:
            log.error("output_lost", job_id=job_id, asset_index=winner.asset_index)
            return None
        return _Proven(winner, receipt.upload_id, receipt.generation)

    async def _publish(self, tx: Transaction, job_id: str, owner: Owner, good: _Proven) -> bool:
        """Make an asset of an upload. Returns False when the upload is gone, or is not the owner's."""
        upload = await tx.uploads.find(good.upload_id)
        if upload is None or upload.state is not UploadState.STAGED or upload.generation != good.generation:
            return False
        if (upload.job_id, upload.owner) != (job_id, owner) or upload.media is None:
            log.error("settlement_of_another_owner", job_id=job_id, upload_id=upload.upload_id)
            return False
        if await tx.assets.find(upload.asset_id, owner) is not None:
            # A tombstone: its owner discarded it before it was published. The upload goes with the losers.
            return True
        renditions = await tx.uploads.renditions_of(upload.upload_id)
        asset = await self._asset(tx, upload, renditions, good.winner.provenance)
        await tx.assets.add(asset)
        await tx.events.append(EventKind.PUBLISHED, asset)
        # The keys belong to the asset from now on.
        await tx.uploads.forget([upload.upload_id, *(rendition.upload_id for rendition in renditions)])
        return True

    async def _asset(self, tx: Transaction, upload: Upload, renditions: Sequence[Upload], provenance: bytes) -> Asset:
        now = await tx.now()
        return Asset(
            asset_id=upload.asset_id,
            owner=upload.owner,
            job_id=upload.job_id,
            asset_index=upload.asset_index,
            source=AssetSource.JOB,
            state=AssetState.AVAILABLE,
            media=upload.media,
            blob=_blob(upload),
            renditions=tuple(
                RenditionFile(rendition.rendition, _blob(rendition), rendition.media)
                for rendition in renditions
                if rendition.rendition is not None and rendition.media is not None
            ),
            provenance=provenance,
            filename="",
            saved_item_id="",
            saved_version=0,
            created_at=now,
            expires_at=now + self._asset_expiry,
            version=1,
        )


def _blob(upload: Upload) -> Blob:
    if upload.generation is None:
        raise ValueError("only a staged upload has a blob")
    return Blob(WORKSPACE_BUCKET, upload.key, upload.generation)
