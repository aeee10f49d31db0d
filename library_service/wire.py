"""Protobuf messages to the library's own types, and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from atelier.asset.v1 import asset_control_service_pb2, asset_pb2, asset_service_pb2
from atelier.library.v1 import library_service_pb2 as pb
from atelier.type.v1 import error_pb2, generation_pb2, media_pb2
from library_service.domain import (
    MAIN_FILE,
    ClearResult,
    EmptyState,
    HeldAsset,
    Item,
    ItemChanged,
    ItemDeleted,
    ItemEvent,
    ItemSaved,
    Mark,
    Media,
    Page,
    Place,
    SaveResult,
    StoredFile,
)
from library_service.domain.words import Facts, Labels
from service_kit.blobs import SignedUrl
from service_kit.errors import Aborted, AtelierError, InvalidArgument
from service_kit.identity import Owner

Sign = Callable[[Place, str], SignedUrl]
"""Makes a signed address of a file of an item, by the item's id."""

_EPOCH, _SECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(seconds=1)
_FORMAT = "FORMAT_"
_RENDITION = "RENDITION_KIND_"
_EMPTY_STATES = {
    None: pb.EMPTY_STATE_UNSPECIFIED,
    EmptyState.NOTHING_SAVED: pb.EMPTY_STATE_NOTHING_SAVED,
    EmptyState.NOTHING_MATCHES: pb.EMPTY_STATE_NOTHING_MATCHES,
}


def owner_to_proto(owner: Owner) -> media_pb2.Owner:
    """Return the message of an owner."""
    return media_pb2.Owner(tenant_id=owner.tenant_id, owner_id=owner.owner_id)


def held_asset(held: asset_control_service_pb2.HeldAsset, *, discarded_too: bool = False) -> HeldAsset | None:
    """Return a held asset; None when its owner cannot see it, unless that is because it was discarded."""
    asset = held.asset
    discarded = discarded_too and asset.state == asset_pb2.ASSET_STATE_REMOVED
    if asset.state != asset_pb2.ASSET_STATE_AVAILABLE and not discarded:
        return None
    files = [StoredFile(MAIN_FILE, _media(asset.media), _place(held.blob))]
    for rendition, blob in zip(asset.renditions, held.rendition_blobs, strict=True):
        kind = media_pb2.RenditionKind.Name(rendition.kind).removeprefix(_RENDITION).lower()
        files.append(StoredFile(kind, _media(rendition.media), _place(blob)))
    kind_of_format = generation_pb2.Format.Name(asset.format).removeprefix(_FORMAT).lower()
    return HeldAsset(
        asset_id=asset.asset_id,
        format=kind_of_format,
        provenance=asset.provenance.SerializeToString(deterministic=True),
        files=tuple(files),
        facts=facts(asset.provenance, kind_of_format),
        source_item_id=asset.source_item_id,
        awaits_renditions=asset.rendition_state == asset_pb2.RENDITION_STATE_PENDING,
    )


def mark_to_proto(mark: Mark) -> asset_control_service_pb2.MarkSavedRequest:
    """Return the message of a mark."""
    return asset_control_service_pb2.MarkSavedRequest(
        asset_id=mark.asset_id, owner=owner_to_proto(mark.owner), item_id=mark.item_id, version=mark.version
    )


def item_to_copy(item: Item) -> asset_control_service_pb2.CopyItemRequest:
    """Return an item as the asset service needs it to make an asset of it."""
    request = asset_control_service_pb2.CopyItemRequest(owner=owner_to_proto(item.owner), item_id=item.item_id)
    request.provenance.ParseFromString(item.provenance)
    for file in item.files:
        kind = media_pb2.RENDITION_KIND_UNSPECIFIED
        if file.rendition != MAIN_FILE:
            kind = media_pb2.RenditionKind.Value(_RENDITION + file.rendition.upper())
        place = media_pb2.BlobRef(bucket=file.place.bucket, key=file.place.key, generation=file.place.generation)
        request.files.add(rendition=kind, media=_media_to_proto(file.media), blob=place)
    return request


def not_discarded(reply: asset_service_pb2.DiscardAssetsResponse) -> dict[str, AtelierError]:
    """Return why assets are still there that were to be removed, by id."""
    return {
        result.asset_id: Aborted(result.failure.message)
        for result in reply.results
        if result.HasField("failure") and result.failure.reason != error_pb2.ERROR_REASON_NOT_FOUND
    }


def facts(provenance: generation_pb2.Provenance, format: str) -> Facts:
    """Return what a provenance says that an item is found by. One that was uploaded has neither model nor seed."""
    prompts = tuple(text for text in (provenance.prompt, provenance.enhanced_prompt) if text)
    seed = provenance.seed if provenance.HasField("settings") else None
    return Facts(prompts, provenance.settings.model, seed, format)


def format_filter(number: int) -> str | None:
    """Return the format that a list is narrowed to; None for all.

    Raises:
        InvalidArgument: there is no such format.
    """
    if number == generation_pb2.FORMAT_UNSPECIFIED:
        return None
    if number not in generation_pb2.Format.values():
        raise InvalidArgument.field("format", f"must be image or video, got {number}")
    return generation_pb2.Format.Name(generation_pb2.Format.ValueType(number)).removeprefix(_FORMAT).lower()


def item_to_proto(item: Item, sign: Sign) -> pb.Item:
    """Return the message of an item with fresh addresses; of a deleted one only ids and times."""
    message = pb.Item(
        item_id=item.item_id, asset_id=item.asset_id, created_at=_time(item.created_at), version=item.version
    )
    message.is_favourite = item.labels.is_favourite
    message.title, message.notes = item.labels.title, item.notes
    message.tags.extend(item.labels.tags)
    message.collection_ids.extend(item.labels.collection_ids)
    if item.trashed_at is not None:
        message.trashed_at.CopyFrom(_time(item.trashed_at))
    if not item.files:
        return message
    message.format = generation_pb2.Format.Value(_FORMAT + item.format.upper())
    message.provenance.ParseFromString(item.provenance)
    main, *renditions = item.files
    message.media.CopyFrom(_media_to_proto(main.media))
    signed = sign(main.place, item.item_id)
    message.url = signed.url
    message.url_expires_at.CopyFrom(_time(signed.expires_at))
    for file in renditions:
        signed = sign(file.place, item.item_id)
        message.renditions.add(
            kind=media_pb2.RenditionKind.Value(_RENDITION + file.rendition.upper()),
            media=_media_to_proto(file.media),
            url=signed.url,
            url_expires_at=_time(signed.expires_at),
        )
    return message


def save_result_to_proto(result: SaveResult, sign: Sign) -> pb.SaveResult:
    """Return the message of what became of one asset."""
    if result.item is not None:
        return pb.SaveResult(asset_id=result.asset_id, item=item_to_proto(result.item, sign))
    if result.failure is None:
        raise ValueError("a save has neither item nor failure")
    return pb.SaveResult(asset_id=result.asset_id, failure=_failure(result.failure))


def clear_result_to_proto(result: ClearResult, sign: Sign) -> pb.ClearResult:
    """Return the message of what became of one asset."""
    if result.item is not None:
        return pb.ClearResult(asset_id=result.asset_id, item=item_to_proto(result.item, sign))
    if result.failure is None:
        raise ValueError("a clearing has neither item nor failure")
    return pb.ClearResult(asset_id=result.asset_id, failure=_failure(result.failure))


def copy_result_to_proto(item_id: str, result: bytes | AtelierError) -> pb.CopyResult:
    """Return the message of what became of one item: an asset as the asset service told it, or why there is none."""
    if isinstance(result, AtelierError):
        return pb.CopyResult(item_id=item_id, failure=_failure(result))
    return pb.CopyResult(item_id=item_id, asset=asset_pb2.Asset.FromString(result))


def _failure(error: AtelierError) -> pb.SaveFailure:
    reason = error_pb2.ErrorReason.Value(f"ERROR_REASON_{error.reason.name}")
    return pb.SaveFailure(reason=reason, message=error.message)


def page_to_proto(page: Page, sign: Sign) -> pb.ListItemsResponse:
    """Return the message of one page."""
    return pb.ListItemsResponse(
        items=[item_to_proto(item, sign) for item in page.items],
        next_page_token=page.next_page_token,
        empty_state=_EMPTY_STATES[page.empty_state],
    )


def event_to_proto(event: ItemEvent, sign: Sign) -> pb.WatchItemsResponse:
    """Return the message of one event."""
    match event:
        case ItemSaved():
            return pb.WatchItemsResponse(cursor=event.cursor, saved=item_to_proto(event.item, sign))
        case ItemChanged():
            return pb.WatchItemsResponse(cursor=event.cursor, changed=item_to_proto(event.item, sign))
        case ItemDeleted():
            # Also one that only went into the trash: who watches the library is shown no more of it.
            gone = replace(event.item, files=(), labels=Labels(), notes="")
            return pb.WatchItemsResponse(cursor=event.cursor, deleted=item_to_proto(gone, sign))
        case _:
            snapshot = pb.ItemsSnapshot(items=[item_to_proto(item, sign) for item in event.items])
            return pb.WatchItemsResponse(cursor=event.cursor, snapshot=snapshot)


def _media(media: media_pb2.Media) -> Media:
    return Media(media.content_type, media.size_bytes, media.sha256, media.width, media.height, media.duration_ms)


def _media_to_proto(media: Media) -> media_pb2.Media:
    return media_pb2.Media(
        content_type=media.content_type,
        size_bytes=media.size_bytes,
        sha256=media.sha256,
        width=media.width,
        height=media.height,
        duration_ms=media.duration_ms,
    )


def _place(blob: media_pb2.BlobRef) -> Place:
    return Place(blob.bucket, blob.key, blob.generation)


def _time(moment: datetime) -> Timestamp:
    # A page has a hundred of them, and FromDatetime takes four times as long.
    seconds, rest = divmod(moment - _EPOCH, _SECOND)
    return Timestamp(seconds=seconds, nanos=rest.microseconds * 1000)
