"""What a flood costs a router: a real process, its memory before and after, and a worker that behaves meanwhile."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from atelier.identity.v1.identity_service_pb2 import ExchangeKeyRequest
from atelier.identity.v1.identity_service_pb2_grpc import IdentityServiceStub
from atelier.worker.v1 import worker_service_pb2 as pb
from service_kit.channels import connect, wait_ready
from tests.protocol.test_bad_workers import FLOODS
from tests.support.processes import READY, Processes

# As many as a worker may try; the router hears some ten thousand small ones, or a hundred megabytes of large ones.
MESSAGES = 100_000
# What the buffers of ten sessions, of gRPC below them, and a heap that was never so full may take.
MOST_GROWTH_MIB = 64
# Between a good worker's heartbeats and their answers, on a machine that the flooders keep busy as well.
MEDIAN_S = 1.0


async def test_a_flood_costs_little_memory_and_a_good_worker_little_time(tmp_path: Path) -> None:
    processes = Processes(tmp_path, ROUTER_LEASE_TTL="30s", ROUTER_HEARTBEAT_INTERVAL="10s")
    router = await processes.start("router_service")
    try:
        channel = connect(processes.router_target)
        await wait_ready(channel, READY)
        await channel.close()
        key = (tmp_path / "data" / "keys" / "worker.key").read_text("utf-8").strip()
        async with session(processes.router_target, key, "good") as good:
            took = [await beat(good) for _ in range(5)]
            before_mib = resident_mib(router.pid)
            flooding = asyncio.gather(*(flood(processes.router_target, key, kind) for kind in FLOODS))
            took.clear()
            while not flooding.done():
                took.append(await beat(good))
                await asyncio.sleep(0.05)
            sent = dict(zip(FLOODS, flooding.result(), strict=True))
            grown_mib = resident_mib(router.pid) - before_mib
    finally:
        await processes.stop_all()
    assert grown_mib < MOST_GROWTH_MIB, f"the router has grown by {grown_mib:.0f} MiB; it heard {sent}"
    assert statistics.median(took) < MEDIAN_S, f"heartbeats took {sorted(took)} s"
    assert max(sent.values()) < MESSAGES, f"nobody stopped a flood: {sent}"


async def flood(target: str, key: str, kind: str) -> int:
    """Say one thing over and over without reading, until the router has had enough. Returns how often it was said."""
    message = FLOODS[kind][0].SerializeToString()
    async with session(target, key, kind) as call:
        for count in range(MESSAGES):
            try:
                await asyncio.wait_for(call.write(message), 10)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError, TimeoutError):
                return count
    return MESSAGES


async def beat(call: Any) -> float:
    """Send a heartbeat. Returns the seconds until it was answered."""
    began = time.perf_counter()
    async with asyncio.timeout(20):
        await call.write(pb.WorkRequest(heartbeat=pb.Heartbeat()).SerializeToString())
        answer = pb.WorkResponse.FromString(await call.read())
    assert answer.HasField("heartbeat_ack")
    return time.perf_counter() - began


@asynccontextmanager
async def session(target: str, key: str, name: str) -> AsyncIterator[Any]:
    """Begin a session that speaks bytes, so that the flooder is faster than the router."""
    # An own connection each: what is on the way of one must not hold up another.
    async with grpc.aio.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        exchange = IdentityServiceStub(channel).ExchangeKey
        token = (await exchange(ExchangeKeyRequest(secret=key), timeout=20)).identity_token
        work: Any = channel.stream_stream("/atelier.worker.v1.WorkerService/Work")
        call = work(metadata=(("authorization", f"Bearer {token}"),))
        hello = pb.Hello(worker_id=name, worker_types=["sdxl"], slots=1)
        async with asyncio.timeout(20):
            await call.write(pb.WorkRequest(hello=hello).SerializeToString())
            assert pb.WorkResponse.FromString(await call.read()).HasField("welcome")
        yield call
        call.cancel()


def resident_mib(pid: int) -> float:
    """Return how much memory a process holds."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024
