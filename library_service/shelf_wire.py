"""What is asked of a library, and what is told of shelves, as messages and as the library's own types."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from atelier.library.v1 import library_service_pb2 as pb
from atelier.router.v1 import router_service_pb2
from atelier.type.v1 import error_pb2, generation_pb2
from library_service.domain import Item
from library_service.domain.selection import Collection, Counts, Selection, Sort
from library_service.domain.words import Facts
from library_service.shelving import Change, ChangeResult, Move
from library_service.wire import facts, format_filter
from service_kit.errors import FailedPrecondition, InvalidArgument

_SORTS = {
    pb.ITEM_SORT_UNSPECIFIED: Sort.NEWEST,
    pb.ITEM_SORT_NEWEST: Sort.NEWEST,
    pb.ITEM_SORT_OLDEST: Sort.OLDEST,
    pb.ITEM_SORT_TITLE: Sort.TITLE,
}
_MOVES = {
    pb.ITEM_MOVE_UNSPECIFIED: None,
    pb.ITEM_MOVE_TRASH: Move.TRASH,
    pb.ITEM_MOVE_RESTORE: Move.RESTORE,
    pb.ITEM_MOVE_DELETE: Move.DELETE,
}

_OURS = "atelier"
_MOST_FRAME_RATE = 60


def selection(request: pb.ListItemsRequest | pb.CountItemsRequest) -> Selection:
    """Return what a request narrows to.

    Raises:
        InvalidArgument: names a format that there is not, or a moment outside what a calendar has.
    """
    return Selection(
        text=request.query,
        format=format_filter(request.format),
        model=request.model or None,
        seed=request.seed if request.HasField("seed") else None,
        is_favourite=request.favourites,
        tags=tuple(request.tags),
        collection_id=request.collection_id or None,
        created_from=_moment(request, "created_from_at"),
        created_until=_moment(request, "created_until_at"),
        item_ids=tuple(request.item_ids) if isinstance(request, pb.ListItemsRequest) else (),
        in_trash=request.trashed,
    )


def sort(request: pb.ListItemsRequest) -> Sort:
    """Return the order that a request asks for.

    Raises:
        InvalidArgument: there is no such order.
    """
    found = _SORTS.get(request.sort)
    if found is None:
        raise InvalidArgument.field("sort", f"must be newest, oldest or title, got {request.sort}")
    return found


def change(request: pb.ChangeItemsRequest) -> Change:
    """Return what a request changes.

    Raises:
        InvalidArgument: there is no such move, or nothing is to be changed.
    """
    if request.move not in _MOVES:
        raise InvalidArgument.field("move", f"must be trash, restore or delete, got {request.move}")
    found = Change(
        move=_MOVES[request.move],
        add_tags=tuple(request.add_tags),
        remove_tags=tuple(request.remove_tags),
        is_favourite=request.is_favourite if request.HasField("is_favourite") else None,
        put_in=request.add_to_collection_id,
        take_out_of=request.remove_from_collection_id,
    )
    if found == Change():
        raise InvalidArgument.field("move", "must be set, or tags, a favourite or a collection: nothing is changed")
    if found.put_in and found.put_in == found.take_out_of:
        raise InvalidArgument.field("remove_from_collection_id", "must differ from add_to_collection_id")
    return found


def update(request: pb.UpdateItemRequest) -> dict[str, Any]:
    """Return what a request says of an item: what is absent is None."""
    said: dict[str, Any] = {
        name: getattr(request, name) if request.HasField(name) else None for name in ("title", "notes", "is_favourite")
    }
    return said | {"tags": tuple(request.tags.tags) if request.HasField("tags") else None}


def facts_of(item: Item) -> Facts:
    """Return what an item's provenance says that it is found by."""
    return facts(generation_pb2.Provenance.FromString(item.provenance), item.format)


def recipe(item: Item, *, as_enhanced: bool) -> router_service_pb2.GenerateContentRequest:
    """Return the request that makes an item again.

    Raises:
        FailedPrecondition: nobody generated it.
    """
    made = generation_pb2.Provenance.FromString(item.provenance)
    if not made.prompt or not made.settings.model:
        raise FailedPrecondition("Nothing is known of how this item was made: it was not generated here.")
    settings = made.settings
    request = router_service_pb2.GenerateContentRequest(
        prompt=made.prompt,
        negative_prompt=made.negative_prompt,
        model=settings.model,
        format=settings.format,
        quantity=1,
        # Of this very output: that of the job belongs to its first.
        seed=made.seed,
        quality=settings.quality,
        aspect_ratio=settings.aspect_ratio,
        steps=settings.steps or None,
        reference_images=made.reference_images,
        guidance=settings.guidance if settings.HasField("guidance") else None,
        scheduler=settings.scheduler,
        loras=settings.loras,
    )
    ours = made.job_id or made.imported.tool == _OURS
    if ours and settings.width and not settings.aspect_ratio:
        request.width, request.height = settings.width, settings.height
    if settings.frames and settings.frame_rate:
        request.duration_seconds = settings.frames / settings.frame_rate
        # What a file says of itself may be more than a request may ask for.
        if settings.frame_rate <= _MOST_FRAME_RATE:
            request.frame_rate = settings.frame_rate
    _say_prompt(request, made, as_enhanced=as_enhanced)
    return request


def _say_prompt(
    request: router_service_pb2.GenerateContentRequest, made: generation_pb2.Provenance, *, as_enhanced: bool
) -> None:
    """Ask for an enhancement as its request did, or with the prompt that came of it, and for none; never for both."""
    if as_enhanced:
        request.prompt = made.enhanced_prompt or made.prompt
    elif made.enhanced_prompt or made.enhance_prompt:
        request.enhance_prompt = True
        if made.warn_on_enhancement_failure:
            request.on_enhancement_failure = router_service_pb2.ON_ENHANCEMENT_FAILURE_WARN


def counts_to_proto(counts: Counts) -> pb.CountItemsResponse:
    """Return the message of counts."""
    return pb.CountItemsResponse(
        total=counts.total,
        is_bound=counts.is_bound,
        favourites=counts.favourites,
        formats=[pb.ItemCount(name=name, count=count) for name, count in counts.formats.items()],
        models=[pb.ItemCount(name=name, count=count) for name, count in counts.models.items()],
        tags=[pb.ItemCount(name=name, count=count) for name, count in counts.tags.items()],
    )


def change_result_to_proto(result: ChangeResult) -> pb.ChangeResult:
    """Return the message of what became of one item."""
    if result.failure is None:
        return pb.ChangeResult(item_id=result.item_id)
    reason = error_pb2.ErrorReason.Value(f"ERROR_REASON_{result.failure.reason.name}")
    failure = pb.ChangeFailure(reason=reason, message=result.failure.message)
    return pb.ChangeResult(item_id=result.item_id, failure=failure)


def collection_to_proto(collection: Collection) -> pb.Collection:
    """Return the message of a collection."""
    created_at = Timestamp()
    created_at.FromDatetime(collection.created_at)
    return pb.Collection(
        collection_id=collection.collection_id,
        name=collection.name,
        size=collection.size,
        created_at=created_at,
        version=collection.version,
    )


def _moment(request: Message, field: str) -> datetime | None:
    if not request.HasField(field):
        return None
    try:
        moment: datetime = getattr(request, field).ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidArgument.field(field, "must be a moment between the years 1 and 9999") from None
    return moment
