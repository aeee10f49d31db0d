"""A router over real gRPC beside a real asset service, and a worker that does exactly what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

import asset_service.__main__
import router_service.__main__
from atelier.asset.v1 import asset_service_pb2, asset_service_pb2_grpc, upload_service_pb2, upload_service_pb2_grpc
from atelier.identity.v1 import identity_service_pb2, identity_service_pb2_grpc
from atelier.router.v1 import job_pb2, router_service_pb2_grpc
from atelier.router.v1 import router_service_pb2 as pb
from atelier.worker.v1 import worker_service_pb2 as worker
from atelier.worker.v1 import worker_service_pb2_grpc
from router_service.__main__ import Service
from service_kit import settings as kit_settings
from service_kit.call_endings import Ending
from service_kit.channels import connect, key_tokens
from service_kit.clock import ManualClock
from tests.support.limits import SERVICE_LIMIT_S, closing_in_time
from tests.support.sqlite import put_migrated
from tests.support.tiny_engine import png

WAIT_S = 30.0


@dataclass
class Router:
    """A running router: its parts, stubs of an owner `admin`, and the means to sign in as others."""

    service: Service
    clock: ManualClock
    target: str
    jobs: router_service_pb2_grpc.RouterServiceAsyncStub
    assets: asset_service_pb2_grpc.AssetServiceAsyncStub
    uploads: upload_service_pb2_grpc.UploadServiceAsyncStub
    uploads_of_admin: upload_service_pb2_grpc.UploadServiceAsyncStub
    identities: identity_service_pb2_grpc.IdentityServiceAsyncStub
    stack: AsyncExitStack

    async def submit(self, **fields: Any) -> pb.GenerateContentResponse:
        """Submit a picture, with these fields in place of the usual ones."""
        request = {"prompt": "a lighthouse", "model": "sdxl", "format": "FORMAT_IMAGE", **fields}
        return await self.jobs.GenerateContent(pb.GenerateContentRequest(**request))

    async def job(self, job_id: str) -> job_pb2.Job:
        """Return a job."""
        return (await self.jobs.GetJob(pb.GetJobRequest(job_id=job_id))).job

    async def ended(self, job_id: str) -> job_pb2.Job:
        """Return a job when it has ended."""
        last = job_pb2.Job()
        async with asyncio.timeout(WAIT_S):
            async for event in self.jobs.WatchJob(pb.WatchJobRequest(job_id=job_id)):
                if event.WhichOneof("event") in {"snapshot", "state"}:
                    last = event.snapshot if event.HasField("snapshot") else event.state
        return last

    async def asset_ids(self, job_id: str) -> list[str]:
        """Return the ids of the assets that the owner sees of a job."""
        reply = await self.assets.ListAssets(asset_service_pb2.ListAssetsRequest(job_id=job_id))
        return [asset.asset_id for asset in reply.assets]

    async def stop_settling(self) -> None:
        """Let nothing leave the outbox any more."""
        await self.service.tasks.stop_one("router.settlement")

    async def stubs_of(self, owner_id: str) -> router_service_pb2_grpc.RouterServiceAsyncStub:
        """Sign in as another owner."""
        made = await self.identities.CreateKey(identity_service_pb2.CreateKeyRequest(owner_id=owner_id))
        return router_service_pb2_grpc.RouterServiceStub(await self.channel_with(made.secret, self.target))

    async def channel_with(self, key: str, target: str) -> grpc.aio.Channel:
        """Open a channel that signs in with a key."""
        raw, secret = connect(self.target), kit_settings.Secret(key)
        channel = connect(target, tokens=key_tokens(raw, secret, self.clock))
        self.stack.push_async_callback(raw.close)
        self.stack.push_async_callback(channel.close)
        return channel

    async def key_of(self, owner_id: str, **limits: int) -> tuple[router_service_pb2_grpc.RouterServiceAsyncStub, str]:
        """Make a key of an owner, with limits. Returns a stub that signs in with it, and its id."""
        request = identity_service_pb2.CreateKeyRequest(owner_id=owner_id)
        for name, limit in limits.items():
            setattr(request, name, limit)
        made = await self.identities.CreateKey(request)
        channel = await self.channel_with(made.secret, self.target)
        return router_service_pb2_grpc.RouterServiceStub(channel), made.key.key_id

    async def worker(self, name: str = "one", **hello: Any) -> ScriptedWorker:
        """Connect a worker; it says hello and takes the welcome."""
        key = self.service.rings.read_key_file("worker.key").reveal()
        channel = await self.channel_with(key, self.target)
        scripted = ScriptedWorker(channel, self)
        await self.stack.enter_async_context(scripted)
        await scripted.hello(name, **hello)
        return scripted


class ScriptedWorker:
    """One session of a worker, message by message."""

    def __init__(self, channel: grpc.aio.Channel, router: Router) -> None:
        self.call = worker_service_pb2_grpc.WorkerServiceStub(channel).Work()
        self._ending: Ending | None = None
        begin = self.call._begin  # type: ignore[attr-defined]

        async def begun() -> Any:
            made = await begin()
            self._ending = Ending(made)
            return made

        self.call._begin = begun  # type: ignore[attr-defined]
        self._router = router
        self.welcome = worker.Welcome()
        self._delivered = worker.OutputManifest()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.call.cancel()

    async def hello(
        self, name: str, *, free: int = 4, leases: list[worker.LeaseRef] | None = None, **fields: Any
    ) -> None:
        """Introduce the worker and say how many stages it takes."""
        hello = {"worker_types": ["chat", "sdxl", "wan"], "slots": 4, "instance_id": "i", **fields}
        await self.say(hello=worker.Hello(worker_id=name, leases=leases or [], **hello))
        self.welcome = (await self.hear("welcome")).welcome
        if free:
            await self.say(credits=worker.Credits(free=free))

    async def say(self, **message: Any) -> None:
        """Send one message. After the end of a session that nobody has read to its end it would wait for ever.

        Who is refused meanwhile is told why, not what gRPC says of the message.
        """
        try:
            async with asyncio.timeout(WAIT_S):
                await self.call.write(worker.WorkRequest(**message))
        except grpc.aio.AioRpcError as error:
            raise (self._ending.of(error) if self._ending is not None else error) from None

    async def hear(self, kind: str) -> worker.WorkResponse:
        """Return the next message, which must be of this kind."""
        async with asyncio.timeout(WAIT_S):
            message: Any = await self.call.read()
        assert message is not grpc.aio.EOF, "the session is over"
        assert message.WhichOneof("message") == kind, message
        response: worker.WorkResponse = message
        return response

    async def end(self) -> grpc.StatusCode:
        """Return how the router ended the session."""
        nothing = grpc.aio.Metadata()
        async with asyncio.timeout(WAIT_S):
            last = grpc.aio.AioRpcError(await self.call.code(), nothing, nothing, await self.call.details())
        said = self._ending.of(last) if self._ending is not None else last
        assert isinstance(said, grpc.aio.AioRpcError)
        return said.code()

    async def disconnect(self) -> None:
        """Break the session off, as a lost connection does, and wait until the router knows."""
        epoch = self.welcome.session_epoch
        self.call.cancel()
        async with asyncio.timeout(WAIT_S):
            while self._router.service.sessions.get(epoch) is not None:  # noqa: ASYNC110 - the router tells nobody
                await asyncio.sleep(0)

    async def take(self) -> worker.Lease:
        """Wait for a lease and acknowledge it."""
        lease = (await self.hear("lease")).lease
        await self.say(lease_ack=worker.LeaseAck(ref=lease.ref))
        return lease

    async def upload(self, lease: worker.Lease, asset_index: int, seed: int = 1) -> str:
        """Upload a picture under a lease. Returns the receipt."""
        data = png(seed)
        given: Any = {"metadata": (("atelier-lease-token", lease.token),), "timeout": WAIT_S}
        uploads = self._router.uploads
        start = upload_service_pb2.StartUploadRequest(
            asset_index=asset_index, size_bytes=len(data), sha256=sha256(data).hexdigest()
        )
        upload_id = (await uploads.StartUpload(start, **given)).upload_id
        piece = upload_service_pb2.WriteUploadRequest(upload_id=upload_id, offset=0, data=data)
        await uploads.WriteUpload(iter([piece]), **given)
        finish = upload_service_pb2.FinishUploadRequest(upload_id=upload_id)
        return (await uploads.FinishUpload(finish, **given)).receipt

    async def finish(self, lease: worker.Lease, *, completion_id: str = "c1", **result: Any) -> str:
        """Send an outcome. Returns what became of it, in lower case."""
        outcome = worker.Outcome(ref=lease.ref, completion_id=completion_id, engine="scripted", **result)
        await self.say(outcome=outcome)
        ack = (await self.hear("outcome_ack")).outcome_ack
        assert ack.completion_id == completion_id
        return worker.OutcomeStatus.Name(ack.status).removeprefix("OUTCOME_STATUS_").lower()

    async def deliver(self, lease: worker.Lease, *, completion_id: str = "c1") -> str:
        """Upload every output of a lease and send the outcome."""
        quantity = lease.spec.settings.quantity
        receipts = [await self.upload(lease, index, index) for index in range(quantity)]
        results = [worker.OutputResult(asset_index=index, receipt=receipt) for index, receipt in enumerate(receipts)]
        manifest = worker.OutputManifest(outputs=results)
        self._delivered = manifest
        return await self.finish(lease, completion_id=completion_id, outputs=manifest)

    async def deliver_again(self, lease: worker.Lease, *, completion_id: str = "c1") -> str:
        """Send the outcome of `deliver` once more."""
        return await self.finish(lease, completion_id=completion_id, outputs=self._delivered)

    async def heartbeat(self, *leases: worker.Lease) -> worker.HeartbeatAck:
        """Renew leases. The answer proves that everything that was said before is applied."""
        await self.say(heartbeat=worker.Heartbeat(leases=[lease.ref for lease in leases]))
        return (await self.hear("heartbeat_ack")).heartbeat_ack


@asynccontextmanager
async def running_router(folder: Path, **flags: str) -> AsyncIterator[Router]:
    """Run an asset service and a router by one clock, which stands still until the test advances it."""
    async with running_replicas(folder, 1, **flags) as (router,):
        yield router


@asynccontextmanager
async def running_replicas(folder: Path, count: int, **flags: str) -> AsyncIterator[list[Router]]:
    """Run an asset service and several routers that share its folder; more than one needs PostgreSQL."""
    clock = ManualClock(datetime.now(UTC))
    async with closing_in_time() as stack:
        async with asyncio.timeout(SERVICE_LIMIT_S):
            settings = kit_settings.for_tests(folder, **{"asset.fill_renditions": False, **flags})
            await put_migrated(settings, "asset", "router")
            assets = (await asset_service.__main__.open_service(settings, stack, clock=clock)).server.target
            routers = [await _open_router(folder, stack, assets, clock, **flags) for _ in range(count)]
        yield routers


async def _open_router(folder: Path, stack: AsyncExitStack, assets: str, clock: ManualClock, **flags: str) -> Router:
    settings = kit_settings.for_tests(folder, **{"router.asset_target": assets, **flags})
    service = await router_service.__main__.open_service(settings, stack, clock=clock)
    raw = connect(service.server.target)
    stack.push_async_callback(raw.close)
    tokens = key_tokens(raw, service.rings.read_key_file("admin.key"), clock)
    mine = connect(service.server.target, tokens=tokens)
    theirs = connect(assets, tokens=tokens)
    # Workers have only their lease tokens there.
    bare = connect(assets)
    stack.push_async_callback(bare.close)
    stack.push_async_callback(mine.close)
    stack.push_async_callback(theirs.close)
    return Router(
        service=service,
        clock=clock,
        target=service.server.target,
        jobs=router_service_pb2_grpc.RouterServiceStub(mine),
        assets=asset_service_pb2_grpc.AssetServiceStub(theirs),
        uploads=upload_service_pb2_grpc.UploadServiceStub(bare),
        uploads_of_admin=upload_service_pb2_grpc.UploadServiceStub(theirs),
        identities=identity_service_pb2_grpc.IdentityServiceStub(mine),
        stack=stack,
    )
