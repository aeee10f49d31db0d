"""Between the contracts and the domain."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from asset_service.domain import (
    Asset,
    AssetSource,
    AssetState,
    Blob,
    EventKind,
    Media,
    MediaFormat,
    RenditionKind,
    Settlement,
)
from asset_service.item_copies import ItemFile, Original
from asset_service.resumable_uploads import Progress
from asset_service.settlement import Ending, Winner
from asset_service.watch import Told
from asset_service.workspace import Mark, Result
from atelier.asset.v1 import asset_control_service_pb2, asset_pb2, asset_service_pb2, upload_service_pb2
from atelier.type.v1 import error_pb2, generation_pb2, media_pb2
from service_kit.errors import AtelierError, ErrorReason, InvalidArgument
from service_kit.identity import Owner
from service_kit.media_urls import MediaSigner
from service_kit.validation import check_limits

_SOURCES = {
    AssetSource.JOB: asset_pb2.ASSET_SOURCE_JOB,
    AssetSource.UPLOAD: asset_pb2.ASSET_SOURCE_UPLOAD,
    AssetSource.ITEM: asset_pb2.ASSET_SOURCE_ITEM,
    AssetSource.IMPORT: asset_pb2.ASSET_SOURCE_IMPORT,
}
_SEED = re.compile(r"-?[0-9]{1,39}")
_MAX_JSON_INTEGER = 2**53 - 1
# As much of it as a request may ask for.
_MOST_GUIDANCE = 30
_ANYBODY = media_pb2.Owner(tenant_id="-", owner_id="-")
_FORMATS = {
    MediaFormat.IMAGE: generation_pb2.FORMAT_IMAGE,
    MediaFormat.VIDEO: generation_pb2.FORMAT_VIDEO,
}
_KINDS = {
    RenditionKind.THUMB_256: media_pb2.RENDITION_KIND_THUMB_256,
    RenditionKind.THUMB_1024: media_pb2.RENDITION_KIND_THUMB_1024,
    RenditionKind.POSTER: media_pb2.RENDITION_KIND_POSTER,
    RenditionKind.CLIP: media_pb2.RENDITION_KIND_CLIP,
}
_KINDS_BACK = {number: kind for kind, number in _KINDS.items()}


class Encoder:
    """Encodes assets with fresh signed addresses."""

    def __init__(self, signer: MediaSigner, url_ttl: timedelta) -> None:
        self._signer = signer
        self._url_ttl = url_ttl

    def asset(self, asset: Asset) -> asset_pb2.Asset:
        """Return an asset as its owner sees it; of one that is gone only ids, times and the state."""
        message = asset_pb2.Asset(
            asset_id=asset.asset_id,
            job_id=asset.job_id or "",
            asset_index=asset.asset_index,
            source=_SOURCES[asset.source],
            state=_state(asset.state),
            saved_item_id=asset.saved_item_id,
            created_at=timestamp(asset.created_at),
            expires_at=timestamp(asset.expires_at),
            version=asset.version,
            source_item_id="" if asset.state.gone else asset.source_item_id,
        )
        if asset.state is AssetState.AVAILABLE:
            self._describe(asset, message)
        return message

    def held(self, asset: Asset) -> asset_control_service_pb2.HeldAsset:
        """Return an asset for one of our services, hidden or not, with where its bytes are."""
        if asset.blob is None:
            raise ValueError("an asset without bytes cannot be held")
        held = asset_control_service_pb2.HeldAsset(asset=self.asset(asset), blob=_blob(asset.blob))
        if asset.state is not AssetState.AVAILABLE:
            self._describe(asset, held.asset)
        held.rendition_blobs.extend(_blob(rendition.blob) for rendition in asset.renditions)
        return held

    def told(self, told: Told) -> asset_service_pb2.WatchAssetsResponse:
        """Return what a watcher is told."""
        message = asset_service_pb2.WatchAssetsResponse(cursor=told.cursor)
        assets = [self.asset(asset) for asset in told.assets]
        match told.kind:
            case None:
                message.snapshot.CopyFrom(asset_service_pb2.AssetsSnapshot(assets=assets))
            case EventKind.PUBLISHED:
                message.published.CopyFrom(assets[0])
            case EventKind.CHANGED:
                message.changed.CopyFrom(assets[0])
            case EventKind.REMOVED:
                message.removed.CopyFrom(assets[0])
        return message

    def _describe(self, asset: Asset, message: asset_pb2.Asset) -> None:
        if asset.media is None or asset.blob is None:
            raise ValueError("an asset that can be seen has bytes")
        message.format = _FORMATS[asset.media.format]
        message.media.CopyFrom(media(asset.media))
        message.filename = asset.filename
        if asset.provenance:
            message.provenance.ParseFromString(asset.provenance)
        message.rendition_state, message.rendition_error = _rendition_state(asset), asset.rendition_error
        message.url, expires_at = self._sign(asset.blob, asset.asset_id)
        message.url_expires_at.CopyFrom(expires_at)
        for rendition in asset.renditions:
            url, expires_at = self._sign(rendition.blob, asset.asset_id)
            message.renditions.add(
                kind=_KINDS[rendition.kind], media=media(rendition.media), url=url, url_expires_at=expires_at
            )

    def _sign(self, blob: Blob, asset_id: str) -> tuple[str, Timestamp]:
        signed = self._signer.sign(blob.bucket, blob.key, blob.generation, self._url_ttl, of=asset_id)
        return signed.url, timestamp(signed.expires_at)


def resumable_upload(progress: Progress) -> upload_service_pb2.ResumableUpload:
    """Return how far an upload of a client is."""
    return upload_service_pb2.ResumableUpload(
        upload_id=progress.upload_id,
        size_bytes=progress.size_bytes,
        received_bytes=progress.received_bytes,
        expires_at=timestamp(progress.expires_at),
    )


def media(found: Media) -> media_pb2.Media:
    """Return what a file is."""
    return media_pb2.Media(
        content_type=found.content_type,
        size_bytes=found.size_bytes,
        sha256=found.sha256,
        width=found.width,
        height=found.height,
        duration_ms=found.duration_ms or 0,
    )


def results(asset_ids: Sequence[str], found: Sequence[Result], encoder: Encoder) -> list[asset_service_pb2.AssetResult]:
    """Return what became of each of some assets."""
    messages = []
    for asset_id, one in zip(asset_ids, found, strict=True):
        message = asset_service_pb2.AssetResult(asset_id=asset_id)
        if isinstance(one, Asset):
            message.asset.CopyFrom(encoder.asset(one))
        else:
            reason = error_pb2.ErrorReason.Value(f"ERROR_REASON_{one.reason.name}")
            message.failure.CopyFrom(asset_service_pb2.AssetFailure(reason=reason, message=one.message))
        messages.append(message)
    return messages


def mark_from(request: asset_control_service_pb2.MarkSavedRequest) -> Mark:
    """Return as which item an asset is saved. Raises InvalidArgument when a part of the owner is empty."""
    return Mark(request.asset_id, owner_from(request.owner), request.item_id, request.version)


def original_from(request: asset_control_service_pb2.CopyItemRequest) -> Original:
    """Return an item as the library says it is. Raises InvalidArgument for an owner or a rendition that is none."""
    return Original(
        item_id=request.item_id,
        owner=owner_from(request.owner),
        files=tuple(
            ItemFile(
                rendition_from(file.rendition),
                Media(
                    file.media.content_type,
                    file.media.size_bytes,
                    file.media.sha256,
                    file.media.width,
                    file.media.height,
                    file.media.duration_ms or None,
                ),
                Blob(file.blob.bucket, file.blob.key, file.blob.generation),
            )
            for file in request.files
        ),
        provenance=request.provenance.SerializeToString(deterministic=True),
        filename=request.filename,
    )


def timestamp(moment: datetime) -> Timestamp:
    """Return a moment, to the microsecond."""
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def moment(stamp: Timestamp) -> datetime:
    """Return a moment of a request, as UTC."""
    return stamp.ToDatetime(UTC)


def owner_from(message: media_pb2.Owner) -> Owner:
    """Return whom a request of one of our services is about. Raises InvalidArgument when a part is empty."""
    for name in ("tenant_id", "owner_id"):
        if not getattr(message, name):
            raise InvalidArgument.field(f"owner.{name}", "must be present", ErrorReason.MISSING_FIELD)
    return Owner(message.tenant_id, message.owner_id)


def ending_from(request: asset_control_service_pb2.SettleRequest) -> Ending:
    """Return how a job ended. Raises InvalidArgument when a part of the owner is empty."""
    winners = tuple(
        Winner(winner.asset_index, winner.receipt, winner.provenance.SerializeToString(deterministic=True))
        for winner in request.winners
    )
    return Ending(request.job_id, owner_from(request.owner), winners)


def checked_ending(request: asset_control_service_pb2.SettleRequest) -> Ending:
    """Return how a job ended; for a settlement that can never be carried out, that the job ends with nothing.

    Raises:
        InvalidArgument: not even the job can be told.
    """
    check_limits(asset_control_service_pb2.SettleRequest(job_id=request.job_id, owner=_ANYBODY))
    try:
        check_limits(request)
        return ending_from(request)
    except InvalidArgument as error:
        return Ending(request.job_id, Owner("", ""), refusal=error.message)


def settled(settlement: Settlement) -> asset_control_service_pb2.SettleResponse:
    """Return what a settlement did."""
    return asset_control_service_pb2.SettleResponse(published=settlement.published, lost=settlement.lost)


def settle_result(job_id: str, answer: Settlement | AtelierError) -> asset_control_service_pb2.SettleJobsResult:
    """Return what became of one job of a batch."""
    result = asset_control_service_pb2.SettleJobsResult(job_id=job_id)
    if isinstance(answer, InvalidArgument):
        result.refused.message = answer.message
    elif isinstance(answer, AtelierError):
        result.postponed.message = answer.message
    elif answer.refusal:
        result.refused.message = answer.refusal
    else:
        result.settled.CopyFrom(settled(answer))
    return result


def import_provenance(request: upload_service_pb2.DescribeImportRequest) -> bytes:
    """Return the provenance of a file that is brought in. Raises InvalidArgument for a seed that is no number.

    A seed beyond 2^53-1, which JSON cannot carry, is in the text alone.
    """
    if request.seed and not _SEED.fullmatch(request.seed):
        raise InvalidArgument.field("seed", f"must be a whole number as text, got {request.seed[:40]!r}")
    seed = int(request.seed) if request.seed else 0
    size = f"{request.width}x{request.height}" if request.width and request.height else ""
    made = generation_pb2.Provenance(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        enhanced_prompt=request.enhanced_prompt,
        seed=seed if 0 <= seed <= _MAX_JSON_INTEGER else 0,
        imported=generation_pb2.ImportedFrom(
            tool=request.tool, path=request.path, seed=request.seed, sampler=request.sampler
        ),
    )
    if request.model or request.steps or size:
        made.settings.model = request.model
        made.settings.size = size
        made.settings.width, made.settings.height = request.width, request.height
        made.settings.steps = request.steps
        made.settings.seed = made.seed
        if request.HasField("guidance") and request.guidance <= _MOST_GUIDANCE:
            made.settings.guidance = request.guidance
    if request.HasField("guidance"):
        made.imported.guidance = request.guidance
    if request.HasField("made_at"):
        made.submitted_at.CopyFrom(request.made_at)
    return made.SerializeToString(deterministic=True)


def said_provenance(said: Mapping[str, Any], content_type: str) -> bytes:
    """Return the provenance of a file of a client, by what it says of itself; of one that says nothing it is empty."""
    if not said.get("prompt"):
        return b""
    known = upload_service_pb2.DescribeImportRequest.DESCRIPTOR.fields_by_name
    request = upload_service_pb2.DescribeImportRequest(
        import_key="", **{name: value for name, value in said.items() if name in known}
    )
    made = generation_pb2.Provenance.FromString(import_provenance(request))
    if made.HasField("settings"):
        is_video = content_type.startswith("video/")
        made.settings.format = generation_pb2.FORMAT_VIDEO if is_video else generation_pb2.FORMAT_IMAGE
        made.settings.frames, made.settings.frame_rate = said.get("frames", 0), said.get("frame_rate", 0)
        made.settings.scheduler = said.get("scheduler", "")
        for name, weight in said.get("loras", ()):
            made.settings.loras.add(name=name, weight=weight)
        if said.get("quality"):
            made.settings.quality = generation_pb2.Quality.Value(f"QUALITY_{said['quality'].upper()}")
    for name, part in said.get("enhanced_by", ()):
        setattr(made.enhanced_by, name, part)
    made.enhance_prompt = bool(made.enhanced_prompt)
    return made.SerializeToString(deterministic=True)


def rendition_from(number: media_pb2.RenditionKind.ValueType) -> RenditionKind | None:
    """Return which rendition is meant; None for the output itself. Raises InvalidArgument for an unknown kind."""
    if number == media_pb2.RENDITION_KIND_UNSPECIFIED:
        return None
    kind = _KINDS_BACK.get(number)
    if kind is None:
        raise InvalidArgument.field("rendition", f"must be one of {', '.join(RenditionKind)}, got {number}")
    return kind


def _rendition_state(asset: Asset) -> asset_pb2.RenditionState.ValueType:
    if not asset.lacking_renditions:
        return asset_pb2.RENDITION_STATE_READY
    return asset_pb2.RENDITION_STATE_FAILED if asset.rendition_error else asset_pb2.RENDITION_STATE_PENDING


def _state(state: AssetState) -> asset_pb2.AssetState.ValueType:
    if state.gone:
        return asset_pb2.ASSET_STATE_REMOVED
    return asset_pb2.ASSET_STATE_WITHHELD if state is AssetState.WITHHELD else asset_pb2.ASSET_STATE_AVAILABLE


def _blob(blob: Blob) -> media_pb2.BlobRef:
    return media_pb2.BlobRef(bucket=blob.bucket, key=blob.key, generation=blob.generation)
