"""`LibraryService`: decode, one call, encode."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

from atelier.library.v1 import library_service_pb2 as pb
from atelier.library.v1 import library_service_pb2_grpc
from library_service import wire
from library_service.catalogue import Catalogue
from library_service.domain import Place
from library_service.removal import Removal
from library_service.saving import Saving
from service_kit.blobs import SignedUrl
from service_kit.identity import current_caller
from service_kit.media_urls import MediaSigner
from service_kit.server import Registration


def registration(servicer: LibraryServicer) -> Registration:
    """Return what a server needs to serve it."""
    return library_service_pb2_grpc.add_LibraryServiceServicer_to_server, servicer


class LibraryServicer(library_service_pb2_grpc.LibraryServiceServicer):
    """The library over gRPC."""

    def __init__(
        self,
        *,
        saving: Saving,
        catalogue: Catalogue,
        removal: Removal,
        media: MediaSigner,
        media_url_ttl: timedelta,
    ) -> None:
        self._saving = saving
        self._catalogue = catalogue
        self._removal = removal
        self._media = media
        self._media_url_ttl = media_url_ttl

    async def SaveToLibrary(self, request: pb.SaveToLibraryRequest, context: Any) -> pb.SaveToLibraryResponse:
        results = await self._saving.save(current_caller(), request.asset_ids)
        return pb.SaveToLibraryResponse(results=[wire.save_result_to_proto(result, self._sign) for result in results])

    async def ListItems(self, request: pb.ListItemsRequest, context: Any) -> pb.ListItemsResponse:
        page = await self._catalogue.list_items(
            current_caller().owner,
            format=wire.format_filter(request.format),
            page_size=request.page_size if request.HasField("page_size") else None,
            page_token=request.page_token,
        )
        return wire.page_to_proto(page, self._sign)

    async def GetItem(self, request: pb.GetItemRequest, context: Any) -> pb.GetItemResponse:
        item = await self._catalogue.get_item(current_caller().owner, request.item_id)
        return pb.GetItemResponse(item=wire.item_to_proto(item, self._sign))

    async def DeleteItem(self, request: pb.DeleteItemRequest, context: Any) -> pb.DeleteItemResponse:
        caller = current_caller()
        if request.permanently:
            await self._removal.delete_item(caller, request.item_id)
        else:
            await self._removal.trash_item(caller, request.item_id)
        return pb.DeleteItemResponse()

    async def WatchItems(self, request: pb.WatchItemsRequest, context: Any) -> AsyncIterator[pb.WatchItemsResponse]:
        await context.send_initial_metadata((("atelier-stream", "open"),))
        events = self._catalogue.watch_items(current_caller().owner, request.after)
        async with contextlib.aclosing(events):
            async for event in events:
                yield wire.event_to_proto(event, self._sign)

    def _sign(self, place: Place) -> SignedUrl:
        return self._media.sign(place.bucket, place.key, place.generation, self._media_url_ttl)
