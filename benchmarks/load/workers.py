"""Workers with an engine that does nothing, on bare stubs of the worker protocol, in one process.

For each lease a worker acknowledges, uploads one tiny picture under the lease token, and reports one outcome with its
receipt.
"""

from __future__ import annotations

import asyncio
import struct
import tempfile
import time
import uuid
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from atelier.identity.v1 import identity_service_pb2 as identity_pb
from atelier.identity.v1 import identity_service_pb2_grpc
from atelier.router.v1 import job_pb2
from atelier.type.v1 import media_pb2
from atelier.worker.v1 import worker_service_pb2 as pb
from atelier.worker.v1 import worker_service_pb2_grpc
from atelier_worker.whole_outputs import WholeOutputs
from benchmarks.child import cpu_seconds, serve

_OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
_HEARTBEAT_S = 5.0
_BUSY = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
_PAUSE_S = 0.1
_MOST_TOGETHER = 64
_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of its own is made in it


@dataclass(slots=True)
class Seen:
    """What the workers of this process saw: nanoseconds from submission to lease, and what went wrong."""

    waits_ns: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    # Uploads that were asked for again.
    repeats: int = 0


class Worker:
    """One session with its slots."""

    def __init__(self, name: str, slots: int, router_target: str, token: str, seen: Seen, folder: Path) -> None:
        self._name = name
        self._slots = slots
        self._seen = seen
        self._folder = folder
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._channel = grpc.aio.insecure_channel(router_target, options=_OWN_CONNECTION)
        self._held: dict[str, pb.LeaseRef] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._outgoing: list[pb.WorkRequest] = []
        self._wake = asyncio.Event()
        self._outputs: WholeOutputs | None = None

    async def run(self, welcomed: asyncio.Event) -> None:
        """Hold the session until the router ends it."""
        stub = worker_service_pb2_grpc.WorkerServiceStub(self._channel)
        hello = pb.Hello(
            worker_id=self._name,
            instance_id=str(uuid.uuid4()),
            worker_types=["chat", "sdxl"],
            slots=self._slots,
            version="bench",
            takes_batches=True,
        )
        self._say(pb.WorkRequest(hello=hello))
        call = stub.Work(self._requests(), metadata=self._metadata)
        async for response in call:
            kind = response.WhichOneof("message")
            if kind == "lease":
                self._take(response.lease)
            elif kind == "batch":
                for one in response.batch.responses:
                    if one.HasField("lease"):
                        self._take(one.lease)
            elif kind == "welcome":
                channel = grpc.aio.insecure_channel(response.welcome.upload_endpoint, options=_OWN_CONNECTION)
                self._outputs = WholeOutputs(channel)
                self._say(pb.WorkRequest(credits=pb.Credits(free=self._slots)))
                self._tasks.add(asyncio.create_task(self._beat()))
                welcomed.set()

    def _take(self, lease: pb.Lease) -> None:
        submitted_ns = int(lease.spec.prompt.rpartition("#")[2])
        self._seen.waits_ns.append(time.monotonic_ns() - submitted_ns)
        self._held[lease.ref.job_id] = lease.ref
        self._say(pb.WorkRequest(lease_ack=pb.LeaseAck(ref=lease.ref)))
        task = asyncio.create_task(self._deliver(lease))
        self._tasks.add(task)
        task.add_done_callback(self._delivered)

    async def _deliver(self, lease: pb.Lease) -> None:
        outcome = pb.Outcome(ref=lease.ref, completion_id=str(uuid.uuid4()), engine="none")
        if lease.spec.kind == job_pb2.STAGE_KIND_ENHANCE:
            outcome.text = "a lighthouse"
        else:
            outcome.outputs.outputs.add(asset_index=0, receipt=await self._upload(lease))
        self._held.pop(lease.ref.job_id, None)
        self._say(pb.WorkRequest(outcome=outcome))
        # Absolute: one message speaks for all slots that were freed since the last was sent.
        self._say(pb.WorkRequest(credits=pb.Credits(free=self._slots - len(self._held))))

    def _delivered(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._seen.faults.append(f"{type(fault).__name__}: {fault}")

    async def _upload(self, lease: pb.Lease) -> str:
        """Bring in the picture and return its receipt. A service that has too much under way is asked again."""
        while True:
            try:
                return await self._upload_once(lease)
            except grpc.aio.AioRpcError as error:
                if error.code() not in _BUSY:
                    raise
                self._seen.repeats += 1
                await asyncio.sleep(_PAUSE_S)

    async def _upload_once(self, lease: pb.Lease) -> str:
        if self._outputs is None:
            raise RuntimeError("a lease came before the welcome")
        path = self._folder / f"{lease.ref.job_id}.png"
        path.write_bytes(picture(lease.ref.job_id))
        try:
            # As our own worker does: what is ready at the same time goes together.
            files = {media_pb2.RENDITION_KIND_UNSPECIFIED: path}
            receipt = await self._outputs.send(lease.token, 0, files)
        finally:
            path.unlink()
        if receipt is None:
            raise RuntimeError("a picture of some hundred bytes was too large for a message")
        return receipt

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_HEARTBEAT_S)
            self._say(pb.WorkRequest(heartbeat=pb.Heartbeat(leases=list(self._held.values()))))

    def _say(self, request: pb.WorkRequest) -> None:
        last = self._outgoing[-1] if self._outgoing else None
        if last is not None and last.HasField("credits") and request.HasField("outcome"):
            # Said again after this outcome.
            self._outgoing.pop()
        self._outgoing.append(request)
        self._wake.set()

    async def _requests(self) -> AsyncIterator[pb.WorkRequest]:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._outgoing:
                # As our own worker does: what has come together goes together.
                together, self._outgoing = self._outgoing[:_MOST_TOGETHER], self._outgoing[_MOST_TOGETHER:]
                one = len(together) == 1
                yield together[0] if one else pb.WorkRequest(batch=pb.RequestBatch(requests=together))


class Workers:
    """All sessions, and what they saw."""

    def __init__(self) -> None:
        self._seen = Seen()
        # In memory, where a system has that: the disk is the service's.
        self._folder = tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None)
        self._cpu_s = cpu_seconds()
        self._sessions: list[asyncio.Task[None]] = []

    async def connect(self, target: str, key: str, first: int, sessions: int, slots: int) -> None:
        """Open the sessions; returns when the router has welcomed all of them."""
        async with grpc.aio.insecure_channel(target) as channel:
            stub = identity_service_pb2_grpc.IdentityServiceStub(channel)
            token = (await stub.ExchangeKey(identity_pb.ExchangeKeyRequest(secret=key))).identity_token
        for number in range(first, first + sessions):
            welcomed = asyncio.Event()
            worker = Worker(f"bench-{number}", slots, target, token, self._seen, Path(self._folder.name))
            session = asyncio.create_task(worker.run(welcomed))
            waiting = asyncio.create_task(welcomed.wait())
            await asyncio.wait({session, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if session.done():
                session.result()
                raise RuntimeError("the router ended the session at once")
            self._sessions.append(session)

    def take(self) -> dict[str, Any]:
        """Return what happened since the last call: waits from submission to lease, and processor seconds."""
        self.check()
        waits_ns, self._seen.waits_ns = self._seen.waits_ns, []
        repeats, self._seen.repeats = self._seen.repeats, 0
        now_s = cpu_seconds()
        used_s, self._cpu_s = now_s - self._cpu_s, now_s
        return {"waits_ns": waits_ns, "cpu_s": used_s, "repeats": repeats}

    def check(self) -> None:
        """Raise when a session or a job broke."""
        for session in self._sessions:
            if session.done():
                session.result()
                raise RuntimeError("the router ended a session")
        if self._seen.faults:
            raise RuntimeError(self._seen.faults[0])


def picture(text: str) -> bytes:
    """Return a PNG of 8 by 8 pixels that carries a text, so that no two are the same bytes."""
    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\x00" + bytes(range(8))) * 8)
    parts = ((b"IHDR", header), (b"tEXt", b"job\x00" + text.encode("ascii")), (b"IDAT", rows), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in parts)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


async def main() -> None:
    """Do what the parent says, until it closes our input."""
    workers = Workers()
    await serve({"connect": workers.connect, "take": workers.take, "check": workers.check})


if __name__ == "__main__":
    asyncio.run(main())
