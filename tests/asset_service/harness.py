"""A real asset service on a free port, with its database and blobs on the disk, and its callers."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import grpc
import pytest

from asset_service.__main__ import Service, open_service
from atelier.asset.v1 import (
    asset_control_service_pb2,
    asset_control_service_pb2_grpc,
    asset_pb2,
    asset_service_pb2,
    asset_service_pb2_grpc,
    upload_service_pb2,
    upload_service_pb2_grpc,
)
from atelier.type.v1 import generation_pb2, media_pb2
from service_kit import channels
from service_kit.blobs import BlobInfo
from service_kit.capabilities import Capabilities, LeaseClaims, ReferenceGrant
from service_kit.clock import Clock, ManualClock
from service_kit.errors import AtelierError
from service_kit.identity import IdentitySigner, KeyKind, Owner
from service_kit.ids import new_id
from service_kit.keyring import Keyrings
from service_kit.rpc_errors import from_rpc_error
from service_kit.settings import for_tests
from tests.asset_service.pictures import png
from tests.support.sqlite import put_migrated

# Marks tests of rules that are told to the database; all others run on SQLite.
on_both_databases = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
ANN = Owner("default", "ann")
BOB = Owner("default", "bob")
Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Finished:
    """An output that was uploaded: its receipt and its upload's id."""

    receipt: str
    upload_id: str
    media: media_pb2.Media


class Callers:
    """Everybody who calls a running service: users, workers, our other services."""

    def __init__(self, data_dir: Path, clock: Clock, channel: grpc.aio.Channel) -> None:
        self.data_dir = data_dir
        self.clock: Clock = clock
        self.assets = asset_service_pb2_grpc.AssetServiceStub(channel)
        self.uploads = upload_service_pb2_grpc.UploadServiceStub(channel)
        self.control = asset_control_service_pb2_grpc.AssetControlServiceStub(channel)
        rings = Keyrings(data_dir / "keys")
        self._signer: IdentitySigner = rings.identity_signer(clock)
        self.capabilities: Capabilities = rings.capabilities(clock)
        self.media_verifier = rings.media_verifier(clock)

    def as_user(self, owner: Owner, kind: KeyKind = KeyKind.USER) -> Metadata:
        """Return the metadata of a caller."""
        issued = self._signer.issue(owner=owner, kind=kind, key_id="0" * 16)
        return (("authorization", f"Bearer {issued.token.reveal()}"),)

    @property
    def as_router(self) -> Metadata:
        """Return the metadata of one of our services."""
        return self.as_user(Owner("default", "router"), KeyKind.SERVICE)

    def lease(self, job_id: str, **changes: Any) -> LeaseClaims:
        """Return what the lease of a job's stage grants."""
        claims = LeaseClaims(
            job_id=job_id,
            stage=0,
            fence=1,
            owner=ANN,
            max_outputs=4,
            max_bytes=1 << 20,
            formats=("image",),
            references=(),
            expires_at=self.clock.now() + timedelta(minutes=20),
        )
        return replace(claims, **changes)

    def as_worker(self, lease: LeaseClaims) -> Metadata:
        """Return the metadata of the worker that has a lease."""
        return (("atelier-lease-token", self.capabilities.sign_lease(lease)),)

    async def start(
        self, lease: LeaseClaims, data: bytes, index: int = 0, rendition: int = 0
    ) -> upload_service_pb2.StartUploadResponse:
        """Begin an upload of these bytes."""
        request = upload_service_pb2.StartUploadRequest(
            asset_index=index,
            rendition=rendition,  # type: ignore[arg-type]
            size_bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
        )
        return await self.uploads.StartUpload(request, metadata=self.as_worker(lease))

    async def write(self, lease: LeaseClaims, upload_id: str, data: bytes, offset: int = 0, piece: int = 40_000) -> int:
        """Send bytes from an offset on, in pieces. Returns how many the service has."""

        async def requests() -> AsyncIterator[upload_service_pb2.WriteUploadRequest]:
            for place in range(0, len(data), piece):
                yield upload_service_pb2.WriteUploadRequest(
                    upload_id=upload_id if place == 0 else "",
                    offset=offset + place,
                    data=data[place : place + piece],
                )

        reply = await self.uploads.WriteUpload(requests(), metadata=self.as_worker(lease))
        return reply.received_bytes

    async def send(self, lease: LeaseClaims, data: bytes, index: int = 0, rendition: int = 0) -> str:
        """Upload a file whole, without finishing it. Returns the upload's id."""
        started = await self.start(lease, data, index, rendition)
        if started.received_bytes < len(data):
            await self.write(lease, started.upload_id, data[started.received_bytes :], started.received_bytes)
        return started.upload_id

    async def finish(
        self, lease: LeaseClaims, upload_id: str, renditions: Sequence[str] = ()
    ) -> upload_service_pb2.FinishUploadResponse:
        """Finish an upload."""
        request = upload_service_pb2.FinishUploadRequest(upload_id=upload_id, rendition_upload_ids=renditions)
        return await self.uploads.FinishUpload(request, metadata=self.as_worker(lease))

    async def deliver(self, lease: LeaseClaims, data: bytes, index: int = 0) -> Finished:
        """Upload and finish an output."""
        upload_id = await self.send(lease, data, index)
        reply = await self.finish(lease, upload_id)
        return Finished(reply.receipt, upload_id, reply.media)

    async def settle(
        self, job_id: str, receipts: dict[int, str], owner: Owner = ANN, prompt: str = "a lighthouse"
    ) -> asset_control_service_pb2.SettleResponse:
        """Settle a job."""
        request = asset_control_service_pb2.SettleRequest(job_id=job_id, owner=wire_owner(owner))
        for index, receipt in receipts.items():
            provenance = generation_pb2.Provenance(job_id=job_id, asset_index=index, prompt=prompt)
            request.winners.add(asset_index=index, receipt=receipt, provenance=provenance)
        return await self.control.Settle(request, metadata=self.as_router)

    async def settle_jobs(
        self, *settlements: asset_control_service_pb2.SettleRequest
    ) -> list[asset_control_service_pb2.SettleJobsResult]:
        """Settle jobs with one call."""
        request = asset_control_service_pb2.SettleJobsRequest(settlements=settlements)
        return list((await self.control.SettleJobs(request, metadata=self.as_router)).results)

    async def publish(self, owner: Owner = ANN, quantity: int = 1) -> list[asset_pb2.Asset]:
        """Make a whole job happen. Returns its assets."""
        job_id = new_id()
        lease = self.lease(job_id, owner=owner, max_outputs=quantity)
        receipts = {index: (await self.deliver(lease, png(seed=index), index)).receipt for index in range(quantity)}
        await self.settle(job_id, receipts, owner)
        return await self.listed(owner, job_id=job_id)

    async def listed(self, owner: Owner = ANN, **fields: Any) -> list[asset_pb2.Asset]:
        """Return the first page of an owner's assets."""
        reply = await self.assets.ListAssets(
            asset_service_pb2.ListAssetsRequest(**fields), metadata=self.as_user(owner)
        )
        return list(reply.assets)

    async def get(self, asset_id: str, owner: Owner = ANN) -> asset_pb2.Asset:
        """Return one asset."""
        request = asset_service_pb2.GetAssetRequest(asset_id=asset_id)
        return (await self.assets.GetAsset(request, metadata=self.as_user(owner))).asset

    async def discard(self, asset_id: str, owner: Owner = ANN) -> asset_pb2.Asset:
        """Discard one asset."""
        request = asset_service_pb2.DiscardAssetRequest(asset_id=asset_id)
        return (await self.assets.DiscardAsset(request, metadata=self.as_user(owner))).asset

    async def hold(
        self, holder: str, *asset_ids: str, owner: Owner = ANN, ttl: timedelta = timedelta(minutes=1)
    ) -> asset_control_service_pb2.TakeHoldResponse:
        """Hold assets."""
        request = asset_control_service_pb2.TakeHoldRequest(holder=holder, owner=wire_owner(owner), asset_ids=asset_ids)
        request.ttl.FromTimedelta(ttl)
        return await self.control.TakeHold(request, metadata=self.as_router)

    async def confirm(self, holder: str, *asset_ids: str, owner: Owner = ANN) -> None:
        """Confirm holds."""
        request = asset_control_service_pb2.ConfirmHoldRequest(
            holder=holder, owner=wire_owner(owner), asset_ids=asset_ids
        )
        await self.control.ConfirmHold(request, metadata=self.as_router)

    async def release(self, holder: str) -> None:
        """Release holds."""
        request = asset_control_service_pb2.ReleaseHoldRequest(holder=holder)
        await self.control.ReleaseHold(request, metadata=self.as_router)

    async def mark_saved(self, asset_id: str, item_id: str, version: int, owner: Owner = ANN) -> None:
        """Mark an asset as saved."""
        request = asset_control_service_pb2.MarkSavedRequest(
            asset_id=asset_id, owner=wire_owner(owner), item_id=item_id, version=version
        )
        await self.control.MarkSaved(request, metadata=self.as_router)

    async def bring(self, data: bytes, owner: Owner = ANN, piece: int = 50_000, **announced: Any) -> asset_pb2.Asset:
        """Upload a file as a client."""

        async def requests() -> AsyncIterator[upload_service_pb2.CreateUploadRequest]:
            yield upload_service_pb2.CreateUploadRequest(**({"size_bytes": len(data)} | announced))
            for place in range(0, len(data), piece):
                yield upload_service_pb2.CreateUploadRequest(data=data[place : place + piece])

        return (await self.uploads.CreateUpload(requests(), metadata=self.as_user(owner))).asset

    async def read_reference(self, lease: LeaseClaims, asset_id: str) -> bytes:
        """Read a reference as the worker that has a lease."""
        request = upload_service_pb2.ReadReferenceRequest(asset_id=asset_id)
        stream = self.uploads.ReadReference(request, metadata=self.as_worker(lease))
        return b"".join([message.data async for message in stream])

    def fetch(self, url: str) -> tuple[str, str, str]:
        """Return bucket, key and generation of a signed address, as the gateway would find them."""
        parts = urlsplit(url)
        _, _, bucket, key = unquote(parts.path).split("/", 3)
        grant = self.media_verifier.verify(bucket, key, dict(parse_qsl(parts.query)))
        return grant.bucket, grant.key, grant.generation


class Harness(Callers):
    """A service that runs in this process, and its callers."""

    def __init__(self, service: Service, data_dir: Path, clock: ManualClock, channel: grpc.aio.Channel) -> None:
        super().__init__(data_dir, clock, channel)
        self.service = service
        self.clock: ManualClock = clock

    async def blobs(self) -> list[BlobInfo]:
        """Return all blobs that there are."""
        return [info async for info in self.service.store.list("workspace-temp")]


def wire_owner(owner: Owner) -> media_pb2.Owner:
    """Return an owner as requests carry it."""
    return media_pb2.Owner(tenant_id=owner.tenant_id, owner_id=owner.owner_id)


def settlement(job_id: str, receipts: dict[int, str], owner: Owner = ANN) -> asset_control_service_pb2.SettleRequest:
    """Return the settlement of a job, as a batch carries it."""
    request = asset_control_service_pb2.SettleRequest(job_id=job_id, owner=wire_owner(owner))
    for index, receipt in receipts.items():
        request.winners.add(asset_index=index, receipt=receipt)
    return request


def grant(held: asset_control_service_pb2.HeldAsset) -> ReferenceGrant:
    """Return the right to read a held asset, as the router puts it into a lease."""
    return ReferenceGrant(held.blob.bucket, held.blob.key, held.blob.generation, held.asset.asset_id)


async def refusal(call: Any) -> AtelierError:
    """Return the error with which a call is refused."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    raise LookupError("the call was not refused")


@asynccontextmanager
async def running(data_dir: Path, clock: ManualClock, **settings: Any) -> AsyncIterator[Harness]:
    """Run the service on a data folder until the end of the block."""
    async with AsyncExitStack() as stack:
        # Tests that want renditions have them made, so that nothing changes beside the others.
        settings = {"asset__fill_renditions": False} | settings
        chosen = for_tests(data_dir, **settings)
        await put_migrated(chosen, "asset")
        service = await open_service(chosen, stack, clock=clock)
        channel = channels.connect(service.server.target)
        stack.push_async_callback(channel.close)
        yield Harness(service, data_dir, clock, channel)


async def eventually(condition: Callable[[], Awaitable[object]]) -> None:
    """Wait until a condition holds. Raises TimeoutError when it does not within thirty seconds."""
    async with asyncio.timeout(30):
        while True:
            if await condition():
                return
            await asyncio.sleep(0)
