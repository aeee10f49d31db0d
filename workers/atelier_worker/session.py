"""One `Work` stream, from hello to its end: one writer, one reader, one heartbeat."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Mapping
from dataclasses import dataclass

import grpc

from atelier.router.v1 import job_pb2
from atelier.worker.v1 import worker_service_pb2 as pb
from atelier_worker.holdings import Holdings
from atelier_worker.outbox import Outbox
from service_kit import crash
from service_kit.call_endings import Ending
from service_kit.telemetry import get_logger

_WELCOME_LIMIT_S = 10.0
_DEFAULT_HEARTBEAT_S = 10.0
# A router that has been silent for so many heartbeats is taken for gone, whatever TCP says.
_SILENT_HEARTBEATS = 3
_SILENCE_SLACK_S = 5.0
# How long the router may take to apply what was said last, when the worker goes.
_LAST_WORDS_S = 2.0
# How many messages travel in one, if the router takes that.
_MOST_TOGETHER = 64

_STAGES = {
    "enhance": job_pb2.STAGE_KIND_ENHANCE,
    "generate": job_pb2.STAGE_KIND_GENERATE,
    "chat": job_pb2.STAGE_KIND_CHAT,
}

WorkCall = grpc.aio.StreamStreamCall[pb.WorkRequest, pb.WorkResponse]
log = get_logger(__name__)


class SessionLost(Exception):
    """The session has ended without a status from the router."""


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a worker says about itself."""

    worker_id: str
    instance_id: str
    worker_types: tuple[str, ...]
    models: tuple[str, ...]
    slots: int
    labels: Mapping[str, str]
    version: str
    stages: tuple[str, ...]

    def hello(self, leases: list[pb.LeaseRef]) -> pb.Hello:
        """Return the first message of a session."""
        return pb.Hello(
            worker_id=self.worker_id,
            instance_id=self.instance_id,
            worker_types=self.worker_types,
            models=self.models,
            slots=self.slots,
            labels=self.labels,
            leases=leases,
            version=self.version,
            stages=[_STAGES[stage] for stage in self.stages if stage in _STAGES],
            takes_batches=True,
            takes_steering=True,
        )


class Session:
    """Speaks one stream for the holdings of a worker."""

    def __init__(self, call: WorkCall, introduction: Introduction, holdings: Holdings, outbox: Outbox) -> None:
        """Take a call that nothing was written to; `run` ends it."""
        self._call = call
        self._ending = Ending(call)
        self._introduction = introduction
        self._holdings = holdings
        self._outbox = outbox
        self._leave = asyncio.Event()
        self._most_together = 1
        self.welcomed = False

    def leave(self) -> None:
        """Have `run` return soon, in peace."""
        self._leave.set()

    async def run(self) -> None:
        """Hold the session until it ends, is left, or the router asks to connect again.

        Raises:
            grpc.aio.AioRpcError: the router ended it with an error.
            SessionLost: it went silent or broke.
        """
        try:
            interval_s = await self._introduce()
            self.welcomed = True
            await self._serve(interval_s)
        except grpc.aio.AioRpcError as error:
            raise self._ended(error) from None
        finally:
            self._holdings.session_ended()
            self._call.cancel()

    def _ended(self, error: grpc.aio.AioRpcError) -> Exception:
        """Return how it ended: gRPC puts words of its own before the router's, if we wrote as it said them."""
        said = self._ending.of(error)
        if isinstance(said, grpc.aio.AioRpcError) and said.code() is grpc.StatusCode.OK:
            return SessionLost("the router closed the session")
        return said

    async def _introduce(self) -> float:
        try:
            async with asyncio.timeout(_WELCOME_LIMIT_S):
                await self._write(pb.WorkRequest(hello=self._introduction.hello(self._holdings.refs())))
                first = await self._call.read()
        except TimeoutError:
            raise SessionLost(f"the router did not answer within {_WELCOME_LIMIT_S:g} s") from None
        if not isinstance(first, pb.WorkResponse) or first.WhichOneof("message") != "welcome":
            raise SessionLost("the router did not begin with a welcome")
        self._holdings.welcome(first.welcome)
        self._most_together = _MOST_TOGETHER if first.welcome.takes_batches else 1
        for warning in first.welcome.warnings:
            log.warning("router_warns", message=warning)
        log.info(
            "session_begun",
            worker_id=self._introduction.worker_id,
            session_epoch=first.welcome.session_epoch,
            kept=len(first.welcome.kept),
        )
        return first.welcome.heartbeat_interval.ToTimedelta().total_seconds() or _DEFAULT_HEARTBEAT_S

    async def _serve(self, interval_s: float) -> None:
        reader = asyncio.create_task(self._read(interval_s), name="session reader")
        writer = asyncio.create_task(self._write_all(), name="session writer")
        parts = [
            reader,
            writer,
            asyncio.create_task(self._beat(interval_s), name="session heartbeat"),
            asyncio.create_task(self._notice_stuck(), name="session guard"),
            asyncio.create_task(self._leave.wait(), name="session end"),
        ]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                if part.cancelled():
                    # Not us: a part that gave up cancelled the call, and so another one's write or read. To let that
                    # out as a cancellation would end the worker's whole link to its router.
                    raise SessionLost("the call broke off")
                part.result()
            await self._part(reader, writer)
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)

    async def _part(self, reader: asyncio.Task[None], writer: asyncio.Task[None]) -> None:
        """Say what is still to be said, close our side, and wait until the router has applied it and closes its own."""
        self._outbox.end()
        with contextlib.suppress(TimeoutError, SessionLost, grpc.aio.AioRpcError):
            async with asyncio.timeout(_LAST_WORDS_S):
                await asyncio.wait((writer,))
                await self._call.done_writing()
                await asyncio.wait((reader,))

    async def _write_all(self) -> None:
        while messages := await self._outbox.next(self._most_together):
            one = len(messages) == 1
            await self._write(messages[0] if one else pb.WorkRequest(batch=pb.RequestBatch(requests=messages)))
            kinds = {message.WhichOneof("message") for message in messages}
            if "lease_ack" in kinds:
                crash.reach("worker.lease.acked")
            if "outcome" in kinds:
                crash.reach("worker.outcome.sent")

    async def _write(self, message: pb.WorkRequest) -> None:
        try:
            await self._call.write(message)
        except asyncio.InvalidStateError:
            # The call is over; what ended it is told by its status, which reading raises.
            await self._call.read()
            raise SessionLost("the router closed the session") from None

    async def _beat(self, interval_s: float) -> None:
        while True:
            await asyncio.sleep(interval_s)
            self._outbox.put(
                pb.WorkRequest(heartbeat=pb.Heartbeat(leases=self._holdings.refs(), loaded=self._holdings.loaded()))
            )
            # Absolute, so that saying it again costs nothing and heals whatever went wrong.
            self._holdings.tell_credits(repeat=True)

    async def _notice_stuck(self) -> None:
        await self._outbox.stuck.wait()
        raise SessionLost("the router does not read what it is told")

    async def _read(self, interval_s: float) -> None:
        patience_s = _SILENT_HEARTBEATS * interval_s + _SILENCE_SLACK_S
        while True:
            try:
                async with asyncio.timeout(patience_s):
                    message = await self._call.read()
            except TimeoutError:
                raise SessionLost(f"the router was silent for {patience_s:g} s") from None
            if not isinstance(message, pb.WorkResponse):
                raise SessionLost("the router closed the session")
            for one in message.batch.responses if message.HasField("batch") else (message,):
                self._hear(one)

    def _hear(self, message: pb.WorkResponse) -> None:
        match message.WhichOneof("message"):
            case "lease":
                self._holdings.take(message.lease)
            case "heartbeat_ack":
                for ref in message.heartbeat_ack.cancelled:
                    self._holdings.cancel(ref)
                for ref in message.heartbeat_ack.lost:
                    self._holdings.lose(ref)
            case "cancel":
                self._holdings.cancel(message.cancel.ref, message.cancel.grace.ToTimedelta().total_seconds())
            case "lost":
                self._holdings.lose(message.lost.ref)
            case "outcome_ack":
                self._holdings.answered(message.outcome_ack)
            case "drain":
                log.info("router_drains")
            case "reconnect":
                within_s = message.reconnect.within.ToTimedelta().total_seconds()
                loop = asyncio.get_running_loop()
                loop.call_later(within_s * random.random(), self._leave.set)  # noqa: S311 - jitter, not a secret
            case unknown:
                log.warning("message_not_understood", message=str(unknown))
