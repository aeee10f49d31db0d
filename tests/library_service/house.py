"""A library service with the real asset service and the real key exchange beside it, on one clock that tests move."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import io
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
from PIL import Image

from atelier.asset.v1 import asset_control_service_pb2 as control
from atelier.asset.v1 import (
    asset_control_service_pb2_grpc,
    asset_service_pb2,
    asset_service_pb2_grpc,
    upload_service_pb2,
    upload_service_pb2_grpc,
)
from atelier.identity.v1 import identity_service_pb2_grpc
from atelier.library.v1 import library_service_pb2 as pb
from atelier.library.v1 import library_service_pb2_grpc
from atelier.type.v1 import generation_pb2, media_pb2
from faults.ports import free_port
from library_service.__main__ import Service, open_service
from router_service.identity import Identities
from router_service.identity_servicer import IdentityServicer
from router_service.limits import JobLimits, Limits
from router_service.storage.metadata import metadata as router_metadata
from service_kit import channels
from service_kit.capabilities import LeaseClaims
from service_kit.clock import ManualClock
from service_kit.database import Database
from service_kit.health import HealthBoard
from service_kit.identity import SCOPES, Caller, IssuedToken, KeyKind, Owner, TokenSource
from service_kit.ids import asset_id, new_id
from service_kit.keyring import Keyrings
from service_kit.server import GrpcServer
from service_kit.settings import Settings, for_tests
from tests.support.sqlite import put_migrated

ADA = Owner("default", "ada")
BOB = Owner("default", "bob")


class House:
    """The services, and what owners do with them."""

    def __init__(
        self, folder: Path, stack: AsyncExitStack, *, start: datetime | None = None, database_url: str = ""
    ) -> None:
        self.folder = folder
        self.clock = ManualClock(start)
        self.rings = Keyrings(folder / "keys")
        # Nobody makes renditions beside a test: what it saves is what it put there.
        self.settings: Settings = for_tests(folder, core__database_url=database_url, asset__fill_renditions=False)
        # Not one that the system may give away while it is not there.
        self._set("asset", "listen", f"127.0.0.1:{free_port()}")
        self.library: Service
        self.asset: Any = None
        self._stack = stack
        self._library_stack = AsyncExitStack()
        self._signer = self.rings.identity_signer(self.clock)
        self._asset_stack = AsyncExitStack()

    async def start(self) -> None:
        """Start everything."""
        await put_migrated(self.settings, "asset", "library")
        await self._start_identity()
        await self.start_asset()
        self._stack.push_async_callback(self.stop_asset)
        await self.start_library()
        self._stack.push_async_callback(self.stop_library)

    async def start_asset(self) -> None:
        """Start the asset service, at the address that it had before."""
        main = importlib.import_module("asset_service.__main__")
        self.asset = await main.open_service(self.settings, self._asset_stack, clock=self.clock)
        self._set("library", "asset_target", self.asset.server.target)

    async def stop_asset(self) -> None:
        """Stop the asset service."""
        await self._asset_stack.aclose()

    async def start_library(self) -> None:
        """Start the library service; what the last one left is still there."""
        self.library = await open_service(self.settings, self._library_stack, clock=self.clock)

    async def stop_library(self) -> None:
        """Stop the library service."""
        await self._library_stack.aclose()

    async def library_sees_assets(self, serving: bool) -> None:
        """Wait until the library's health says so of the asset service."""
        board = self.library.health
        async with asyncio.timeout(10):
            while (seen := board.dependencies.get("asset_service")) is None or seen.serving is not serving:
                await board.changed()

    async def restart_library(self) -> None:
        """Start the library service anew on what it left."""
        await self.stop_library()
        await self.start_library()

    @asynccontextmanager
    async def as_(self, owner: Owner, *, library_target: str = "", kind: KeyKind = KeyKind.USER) -> AsyncIterator[Desk]:
        """Give what an owner can ask of the services."""
        async with AsyncExitStack() as stack:
            open_channels = []
            for target in (library_target or self.library.server.target, self.settings.library.asset_target):
                channel = channels.connect(target, tokens=self._tokens(owner, kind))
                stack.push_async_callback(channel.close)
                open_channels.append(channel)
            yield Desk(*open_channels)

    def caller(self, owner: Owner) -> Caller:
        """Return an owner as the services see one."""
        return Caller(owner, owner, KeyKind.USER, SCOPES[KeyKind.USER], "0" * 16, self.clock.now() + timedelta(hours=1))

    async def make_job(self, owner: Owner, pictures: list[tuple[bytes, ...]]) -> list[str]:
        """Have a job deliver pictures, each with its renditions behind it. Returns the ids of its assets."""
        job_id = new_id()
        lease = LeaseClaims(
            job_id, 0, 1, owner, len(pictures), 1 << 24, ("image",), (), self.clock.now() + timedelta(hours=1)
        )
        metadata = (("atelier-lease-token", self.rings.capabilities(self.clock).sign_lease(lease)),)
        request = control.SettleRequest(
            job_id=job_id, owner=media_pb2.Owner(tenant_id=owner.tenant_id, owner_id=owner.owner_id)
        )
        tokens = self._tokens(Owner("default", "router"), KeyKind.SERVICE)
        async with channels.connect(self.settings.library.asset_target, tokens=tokens) as channel:
            uploads = upload_service_pb2_grpc.UploadServiceStub(channel)
            for index, files in enumerate(pictures):
                receipt = await _upload(uploads, metadata, index, files)
                request.winners.add(asset_index=index, receipt=receipt, provenance=provenance(job_id, index))
            await asset_control_service_pb2_grpc.AssetControlServiceStub(channel).Settle(request)
        return [asset_id(job_id, index) for index in range(len(pictures))]

    async def keys_in(self, bucket: str) -> list[str]:
        """Return the keys of all blobs of a bucket."""
        return [info.key async for info in self.library.store.list(bucket)]

    async def is_held(self, asset_id: str) -> bool:
        """Tell whether anybody holds an asset."""
        async with self.asset.storage.read() as tx:
            return bool(await tx.holds.held_among([asset_id]))

    async def is_held_by_a_save(self, asset_id: str) -> bool:
        """Tell whether a save holds an asset; an item that waits for its renditions is none."""
        holds = importlib.import_module("asset_service.storage.tables").holds
        of_saves = holds.select().where(holds.c.asset_id == asset_id, holds.c.holder.startswith("save:"))
        async with self.asset.storage.read() as tx:
            return bool((await tx._connection.execute(of_saves)).all())

    def _tokens(self, owner: Owner, kind: KeyKind) -> TokenSource:
        async def exchange() -> IssuedToken:
            return self._signer.issue(owner=owner, kind=kind, key_id="0" * 16)

        return TokenSource(exchange, self.clock)

    async def _start_identity(self) -> None:
        db = Database(f"sqlite+aiosqlite:///{self.folder / 'identity.sqlite3'}", clock=self.clock)
        self._stack.push_async_callback(db.close)
        async with db.write() as tx:
            await tx.run_sync(router_metadata.create_all)
        identities = Identities(db, self._signer, self.clock)
        await identities.bootstrap(self.rings)
        servicer = IdentityServicer(identities, Limits(self.clock, JobLimits(), JobLimits()))
        server = GrpcServer(
            "router",
            listen="127.0.0.1:0",
            servicers=[(identity_service_pb2_grpc.add_IdentityServiceServicer_to_server, servicer)],
            verifier=self.rings.identity_verifier(self.clock),
            health=HealthBoard(),
            clock=self.clock,
        )
        await server.start()
        self._stack.push_async_callback(server.stop)
        self._set("library", "identity_target", server.target)

    def _set(self, section: str, key: str, value: Any) -> None:
        changed = replace(getattr(self.settings, section), **{key: value})
        self.settings = replace(self.settings, **{section: changed})


class Desk:
    """What one owner can ask of library and workspace."""

    def __init__(self, library: grpc.aio.Channel, asset: grpc.aio.Channel) -> None:
        self.library = library_service_pb2_grpc.LibraryServiceStub(library)
        self.workspace = asset_service_pb2_grpc.AssetServiceStub(asset)

    async def save(self, *asset_ids: str) -> list[pb.SaveResult]:
        """Save assets."""
        return list((await self.library.SaveToLibrary(pb.SaveToLibraryRequest(asset_ids=asset_ids))).results)

    async def items(self, **changes: Any) -> pb.ListItemsResponse:
        """Return a page of items."""
        response: pb.ListItemsResponse = await self.library.ListItems(pb.ListItemsRequest(**changes))
        return response

    async def saved_as(self, asset_id: str) -> str:
        """Return what the workspace says about an asset: the item that it is saved as, or nothing."""
        response = await self.workspace.GetAsset(asset_service_pb2.GetAssetRequest(asset_id=asset_id))
        saved_item_id: str = response.asset.saved_item_id
        return saved_item_id


async def next_of(watch: Any) -> pb.WatchItemsResponse:
    """Return the next event of a watcher."""
    async with asyncio.timeout(10):
        event: pb.WatchItemsResponse = await watch.read()
    return event


def provenance(job_id: str, index: int) -> generation_pb2.Provenance:
    """Return a provenance in which every field says something."""
    message = generation_pb2.Provenance(
        job_id=job_id,
        asset_index=index,
        prompt="a lighthouse 灯台",
        negative_prompt="fog",
        enhanced_prompt="a tall white lighthouse at dusk",
        seed=7 + index,
        engine="sketch",
    )
    message.settings.model = "sdxl-base"
    message.settings.seed = 7
    message.settings.size = "8x8"
    message.reference_images.add(asset_id=asset_id(job_id, 9), kind=generation_pb2.REFERENCE_KIND_STYLE, strength=0.5)
    message.submitted_at.FromJsonString("2026-01-01T00:00:00.000001Z")
    return message


def picture(color: str, *, format: str = "PNG", size: int = 8) -> bytes:
    """Return the bytes of a small picture of one color."""
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), color).save(buffer, format)
    return buffer.getvalue()


async def _upload(stub: Any, metadata: Any, index: int, files: tuple[bytes, ...]) -> str:
    kinds = (media_pb2.RENDITION_KIND_UNSPECIFIED, media_pb2.RENDITION_KIND_THUMB_256)
    upload_ids = []
    for kind, data in zip(kinds, files, strict=False):
        started = await stub.StartUpload(
            upload_service_pb2.StartUploadRequest(
                asset_index=index, rendition=kind, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest()
            ),
            metadata=metadata,
        )

        async def pieces(upload_id: str = started.upload_id, data: bytes = data) -> AsyncIterator[Any]:
            yield upload_service_pb2.WriteUploadRequest(upload_id=upload_id, offset=0, data=data)

        await stub.WriteUpload(pieces(), metadata=metadata)
        upload_ids.append(started.upload_id)
    finished = await stub.FinishUpload(
        upload_service_pb2.FinishUploadRequest(upload_id=upload_ids[0], rendition_upload_ids=upload_ids[1:]),
        metadata=metadata,
    )
    receipt: str = finished.receipt
    return receipt
