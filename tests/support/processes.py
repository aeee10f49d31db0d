"""Real processes of the system, each of which a test can kill, and a client that speaks gRPC to them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import grpc

from atelier.asset.v1 import asset_pb2, asset_service_pb2, asset_service_pb2_grpc
from atelier.identity.v1 import identity_service_pb2_grpc
from atelier.router.v1 import job_pb2, router_service_pb2_grpc
from atelier.router.v1 import router_service_pb2 as pb
from atelier.type.v1 import generation_pb2
from faults.ports import free_port
from service_kit.channels import connect, key_tokens, wait_ready
from service_kit.keyring import Keyrings

ROOT = Path(__file__).resolve().parents[2]
FINAL = {job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED}
READY = timedelta(seconds=20)
ENDS_WITHIN_S = 45.0


class Processes:
    """The processes of one system below one folder; killed at the latest when the test ends."""

    def __init__(self, folder: Path, **settings: str) -> None:
        """Choose ports. Settings are environment names without the prefix, such as ROUTER_LEASE_TTL="2s"."""
        self.folder = folder
        self.router_target = f"127.0.0.1:{free_port()}"
        self.asset_target = f"127.0.0.1:{free_port()}"
        self._environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "ATELIER_DATA_DIR": str(folder / "data"),
            "ATELIER_ROUTER_LISTEN": self.router_target,
            "ATELIER_ASSET_LISTEN": self.asset_target,
            "ATELIER_ROUTER_ASSET_TARGET": self.asset_target,
            "ATELIER_GATEWAY_ROUTER_TARGET": self.router_target,
            "ATELIER_GATEWAY_ASSET_TARGET": self.asset_target,
            "ATELIER_WORKER_CONNECT": self.router_target,
            "ATELIER_WORKER_NAME": "one",
            "ATELIER_WORKER_ENGINE": "tests.support.tiny_engine:TinyEngine",
            "ATELIER_WORKER_WORKER_TYPES": "chat,sdxl,wan",
            # Short, so that what a death leaves behind is taken up again while the test waits.
            "ATELIER_ROUTER_LEASE_TTL": "1500ms",
            "ATELIER_ROUTER_HEARTBEAT_INTERVAL": "300ms",
            "ATELIER_ROUTER_LEASE_ACK_TIMEOUT": "1s",
            "ATELIER_ROUTER_RETRY_BACKOFF": "50ms",
            # On a busy machine leases so short are lost for nothing; whoever died in vain is not what a test looks for.
            "ATELIER_ROUTER_MAX_ATTEMPTS": "30",
            "ATELIER_ROUTER_MAX_LEASES": "100",
        } | {f"ATELIER_{name}": value for name, value in settings.items()}
        self._running: dict[str, asyncio.subprocess.Process] = {}

    async def start(self, part: str, *, crash_point: str = "") -> asyncio.subprocess.Process:
        """Start `router_service`, `asset_service` or `atelier_worker`; its output goes to a file of its name.

        It ends when the tests' process does, however that dies.
        """
        environment = self._environment | ({"ATELIER_CRASH_POINT": crash_point} if crash_point else {})
        with (self.folder / f"{part}.log").open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "atelier_cli.attached", part),
                env=environment,
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._running[part] = process
        return process

    def runs(self, part: str) -> bool:
        """Tell whether a process was started and has not ended."""
        process = self._running.get(part)
        return process is not None and process.returncode is None

    async def kill(self, part: str) -> None:
        """Kill a process with SIGKILL. What it started must notice by itself."""
        process = self._running.pop(part)
        if process.returncode is None:
            process.kill()
        async with asyncio.timeout(ENDS_WITHIN_S):
            await process.wait()

    async def died(self, part: str) -> int:
        """Wait until a process is dead; return its exit code, negative for a signal."""
        async with asyncio.timeout(ENDS_WITHIN_S):
            return await self._running.pop(part).wait()

    async def stop_all(self) -> None:
        """Kill every process and what it has started."""
        for process in self._running.values():
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
            async with asyncio.timeout(ENDS_WITHIN_S):
                await process.wait()
        self._running.clear()

    def log(self, part: str) -> str:
        """Return what a part has written."""
        return (self.folder / f"{part}.log").read_text("utf-8", errors="replace")


class Client:
    """An owner's view of the system, over gRPC, through whatever dies."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._channels: list[grpc.aio.Channel] = []

    async def connect(self) -> None:
        """Wait for the router and sign in with the admin key."""
        open_channel = connect(self._processes.router_target)
        self._channels.append(open_channel)
        await wait_ready(open_channel, READY)
        keys = Keyrings(self._processes.folder / "data" / "keys")
        tokens = key_tokens(open_channel, lambda: keys.read_key_file("admin.key"))
        router = connect(self._processes.router_target, tokens=tokens)
        assets = connect(self._processes.asset_target, tokens=tokens)
        self._channels += [router, assets]
        await wait_ready(assets, READY)
        self.jobs = router_service_pb2_grpc.RouterServiceStub(router)
        self.keys = identity_service_pb2_grpc.IdentityServiceStub(router)
        self.assets = asset_service_pb2_grpc.AssetServiceStub(assets)

    async def close(self) -> None:
        """Close the channels."""
        for channel in self._channels:
            await channel.close()

    async def submit(self, quantity: int = 6, *, key: str = "the-batch") -> str:
        """Submit a batch of pictures under a key, again until the router answers. Returns the job's id."""
        request = pb.GenerateContentRequest(
            prompt="a lighthouse", model="sdxl", format=generation_pb2.FORMAT_IMAGE, quantity=quantity, seed=1
        )
        request.idempotency_key = key
        async with asyncio.timeout(ENDS_WITHIN_S):
            while True:
                try:
                    return (await self.jobs.GenerateContent(request)).job_id
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
                    await asyncio.sleep(0.05)

    async def watch(self, job_id: str) -> AsyncIterator[pb.WatchJobResponse]:
        """Follow a job to its end, through restarts of the router, resuming at the last cursor."""
        cursor = ""
        async with asyncio.timeout(ENDS_WITHIN_S):
            while True:
                try:
                    async for event in self.jobs.WatchJob(pb.WatchJobRequest(job_id=job_id, after=cursor)):
                        cursor = event.cursor or cursor
                        yield event
                        job = event.snapshot if event.HasField("snapshot") else event.state
                        if job.state in FINAL:
                            return
                except grpc.aio.AioRpcError as error:
                    if error.code() not in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}:
                        raise
                await asyncio.sleep(0.05)

    async def ended(self, job_id: str) -> tuple[job_pb2.Job, list[int]]:
        """Follow a job to its end. Returns it, and the versions that were seen, in the order in which they came."""
        versions = []
        last = job_pb2.Job()
        async for event in self.watch(job_id):
            if event.HasField("snapshot") or event.HasField("state"):
                last = event.snapshot if event.HasField("snapshot") else event.state
                versions.append(last.version)
        return last, versions

    async def workspace(self, job_id: str = "") -> list[asset_pb2.Asset]:
        """Return the assets that the owner sees."""
        reply = await self.assets.ListAssets(asset_service_pb2.ListAssetsRequest(job_id=job_id))
        return list(reply.assets)


@asynccontextmanager
async def running(folder: Path, **settings: str) -> AsyncIterator[tuple[Processes, Client]]:
    """Give a router and an asset service, and a client of both. The test starts the worker."""
    processes = Processes(folder, **settings)
    client = Client(processes)
    try:
        await processes.start("asset_service")
        await processes.start("router_service")
        await client.connect()
        yield processes, client
    finally:
        await client.close()
        await processes.stop_all()
