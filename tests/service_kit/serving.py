"""A server with two services, as every service makes one, and what calls it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from atelier.asset.v1 import asset_pb2 as asset_type_pb2
from atelier.asset.v1 import asset_service_pb2 as asset_pb2
from atelier.asset.v1 import asset_service_pb2_grpc as asset_grpc
from atelier.asset.v1 import upload_service_pb2 as upload_pb2
from atelier.asset.v1 import upload_service_pb2_grpc as upload_grpc
from faults.ports import free_port
from service_kit import channels
from service_kit.capabilities import Capabilities, current_lease
from service_kit.clock import ManualClock, SystemClock
from service_kit.errors import (
    AtelierError,
)
from service_kit.health import HealthBoard
from service_kit.identity import (
    IdentitySigner,
    IssuedToken,
    KeyKind,
    Owner,
    TokenSource,
    current_caller,
)
from service_kit.interceptors import current_request_id
from service_kit.keyring import Keyrings
from service_kit.rpc_errors import from_rpc_error
from service_kit.server import GrpcServer

ANN = Owner("default", "ann")


BOB = Owner("default", "bob")


class Assets(asset_grpc.AssetServiceServicer):
    """Answers with what the test sets up."""

    def __init__(self) -> None:
        self.failure: BaseException | None = None
        self.stuck = asyncio.Event()
        self.closed = asyncio.Event()
        self.seen: list[tuple[str, str]] = []

    async def GetAsset(self, request: asset_pb2.GetAssetRequest, context: Any) -> asset_pb2.GetAssetResponse:
        self.seen.append((current_caller().owner.owner_id, current_request_id()))
        if self.failure is not None:
            raise self.failure
        if request.asset_id == "stuck":
            await self.stuck.wait()
        return asset_pb2.GetAssetResponse()

    async def WatchAssets(
        self, request: asset_pb2.WatchAssetsRequest, context: Any
    ) -> AsyncIterator[asset_pb2.WatchAssetsResponse]:
        try:
            yield asset_pb2.WatchAssetsResponse()
            if self.failure is not None:
                raise self.failure
            await self.stuck.wait()
        finally:
            self.closed.set()


class Uploads(upload_grpc.UploadServiceServicer):
    """Tells which job the lease is for."""

    async def StartUpload(self, request: upload_pb2.StartUploadRequest, context: Any) -> upload_pb2.StartUploadResponse:
        return upload_pb2.StartUploadResponse(upload_id=current_lease().job_id)

    async def CreateUpload(
        self, request_iterator: AsyncIterator[upload_pb2.CreateUploadRequest], context: Any
    ) -> upload_pb2.CreateUploadResponse:
        size = sum([len(message.data) async for message in request_iterator])
        return upload_pb2.CreateUploadResponse(asset=asset_type_pb2.Asset(asset_id=str(size)))


class House:
    """A running server and what is needed to call it; it waits for whoever is slow as long as `limit`."""

    def __init__(self, folder: Path, assets: Assets | None = None, *, limit: timedelta = timedelta(seconds=30)) -> None:
        self.rings = Keyrings(folder / "keys")
        self.clock = SystemClock()
        self.streams_clock = ManualClock(self.clock.now())
        self.signer: IdentitySigner = self.rings.identity_signer(self.clock)
        self.capabilities: Capabilities = self.rings.capabilities(self.clock)
        self.health = HealthBoard()
        self.assets = assets or Assets()  # type: ignore[abstract]
        self.server = GrpcServer(
            "asset",
            # Not a port that another server of these tests had: gRPC remembers for a while where nobody answered.
            listen=f"127.0.0.1:{free_port()}",
            servicers=[
                (asset_grpc.add_AssetServiceServicer_to_server, self.assets),
                (upload_grpc.add_UploadServiceServicer_to_server, Uploads()),  # type: ignore[abstract]
            ],
            verifier=self.rings.identity_verifier(self.clock),
            health=self.health,
            capabilities=self.capabilities,
            grace=timedelta(seconds=1),
            unary_limit=limit,
            idle_limit=limit,
            reflection=True,
            clock=self.streams_clock,
        )

    def channel(
        self, owner: Owner = ANN, kind: KeyKind = KeyKind.USER, *, is_near: bool = False, **options: Any
    ) -> grpc.aio.Channel:
        async def exchange() -> IssuedToken:
            return self.signer.issue(owner=owner, kind=kind, key_id="k", **options)

        near = {self.server.target: self.server.near} if is_near else channels.NOBODY_NEAR
        return channels.connect(self.server.target, tokens=TokenSource(exchange, self.clock), near=near)

    def get_asset(self, channel: grpc.aio.Channel, asset_id: str = "a", **options: Any) -> Any:
        return asset_grpc.AssetServiceStub(channel).GetAsset(asset_pb2.GetAssetRequest(asset_id=asset_id), **options)

    def watch(self, channel: grpc.aio.Channel) -> Any:
        return asset_grpc.AssetServiceStub(channel).WatchAssets(asset_pb2.WatchAssetsRequest())


async def failing(call: Any) -> AtelierError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def all_of(call: Any) -> list[Any]:
    return [message async for message in call]
