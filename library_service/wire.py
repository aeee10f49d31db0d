"""Protobuf messages to the library's own types, and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from atelier.asset.v1 import asset_control_service_pb2, asset_pb2
from atelier.library.v1 import library_service_pb2 as pb
from atelier.type.v1 import error_pb2, generation_pb2, media_pb2
from library_service.domain import (
    MAIN_FILE,
    EmptyState,
    HeldAsset,
    Item,
    ItemDeleted,
    ItemEvent,
    ItemSaved,
    Media,
    Page,
    Place,
    SaveResult,
    StoredFile,
)
from service_kit.blobs import SignedUrl
from service_kit.errors import InvalidArgument
from service_kit.identity import Owner

Sign = Callable[[Place], SignedUrl]
"""Makes a signed address of a file."""

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


def held_asset(held: asset_control_service_pb2.HeldAsset) -> HeldAsset | None:
    """Return a held asset; None when its owner cannot see it."""
    asset = held.asset
    if asset.state != asset_pb2.ASSET_STATE_AVAILABLE:
        return None
    files = [StoredFile(MAIN_FILE, _media(asset.media), _place(held.blob))]
    for rendition, blob in zip(asset.renditions, held.rendition_blobs, strict=True):
        kind = media_pb2.RenditionKind.Name(rendition.kind).removeprefix(_RENDITION).lower()
        files.append(StoredFile(kind, _media(rendition.media), _place(blob)))
    return HeldAsset(
        asset_id=asset.asset_id,
        format=generation_pb2.Format.Name(asset.format).removeprefix(_FORMAT).lower(),
        provenance=asset.provenance.SerializeToString(deterministic=True),
        files=tuple(files),
    )


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
    if item.trashed_at is not None:
        message.trashed_at.CopyFrom(_time(item.trashed_at))
    if not item.files:
        return message
    message.format = generation_pb2.Format.Value(_FORMAT + item.format.upper())
    message.provenance.ParseFromString(item.provenance)
    main, *renditions = item.files
    message.media.CopyFrom(_media_to_proto(main.media))
    signed = sign(main.place)
    message.url = signed.url
    message.url_expires_at.CopyFrom(_time(signed.expires_at))
    for file in renditions:
        signed = sign(file.place)
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
    reason = error_pb2.ErrorReason.Value(f"ERROR_REASON_{result.failure.reason.name}")
    failure = pb.SaveFailure(reason=reason, message=result.failure.message)
    return pb.SaveResult(asset_id=result.asset_id, failure=failure)


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
        case ItemDeleted():
            # Also one that only went into the trash: who watches the library is shown no more of it.
            gone = replace(event.item, files=())
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
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
