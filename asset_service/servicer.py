"""AssetService and AssetControlService: decode, one call, encode."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from asset_service.erasure import Erasure
from asset_service.holds import Holds
from asset_service.item_copies import ItemCopies
from asset_service.settlement import Ending, Settling
from asset_service.sweep import Sweep
from asset_service.watch import Watchers
from asset_service.wire import (
    Encoder,
    checked_ending,
    ending_from,
    mark_from,
    moment,
    original_from,
    owner_from,
    results,
    settle_result,
    settled,
)
from asset_service.workspace import Workspace
from atelier.asset.v1 import (
    asset_control_service_pb2,
    asset_control_service_pb2_grpc,
    asset_service_pb2,
    asset_service_pb2_grpc,
)
from service_kit.care_wire import findings_to_proto
from service_kit.errors import InvalidArgument
from service_kit.events.watching import STREAM_STATE, ends_when_told
from service_kit.identity import Owner, current_caller
from service_kit.server import Registration

Context = grpc.aio.ServicerContext[Any, Any]
_PAGE_SIZE = 50


class AssetServicer(asset_service_pb2_grpc.AssetServiceServicer):
    """An owner's workspace."""

    def __init__(
        self, workspace: Workspace, watchers: Watchers, encoder: Encoder, sweep: Sweep, erasure: Erasure
    ) -> None:
        self._workspace = workspace
        self._watchers = watchers
        self._encoder = encoder
        self._sweep = sweep
        self._erasure = erasure

    @property
    def registration(self) -> Registration:
        """What a server needs to know."""
        return asset_service_pb2_grpc.add_AssetServiceServicer_to_server, self

    async def ListAssets(
        self, request: asset_service_pb2.ListAssetsRequest, context: Context
    ) -> asset_service_pb2.ListAssetsResponse:
        page = await self._workspace.list(
            current_caller().owner,
            job_id=request.job_id,
            page_size=request.page_size if request.HasField("page_size") else _PAGE_SIZE,
            page_token=request.page_token,
        )
        return asset_service_pb2.ListAssetsResponse(
            assets=[self._encoder.asset(asset) for asset in page.assets], next_page_token=page.next_page_token
        )

    async def GetAsset(
        self, request: asset_service_pb2.GetAssetRequest, context: Context
    ) -> asset_service_pb2.GetAssetResponse:
        asset = await self._workspace.get(request.asset_id, current_caller().owner)
        return asset_service_pb2.GetAssetResponse(asset=self._encoder.asset(asset))

    async def DiscardAsset(
        self, request: asset_service_pb2.DiscardAssetRequest, context: Context
    ) -> asset_service_pb2.DiscardAssetResponse:
        asset = await self._workspace.discard(request.asset_id, current_caller().owner)
        return asset_service_pb2.DiscardAssetResponse(asset=self._encoder.asset(asset))

    async def DiscardAssets(
        self, request: asset_service_pb2.DiscardAssetsRequest, context: Context
    ) -> asset_service_pb2.DiscardAssetsResponse:
        found = await self._workspace.discard_many(request.asset_ids, current_caller().owner)
        return asset_service_pb2.DiscardAssetsResponse(results=results(request.asset_ids, found, self._encoder))

    async def ExtendExpiry(
        self, request: asset_service_pb2.ExtendExpiryRequest, context: Context
    ) -> asset_service_pb2.ExtendExpiryResponse:
        expires_at = moment(request.expires_at) if request.HasField("expires_at") else None
        found = await self._workspace.extend(request.asset_ids, current_caller().owner, expires_at)
        return asset_service_pb2.ExtendExpiryResponse(results=results(request.asset_ids, found, self._encoder))

    async def SweepBlobs(
        self, request: asset_service_pb2.SweepBlobsRequest, context: Context
    ) -> asset_service_pb2.SweepBlobsResponse:
        page = await self._sweep.page(request.dry_run, request.page_token, verify=request.verify)
        return asset_service_pb2.SweepBlobsResponse(
            findings=findings_to_proto(page.findings),
            blobs=page.blobs,
            rows=page.rows,
            next_page_token=page.next_page_token,
            verified_bytes=page.verified_bytes,
        )

    async def EraseOwner(
        self, request: asset_service_pb2.EraseOwnerRequest, context: Context
    ) -> asset_service_pb2.EraseOwnerResponse:
        tenant_id = request.tenant_id or current_caller().owner.tenant_id
        left = await self._erasure.erase(Owner(tenant_id, request.owner_id))
        return asset_service_pb2.EraseOwnerResponse(done=not left, left=left)

    async def WatchAssets(
        self, request: asset_service_pb2.WatchAssetsRequest, context: Context
    ) -> AsyncIterator[asset_service_pb2.WatchAssetsResponse]:
        await context.send_initial_metadata(((STREAM_STATE, "open"),))
        once = ends_when_told(context.invocation_metadata())
        async with aclosing(self._watchers.watch(current_caller().owner, request.after, once=once)) as watched:
            async for told in watched:
                yield self._encoder.told(told)


class AssetControlServicer(asset_control_service_pb2_grpc.AssetControlServiceServicer):
    """What Atelier's other services tell the workspace."""

    def __init__(
        self, settling: Settling, holds: Holds, workspace: Workspace, item_copies: ItemCopies, encoder: Encoder
    ) -> None:
        self._settling = settling
        self._holds = holds
        self._workspace = workspace
        self._item_copies = item_copies
        self._encoder = encoder

    @property
    def registration(self) -> Registration:
        """What a server needs to know."""
        return asset_control_service_pb2_grpc.add_AssetControlServiceServicer_to_server, self

    async def Settle(
        self, request: asset_control_service_pb2.SettleRequest, context: Context
    ) -> asset_control_service_pb2.SettleResponse:
        return settled(await self._settling.settle(ending_from(request)))

    async def SettleJobs(
        self, request: asset_control_service_pb2.SettleJobsRequest, context: Context
    ) -> asset_control_service_pb2.SettleJobsResponse:
        # One that names no job can be refused, but not written down.
        checked = [_or_refusal(settlement) for settlement in request.settlements]
        answers = iter(await self._settling.settle_many([one for one in checked if isinstance(one, Ending)]))
        return asset_control_service_pb2.SettleJobsResponse(
            results=[
                settle_result(asked.job_id, next(answers) if isinstance(one, Ending) else one)
                for asked, one in zip(request.settlements, checked, strict=True)
            ]
        )

    async def TakeHold(
        self, request: asset_control_service_pb2.TakeHoldRequest, context: Context
    ) -> asset_control_service_pb2.TakeHoldResponse:
        held = await self._holds.take(
            request.holder,
            owner_from(request.owner),
            request.asset_ids,
            request.ttl.ToTimedelta(),
            skip_missing=request.skip_missing,
        )
        return asset_control_service_pb2.TakeHoldResponse(held=[self._encoder.held(asset) for asset in held])

    async def ConfirmHold(
        self, request: asset_control_service_pb2.ConfirmHoldRequest, context: Context
    ) -> asset_control_service_pb2.ConfirmHoldResponse:
        await self._holds.confirm(request.holder, owner_from(request.owner), request.asset_ids)
        return asset_control_service_pb2.ConfirmHoldResponse()

    async def ReleaseHold(
        self, request: asset_control_service_pb2.ReleaseHoldRequest, context: Context
    ) -> asset_control_service_pb2.ReleaseHoldResponse:
        await self._holds.release(request.holder)
        return asset_control_service_pb2.ReleaseHoldResponse()

    async def MarkSaved(
        self, request: asset_control_service_pb2.MarkSavedRequest, context: Context
    ) -> asset_control_service_pb2.MarkSavedResponse:
        await self._workspace.mark_saved([mark_from(request)])
        return asset_control_service_pb2.MarkSavedResponse()

    async def MarkManySaved(
        self, request: asset_control_service_pb2.MarkManySavedRequest, context: Context
    ) -> asset_control_service_pb2.MarkManySavedResponse:
        await self._workspace.mark_saved([mark_from(mark) for mark in request.marks])
        return asset_control_service_pb2.MarkManySavedResponse()

    async def CopyItem(
        self, request: asset_control_service_pb2.CopyItemRequest, context: Context
    ) -> asset_control_service_pb2.CopyItemResponse:
        asset = await self._item_copies.copy(original_from(request))
        return asset_control_service_pb2.CopyItemResponse(asset=self._encoder.asset(asset))


def _or_refusal(request: asset_control_service_pb2.SettleRequest) -> Ending | InvalidArgument:
    try:
        return checked_ending(request)
    except InvalidArgument as error:
        return error
