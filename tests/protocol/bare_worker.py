"""A worker without the runtime, on bare stubs: what `docs/worker-protocol.md` says, as short as it goes.

`python bare_worker.py 127.0.0.1:7401 worker.key` runs it until SIGTERM. It holds one lease at a time, and all its
pictures are the same dot. A worker in earnest also keeps its outcome on disk, goes on with an upload where it was cut
off, waits longer after each failure, and tells how the work goes.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

from atelier.asset.v1 import upload_service_pb2 as up
from atelier.asset.v1.upload_service_pb2_grpc import UploadServiceStub
from atelier.identity.v1.identity_service_pb2 import ExchangeKeyRequest
from atelier.identity.v1.identity_service_pb2_grpc import IdentityServiceStub
from atelier.router.v1.job_pb2 import STAGE_KIND_ENHANCE
from atelier.worker.v1 import worker_service_pb2 as pb
from atelier.worker.v1.worker_service_pb2_grpc import WorkerServiceStub

DOT = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGN40KAAAAPEAYGMXRrfAAAAAElFTkSuQmCC")


class BareWorker:
    """Sessions one after another; the lease and its outcome live on from each to the next."""

    def __init__(self, target: str, key: str, name: str = "bare") -> None:
        self.target, self.key, self.name, self.draining = target, key, name, False
        self.lease: pb.Lease | None = None  # from its arrival until its outcome is answered, or it is lost
        self.task: asyncio.Task[None] | None = None  # what works on it
        self.outcome: pb.Outcome | None = None
        self.outbox: asyncio.Queue[pb.WorkRequest | None] = asyncio.Queue()  # None closes our side of the session

    async def run(self) -> None:
        while self.lease or not self.draining:
            try:
                async with grpc.aio.insecure_channel(self.target) as channel:
                    await self.session(channel)
            except (grpc.aio.AioRpcError, TimeoutError) as error:  # the page says after which a worker should end
                sys.stderr.write(f"{error!r}\n")
            await asyncio.sleep(random.uniform(0.1, 1.0))

    async def session(self, channel: grpc.aio.Channel) -> None:
        signed_in = await IdentityServiceStub(channel).ExchangeKey(ExchangeKeyRequest(secret=self.key), timeout=10)
        outbox = self.outbox = asyncio.Queue()
        self.say(hello=pb.Hello(worker_id=self.name, worker_types=["chat", "sdxl", "wan"], slots=1, leases=self.held()))
        metadata = (("authorization", f"Bearer {signed_in.identity_token}"),)
        call: Any = WorkerServiceStub(channel).Work(self.requests(outbox), metadata=metadata)
        try:
            while (message := await asyncio.wait_for(call.read(), timeout=35)) is not grpc.aio.EOF:
                self.hear(message, message.WhichOneof("message"))
        finally:
            outbox.put_nowait(None)

    async def requests(self, outbox: asyncio.Queue[pb.WorkRequest | None]) -> AsyncIterator[pb.WorkRequest]:
        while (message := await outbox.get()) is not None:
            yield message

    def say(self, **message: Any) -> None:
        self.outbox.put_nowait(pb.WorkRequest(**message))

    def held(self) -> list[pb.LeaseRef]:
        return [self.lease.ref] if self.lease else []

    def beat(self, outbox: asyncio.Queue[pb.WorkRequest | None], interval_s: float) -> None:
        if outbox is self.outbox:  # it is still the same session
            self.say(heartbeat=pb.Heartbeat(leases=self.held()))
            self.go_on()
            asyncio.get_running_loop().call_later(interval_s, self.beat, outbox, interval_s)

    def go_on(self) -> None:
        """Say how many leases are wanted; at the end of a drain close our side."""
        self.say(credits=pb.Credits(free=0 if self.lease or self.draining else 1))
        if self.draining and not self.lease:
            self.outbox.put_nowait(None)

    def hear(self, message: pb.WorkResponse, kind: str) -> None:
        if kind == "welcome":
            self.upload_endpoint = message.welcome.upload_endpoint
            if self.outcome:
                self.say(outcome=self.outcome)
            self.beat(self.outbox, message.welcome.heartbeat_interval.ToTimedelta().total_seconds())
        elif kind == "lease" and (self.lease or self.draining):
            self.say(lease_reject=pb.LeaseReject(ref=message.lease.ref, reason="no slot is free"))
        elif kind == "lease":
            self.say(lease_ack=pb.LeaseAck(ref=message.lease.ref))
            self.lease, self.task = message.lease, asyncio.create_task(self.work(message.lease))
        elif kind == "outcome_ack" and message.outcome_ack.ref in self.held():
            self.lease = self.outcome = None
            self.go_on()
        elif kind == "reconnect":
            wait_s = message.reconnect.within.ToTimedelta().total_seconds() * random.random()
            asyncio.get_running_loop().call_later(wait_s, self.outbox.put_nowait, None)
        if self.lease and self.task and self.lease.ref in [message.cancel.ref, *message.heartbeat_ack.cancelled]:
            self.task.cancel()
        self.drop([message.lost.ref, *message.heartbeat_ack.lost, *message.welcome.lost])

    def drop(self, refs: list[pb.LeaseRef], *, hands_back: bool = False) -> None:
        """Stop what runs, if it is one of these. What has ended already stays until its outcome is answered."""
        if self.lease and self.lease.ref in refs and self.task and self.task.cancel():
            if hands_back:
                self.say(lease_reject=pb.LeaseReject(ref=self.lease.ref, reason="the worker goes down"))
            self.lease = None
            self.go_on()

    def drain(self, grace_s: float = 10.0) -> None:
        self.draining = True
        self.say(drain=pb.Drain())
        self.go_on()
        asyncio.get_running_loop().call_later(grace_s, lambda: self.drop(self.held(), hands_back=True))

    async def work(self, lease: pb.Lease) -> None:
        try:
            result = await self.make(lease)
        except asyncio.CancelledError:
            result = {"cancelled": pb.Stopped()}
        except Exception as error:  # noqa: BLE001 - whatever it is, the stage has failed
            result = {"failure": pb.StageFailure(retryable=True)}
            result["failure"].failure.message = f"The stage failed with {type(error).__name__}."
        if self.lease is lease:  # it was neither lost nor handed back
            self.outcome = pb.Outcome(ref=lease.ref, completion_id=str(uuid.uuid4()), engine="bare", **result)
            self.say(outcome=self.outcome)

    async def make(self, lease: pb.Lease) -> dict[str, Any]:
        if lease.spec.kind == STAGE_KIND_ENHANCE:
            return {"text": f"{lease.spec.prompt}, in soft morning light"}
        outputs, sha256 = pb.OutputManifest(), hashlib.sha256(DOT).hexdigest()
        given: Any = {"metadata": (("atelier-lease-token", lease.token),), "timeout": 30}
        async with grpc.aio.insecure_channel(self.upload_endpoint) as channel:
            stub = UploadServiceStub(channel)
            for index in range(lease.spec.settings.quantity):
                start = up.StartUploadRequest(asset_index=index, size_bytes=len(DOT), sha256=sha256)
                upload_id = (await stub.StartUpload(start, **given)).upload_id
                await stub.WriteUpload(iter([up.WriteUploadRequest(upload_id=upload_id, data=DOT)]), **given)
                finished = await stub.FinishUpload(up.FinishUploadRequest(upload_id=upload_id), **given)
                outputs.outputs.add(asset_index=index, receipt=finished.receipt)
        return {"outputs": outputs}


async def main(target: str, key: str) -> None:
    worker = BareWorker(target, key)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.drain)
    await worker.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]).read_text().strip()))
