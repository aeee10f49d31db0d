"""AssetService and AssetControlService: decode, one call, encode."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from asset_service.holds import Holds
from asset_service.settlement import Ending, Settling
from asset_service.watch import Watchers
from asset_service.wire import Encoder, checked_ending, ending_from, owner_from, settle_result, settled
from asset_service.workspace import Workspace
from atelier.asset.v1 import (
    asset_control_service_pb2,
    asset_control_service_pb2_grpc,
    asset_service_pb2,
    asset_service_pb2_grpc,
)
from service_kit.errors import InvalidArgument
from service_kit.identity import current_caller
from service_kit.server import Registration

Context = grpc.aio.ServicerContext[Any, Any]
_PAGE_SIZE = 50


class AssetServicer(asset_service_pb2_grpc.AssetServiceServicer):
    """An owner's workspace."""

    def __init__(self, workspace: Workspace, watchers: Watchers, encoder: Encoder) -> None:
        self._workspace = workspace
        self._watchers = watchers
        self._encoder = encoder

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

    async def WatchAssets(
        self, request: asset_service_pb2.WatchAssetsRequest, context: Context
    ) -> AsyncIterator[asset_service_pb2.WatchAssetsResponse]:
        await context.send_initial_metadata((("atelier-stream", "open"),))
        async with aclosing(self._watchers.watch(current_caller().owner, request.after)) as watched:
            async for told in watched:
                yield self._encoder.told(told)


class AssetControlServicer(asset_control_service_pb2_grpc.AssetControlServiceServicer):
    """What Atelier's other services tell the workspace."""

    def __init__(self, settling: Settling, holds: Holds, workspace: Workspace, encoder: Encoder) -> None:
        self._settling = settling
        self._holds = holds
        self._workspace = workspace
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
            request.holder, owner_from(request.owner), request.asset_ids, request.ttl.ToTimedelta()
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
        await self._workspace.mark_saved(request.asset_id, owner_from(request.owner), request.item_id, request.version)
        return asset_control_service_pb2.MarkSavedResponse()


def _or_refusal(request: asset_control_service_pb2.SettleRequest) -> Ending | InvalidArgument:
    try:
        return checked_ending(request)
    except InvalidArgument as error:
        return error
