"""A worker without the runtime, on bare stubs: what `docs/worker-protocol.md` says, as short as it goes.

`python bare_worker.py 127.0.0.1:7401 worker.key` runs it until SIGTERM. All its pictures are the same dot. A worker in
earnest keeps its outcomes on disk, uploads in pieces and goes on where it was cut off, and checks what it reads.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import signal
import sys
import uuid
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
    """A worker with one slot: sessions one after another, each with the leases and outcomes of the last."""

    def __init__(self, target: str, key: str, name: str = "bare") -> None:
        self.target, self.key, self.name, self.draining = target, key, name, False
        self.tasks: dict[bytes, asyncio.Task[None]] = {}  # by the bytes of the lease's ref
        self.outcomes: dict[str, pb.Outcome] = {}  # by completion_id, until they are answered
        self.outbox: asyncio.Queue[pb.WorkRequest | None] = asyncio.Queue()
        self.upload_endpoint = ""

    async def run(self) -> None:
        pause = 0.1
        while not (self.draining and not self.tasks and not self.outcomes):
            try:
                async with grpc.aio.insecure_channel(self.target) as channel:
                    await self.session(channel)
                pause = 0.1
            except grpc.aio.AioRpcError as error:  # RESOURCE_EXHAUSTED carries a RetryInfo to be kept to
                sys.stderr.write(f"{error.code().name}: {error.details()}\n")
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, 5.0)

    async def session(self, channel: grpc.aio.Channel) -> None:
        exchanged = await IdentityServiceStub(channel).ExchangeKey(ExchangeKeyRequest(secret=self.key))
        call = WorkerServiceStub(channel).Work(metadata=(("authorization", f"Bearer {exchanged.identity_token}"),))
        self.outbox = asyncio.Queue()
        self.say(hello=pb.Hello(worker_id=self.name, worker_types=["chat", "sdxl", "wan"], slots=1, leases=self.held()))
        parts = [asyncio.create_task(self.write(call))]
        try:
            while isinstance(message := await call.read(), pb.WorkResponse):
                if message.HasField("welcome"):
                    parts.append(asyncio.create_task(self.beat(message.welcome.heartbeat_interval.ToTimedelta())))
                self.hear(message)
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)

    async def write(self, call: Any) -> None:
        while (message := await self.outbox.get()) is not None:
            await call.write(message)
        await call.done_writing()  # the router applies what it has heard, then ends the stream

    async def beat(self, interval: Any) -> None:
        while True:
            await asyncio.sleep(interval.total_seconds())
            self.say(heartbeat=pb.Heartbeat(leases=self.held()))
            self.go_on()

    def say(self, **message: Any) -> None:
        self.outbox.put_nowait(pb.WorkRequest(**message))

    def held(self) -> list[pb.LeaseRef]:
        running = [pb.LeaseRef.FromString(ref) for ref in self.tasks]
        return running + [outcome.ref for outcome in self.outcomes.values()]

    def hear(self, message: pb.WorkResponse) -> None:
        if message.HasField("welcome"):
            self.upload_endpoint = message.welcome.upload_endpoint
            for outcome in self.outcomes.values():
                self.say(outcome=outcome)
        elif message.HasField("lease"):
            ref = message.lease.ref
            if self.tasks or self.draining:
                self.say(lease_reject=pb.LeaseReject(ref=ref, reason="no slot is free"))
            else:
                self.say(lease_ack=pb.LeaseAck(ref=ref))
                task = self.tasks[ref.SerializeToString()] = asyncio.create_task(self.work(message.lease))
                task.add_done_callback(lambda _: self.ended(ref))
        elif message.HasField("reconnect"):
            wait_s = message.reconnect.within.ToTimedelta().total_seconds() * random.random()
            asyncio.get_running_loop().call_later(wait_s, self.outbox.put_nowait, None)
        self.outcomes.pop(message.outcome_ack.completion_id, None)
        self.stop([message.cancel.ref, *message.heartbeat_ack.cancelled], "cancelled")
        self.stop([message.lost.ref, *message.heartbeat_ack.lost, *message.welcome.lost], "lost")
        if not message.HasField("heartbeat_ack"):
            self.go_on()

    def stop(self, refs: list[pb.LeaseRef], why: str) -> None:
        for ref in refs:
            if (task := self.tasks.get(ref.SerializeToString())) is not None:
                task.cancel(why)

    def go_on(self) -> None:
        """Say how much is wanted; after a drain, when nothing is held any more, go."""
        self.say(credits=pb.Credits(free=0 if self.tasks or self.draining else 1))
        if self.draining and not self.tasks and not self.outcomes:
            self.outbox.put_nowait(None)

    def drain(self, grace_s: float = 10.0) -> None:
        self.draining = True
        self.say(drain=pb.Drain())
        self.go_on()
        asyncio.get_running_loop().call_later(grace_s, lambda: self.stop(self.held(), "handed back"))

    async def work(self, lease: pb.Lease) -> None:
        outcome = pb.Outcome(ref=lease.ref, completion_id=str(uuid.uuid4()), engine="bare")
        try:
            await self.make(lease, outcome)
        except asyncio.CancelledError as stopped:
            if stopped.args == ("cancelled",):
                outcome.cancelled.SetInParent()
            elif stopped.args == ("handed back",):
                self.say(lease_reject=pb.LeaseReject(ref=lease.ref, reason="the worker goes down"))
        except grpc.aio.AioRpcError as error:
            outcome.failure.failure.message = f"An output could not be stored: {error.code().name}."
            outcome.failure.retryable = True
        if outcome.WhichOneof("result"):
            self.outcomes[outcome.completion_id] = outcome
            self.say(outcome=outcome)

    def ended(self, ref: pb.LeaseRef) -> None:
        del self.tasks[ref.SerializeToString()]
        self.go_on()

    async def make(self, lease: pb.Lease, outcome: pb.Outcome) -> None:
        if lease.spec.kind == STAGE_KIND_ENHANCE:
            outcome.text = f"{lease.spec.prompt}, in soft morning light"
            return
        for index in range(lease.spec.settings.quantity):
            step = pb.StepProgress(asset_index=index, step=1, steps=1)
            self.say(reports=pb.Reports(reports=[pb.Report(ref=lease.ref, progress=step)]))
            outcome.outputs.outputs.add(asset_index=index, receipt=await self.upload(lease, index, DOT))

    async def upload(self, lease: pb.Lease, index: int, data: bytes) -> str:
        token, sha256 = (("atelier-lease-token", lease.token),), hashlib.sha256(data).hexdigest()
        async with grpc.aio.insecure_channel(self.upload_endpoint) as channel:
            stub = UploadServiceStub(channel)
            begin = up.StartUploadRequest(asset_index=index, size_bytes=len(data), sha256=sha256)
            begun = await stub.StartUpload(begin, metadata=token)
            rest = data[begun.received_bytes :]
            piece = up.WriteUploadRequest(upload_id=begun.upload_id, offset=begun.received_bytes, data=rest)
            await stub.WriteUpload(iter([piece] if rest else []), metadata=token)
            done = await stub.FinishUpload(up.FinishUploadRequest(upload_id=begun.upload_id), metadata=token)
            return done.receipt


async def main(target: str, key: str) -> None:
    worker = BareWorker(target, key)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.drain)
    await worker.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]).read_text().strip()))
