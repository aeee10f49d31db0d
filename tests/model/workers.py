"""Workers that do exactly what the model says: their streams, what they hold, and what they have said."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from atelier.asset.v1 import upload_service_pb2 as upload_pb
from atelier.worker.v1 import worker_service_pb2 as pb
from service_kit.errors import AtelierError
from service_kit.identity import KeyKind, Owner, acting_as
from tests.model.house import House, Running
from tests.model.processes import WAIT_S, Gone, PowerCut

_WORK = "/atelier.worker.v1.WorkerService/Work"
_UPLOADS = "/atelier.asset.v1.UploadService/"
SLOTS = 3
# What the first bytes tell is looked at before anything is measured.
PNG = b"\x89PNG\r\n\x1a\n"

Ref = tuple[str, int, int]
"""Job, stage and fence of a lease."""


def ref_of(message: pb.LeaseRef) -> Ref:
    """Return which lease a message is about."""
    return message.job_id, message.stage, message.fence


def to_message(ref: Ref) -> pb.LeaseRef:
    """Return a lease's name as messages carry it."""
    return pb.LeaseRef(job_id=ref[0], stage=ref[1], fence=ref[2])


@dataclass
class Leased:
    """A lease that a worker was given: whether it has said so, and the receipts and digests of what it uploaded."""

    message: pb.Lease
    acknowledged: bool = False
    receipts: dict[int, str] = field(default_factory=dict)
    digests: dict[int, str] = field(default_factory=dict)

    @property
    def ref(self) -> Ref:
        """Job, stage and fence."""
        return ref_of(self.message.ref)

    @property
    def quantity(self) -> int:
        """How many outputs the job asks for."""
        return max(self.message.spec.settings.quantity, 1)


class Line:
    """One session's stream. It is over when either side ends it, or the router dies."""

    def __init__(self, running: Running, house: House) -> None:
        self.running = running
        self.replies: list[pb.WorkResponse] = []
        self.over = False
        self.refusal: AtelierError | None = None
        self._requests: asyncio.Queue[pb.WorkRequest | None] = asyncio.Queue()
        self._arrived = asyncio.Event()
        self._caller = house.caller(Owner("default", "workers"), KeyKind.WORKER)
        self.task = running.process.start(self._run())

    async def _run(self) -> None:
        handler = self.running.methods.handler(_WORK)
        try:
            with acting_as(self._caller):
                await handler.stream_stream(self._incoming(), self)
        except AtelierError as error:
            self.refusal = error
        except PowerCut:
            return
        finally:
            self.over = True
            self._arrived.set()

    async def write(self, reply: pb.WorkResponse) -> None:
        """Take what the router sends; for the servicer this line is the context of its call."""
        self.replies.append(pb.WorkResponse.FromString(reply.SerializeToString()))
        self._arrived.set()

    async def _incoming(self) -> AsyncIterator[pb.WorkRequest]:
        while (request := await self._requests.get()) is not None:
            yield request

    def say(self, **message: Any) -> None:
        """Send one message."""
        self._requests.put_nowait(pb.WorkRequest(**message))

    async def hear(self, kind: str) -> Any:
        """Return the next reply of a kind, leaving those before it. Raises Gone when the stream is over before."""
        async with asyncio.timeout(WAIT_S):
            while True:
                for index, reply in enumerate(self.replies):
                    if reply.WhichOneof("message") == kind:
                        del self.replies[index]
                        return getattr(reply, kind)
                if self.over or not self.running.process.alive:
                    raise Gone(self.refusal or self.running.process.name)
                self._arrived.clear()
                cut = asyncio.ensure_future(self.running.process.cut.wait())
                arrived = asyncio.ensure_future(self._arrived.wait())
                await asyncio.wait({cut, arrived}, return_when=asyncio.FIRST_COMPLETED)
                cut.cancel()
                arrived.cancel()

    async def end(self) -> None:
        """Break the stream off, as a lost connection does, and wait until the router knows."""
        self.task.cancel()
        await asyncio.wait({self.task}, timeout=WAIT_S)


class Worker:
    """One worker: its process may die, its connection may break, and it may say what is not so."""

    def __init__(self, name: str, house: House) -> None:
        self.name = name
        self.house = house
        self.line: Line | None = None
        self.leases: dict[Ref, Leased] = {}
        self.past: list[Leased] = []
        self.said: list[pb.Outcome] = []
        self.allowed = 0

    @property
    def connected(self) -> bool:
        """Whether its session is on."""
        return self.line is not None and not self.line.over and self.line.running.process.alive

    @property
    def holder(self) -> str:
        """As whom the router knows it."""
        return f"{self.house.worker_key_id}/{self.name}"

    async def connect(self, running: Running, named: Sequence[Ref]) -> pb.Welcome:
        """Begin a session that names leases; those that are not kept are dropped. Raises Gone."""
        await self.disconnect()
        self.line = Line(running, self.house)
        hello = pb.Hello(
            worker_id=self.name,
            instance_id="i",
            worker_types=["chat", "sdxl", "wan"],
            slots=SLOTS,
            leases=[to_message(ref) for ref in named],
        )
        self.line.say(hello=hello)
        welcome: pb.Welcome = await self.line.hear("welcome")
        kept = {ref_of(ref) for ref in welcome.kept}
        self.leases = {ref: leased for ref, leased in self.leases.items() if ref in kept}
        for leased in self.leases.values():
            leased.acknowledged = True
        self.allowed = 0
        return welcome

    async def disconnect(self) -> None:
        """Lose the connection."""
        if self.line is not None:
            await self.line.end()
            self.line = None

    async def die(self) -> None:
        """Lose everything that is not on a disk."""
        await self.disconnect()
        self.leases = {}

    async def credit(self, free: int) -> None:
        """Say how many more leases it takes. Raises Gone."""
        await self.say(credits=pb.Credits(free=free))
        self.allowed = free

    async def sync(self) -> None:
        """Wait until the router has applied what was said, and take in what it has sent; renews nothing.

        Raises:
            Gone: there is no session, or it ends.
        """
        if self.line is None:
            raise Gone(self.name)
        self.line.say(heartbeat=pb.Heartbeat())
        await self.line.hear("heartbeat_ack")
        self.take_in()

    def take_in(self) -> None:
        """Read what the router has sent."""
        if self.line is None:
            return
        replies, self.line.replies = self.line.replies, []
        for reply in replies:
            kind = reply.WhichOneof("message")
            if kind == "lease":
                leased = Leased(reply.lease)
                assert self.allowed > 0, f"{self.name} was sent more leases than it said that it takes"
                self.allowed -= 1
                self.leases[leased.ref] = leased
                self.past.append(leased)
            elif kind == "cancel":
                self._drop(ref_of(reply.cancel.ref))
            elif kind == "lost":
                self.leases.pop(ref_of(reply.lost.ref), None)
                self.allowed = 0

    async def say(self, **message: Any) -> None:
        """Send a message and wait until it is applied. Raises Gone when there is no session any more."""
        if self.line is None:
            raise Gone(self.name)
        self.line.say(**message)
        await self.sync()

    async def heartbeat(self, refs: Sequence[Ref]) -> pb.HeartbeatAck:
        """Renew leases. Raises Gone."""
        if self.line is None:
            raise Gone(self.name)
        self.line.say(heartbeat=pb.Heartbeat(leases=[to_message(ref) for ref in refs]))
        ack: pb.HeartbeatAck = await self.line.hear("heartbeat_ack")
        self.take_in()
        for ref in [*ack.cancelled, *ack.lost]:
            self._drop(ref_of(ref))
        return ack

    async def report(self, outcome: pb.Outcome) -> str:
        """Send an outcome. Returns `recorded`, `duplicate` or `stale`. Raises Gone."""
        if self.line is None:
            raise Gone(self.name)
        self.said.append(outcome)
        self.line.say(outcome=outcome)
        ack = await self.line.hear("outcome_ack")
        assert ack.completion_id == outcome.completion_id
        self._drop(ref_of(outcome.ref))
        return pb.OutcomeStatus.Name(ack.status).removeprefix("OUTCOME_STATUS_").lower()

    def _drop(self, ref: Ref) -> None:
        dropped = self.leases.pop(ref, None)
        # The router counts a slot as free again that the worker had not yet said to be taken.
        self.allowed += dropped is not None and not dropped.acknowledged

    async def upload(self, running: Running, leased: Leased, index: int, salt: int) -> str:
        """Upload an output. Returns its receipt. Raises Gone, or what the asset service raises."""
        data = PNG + f"{leased.ref} {index} {salt}".encode()
        digest = hashlib.sha256(data).hexdigest()
        start = upload_pb.StartUploadRequest(asset_index=index, size_bytes=len(data), sha256=digest)
        started = await self._call(running, leased, "StartUpload", start)
        if started.received_bytes < len(data):
            piece = upload_pb.WriteUploadRequest(
                upload_id=started.upload_id, offset=started.received_bytes, data=data[started.received_bytes :]
            )
            await self._call(running, leased, "WriteUpload", _only(piece))
        finish = upload_pb.FinishUploadRequest(upload_id=started.upload_id)
        receipt: str = (await self._call(running, leased, "FinishUpload", finish)).receipt
        leased.receipts[index] = receipt
        leased.digests[index] = digest
        return receipt

    async def _call(self, running: Running, leased: Leased, method: str, request: Any) -> Any:
        return await running.call_as_worker(_UPLOADS + method, request, leased.message.token, self.house.capabilities)


async def _only(message: Any) -> AsyncIterator[Any]:
    yield message
