"""`LibraryService`: decode, one call, encode."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

from atelier.library.v1 import library_service_pb2 as pb
from atelier.library.v1 import library_service_pb2_grpc
from library_service import shelf_wire, wire
from library_service.catalogue import Catalogue
from library_service.clearing import Clearing
from library_service.copying_back import CopyingBack
from library_service.domain import Place
from library_service.erasure import Erasure
from library_service.removal import Removal
from library_service.saving import Saving
from library_service.shelving import Shelving
from library_service.sweep import Sweep
from service_kit.blobs import SignedUrl
from service_kit.care_wire import findings_to_proto
from service_kit.events.watching import STREAM_STATE, ends_when_told
from service_kit.identity import Owner, current_caller
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
        clearing: Clearing,
        copying_back: CopyingBack,
        sweep: Sweep,
        erasure: Erasure,
        catalogue: Catalogue,
        removal: Removal,
        shelving: Shelving,
        media: MediaSigner,
        media_url_ttl: timedelta,
    ) -> None:
        self._saving = saving
        self._clearing = clearing
        self._copying_back = copying_back
        self._sweep = sweep
        self._erasure = erasure
        self._catalogue = catalogue
        self._removal = removal
        self._shelving = shelving
        self._media = media
        self._media_url_ttl = media_url_ttl

    async def SaveToLibrary(self, request: pb.SaveToLibraryRequest, context: Any) -> pb.SaveToLibraryResponse:
        results = await self._saving.save(current_caller(), request.asset_ids, request.idempotency_key)
        return pb.SaveToLibraryResponse(results=[wire.save_result_to_proto(result, self._sign) for result in results])

    async def ListItems(self, request: pb.ListItemsRequest, context: Any) -> pb.ListItemsResponse:
        page = await self._catalogue.list_items(
            current_caller().owner,
            shelf_wire.selection(request),
            sort=shelf_wire.sort(request),
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

    async def CountItems(self, request: pb.CountItemsRequest, context: Any) -> pb.CountItemsResponse:
        counts = await self._catalogue.count_items(current_caller().owner, shelf_wire.selection(request))
        return shelf_wire.counts_to_proto(counts)

    async def UpdateItem(self, request: pb.UpdateItemRequest, context: Any) -> pb.UpdateItemResponse:
        item = await self._shelving.update_item(current_caller(), request.item_id, **shelf_wire.update(request))
        return pb.UpdateItemResponse(item=wire.item_to_proto(item, self._sign))

    async def ChangeItems(self, request: pb.ChangeItemsRequest, context: Any) -> pb.ChangeItemsResponse:
        change = shelf_wire.change(request)
        results = await self._shelving.change_items(current_caller(), request.item_ids, change)
        return pb.ChangeItemsResponse(results=[shelf_wire.change_result_to_proto(result) for result in results])

    async def GetRecipe(self, request: pb.GetRecipeRequest, context: Any) -> pb.GetRecipeResponse:
        item = await self._catalogue.get_item(current_caller().owner, request.item_id)
        return pb.GetRecipeResponse(request=shelf_wire.recipe(item, as_enhanced=request.as_enhanced))

    async def CreateCollection(self, request: pb.CreateCollectionRequest, context: Any) -> pb.CreateCollectionResponse:
        made = await self._shelving.create_collection(current_caller().owner, request.name)
        return pb.CreateCollectionResponse(collection=shelf_wire.collection_to_proto(made))

    async def ListCollections(self, request: pb.ListCollectionsRequest, context: Any) -> pb.ListCollectionsResponse:
        found = await self._shelving.list_collections(current_caller().owner)
        return pb.ListCollectionsResponse(collections=[shelf_wire.collection_to_proto(each) for each in found])

    async def RenameCollection(self, request: pb.RenameCollectionRequest, context: Any) -> pb.RenameCollectionResponse:
        renamed = await self._shelving.rename_collection(current_caller().owner, request.collection_id, request.name)
        return pb.RenameCollectionResponse(collection=shelf_wire.collection_to_proto(renamed))

    async def DeleteCollection(self, request: pb.DeleteCollectionRequest, context: Any) -> pb.DeleteCollectionResponse:
        await self._shelving.delete_collection(current_caller().owner, request.collection_id)
        return pb.DeleteCollectionResponse()

    async def ClearAssets(self, request: pb.ClearAssetsRequest, context: Any) -> pb.ClearAssetsResponse:
        results = await self._clearing.clear(current_caller(), request.asset_ids, request.idempotency_key)
        return pb.ClearAssetsResponse(results=[wire.clear_result_to_proto(result, self._sign) for result in results])

    async def ClearJob(self, request: pb.ClearJobRequest, context: Any) -> pb.ClearJobResponse:
        results = await self._clearing.clear_job(current_caller(), request.job_id)
        return pb.ClearJobResponse(results=[wire.clear_result_to_proto(result, self._sign) for result in results])

    async def ClearWorkspace(self, request: pb.ClearWorkspaceRequest, context: Any) -> pb.ClearWorkspaceResponse:
        results, following = await self._clearing.clear_workspace(
            current_caller(),
            page_size=request.page_size if request.HasField("page_size") else None,
            page_token=request.page_token,
        )
        return pb.ClearWorkspaceResponse(
            results=[wire.clear_result_to_proto(result, self._sign) for result in results], next_page_token=following
        )

    async def CopyToWorkspace(self, request: pb.CopyToWorkspaceRequest, context: Any) -> pb.CopyToWorkspaceResponse:
        results = await self._copying_back.copy(current_caller(), request.item_ids)
        pairs = zip(request.item_ids, results, strict=True)
        return pb.CopyToWorkspaceResponse(results=[wire.copy_result_to_proto(*pair) for pair in pairs])

    async def SweepBlobs(self, request: pb.SweepBlobsRequest, context: Any) -> pb.SweepBlobsResponse:
        page = await self._sweep.page(request.dry_run, request.page_token, verify=request.verify)
        return pb.SweepBlobsResponse(
            findings=findings_to_proto(page.findings),
            blobs=page.blobs,
            rows=page.rows,
            next_page_token=page.next_page_token,
            verified_bytes=page.verified_bytes,
        )

    async def EraseOwner(self, request: pb.EraseOwnerRequest, context: Any) -> pb.EraseOwnerResponse:
        tenant_id = request.tenant_id or current_caller().owner.tenant_id
        left = await self._erasure.erase(Owner(tenant_id, request.owner_id))
        return pb.EraseOwnerResponse(done=not left, left=left)

    async def WatchItems(self, request: pb.WatchItemsRequest, context: Any) -> AsyncIterator[pb.WatchItemsResponse]:
        await context.send_initial_metadata(((STREAM_STATE, "open"),))
        once = ends_when_told(context.invocation_metadata())
        events = self._catalogue.watch_items(current_caller().owner, request.after, once=once)
        async with contextlib.aclosing(events):
            async for event in events:
                yield wire.event_to_proto(event, self._sign)

    def _sign(self, place: Place, item_id: str) -> SignedUrl:
        return self._media.sign(place.bucket, place.key, place.generation, self._media_url_ttl, of=item_id)
