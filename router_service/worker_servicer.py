"""`WorkerService`: the stream between the router and one worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from atelier.worker.v1 import worker_service_pb2 as pb
from atelier.worker.v1 import worker_service_pb2_grpc
from router_service import worker_wire
from router_service.dispatch import Dispatch
from router_service.reaper import Reaper
from router_service.recording import Recording
from router_service.relay import Relay
from router_service.sessions import HeartbeatReply, OutcomeReply, ReconnectNotice, Session, Sessions
from router_service.signals import Signals
from router_service.storage import Storage
from service_kit import crash
from service_kit.errors import DeadlineExceeded, InvalidArgument, Unauthenticated, Unavailable
from service_kit.identity import current_caller
from service_kit.ids import new_id
from service_kit.telemetry import get_logger

log = get_logger(__name__)

_MOST_UNAPPLIED = 256
_RECONNECT_WITHIN = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class SessionRules:
    """What a worker is told in `welcome`."""

    heartbeat_interval: timedelta
    lease_ttl: timedelta
    upload_endpoint: str
    max_output_bytes: int


class WorkerServicer(worker_service_pb2_grpc.WorkerServiceServicer):
    """Workers over gRPC."""

    def __init__(
        self,
        *,
        storage: Storage,
        sessions: Sessions,
        dispatch: Dispatch,
        recording: Recording,
        relay: Relay,
        signals: Signals,
        reaper: Reaper,
        rules: SessionRules,
        key_works: Callable[[str], Awaitable[bool]],
    ) -> None:
        self._storage = storage
        self._sessions = sessions
        self._dispatch = dispatch
        self._recording = recording
        self._relay = relay
        self._signals = signals
        self._reaper = reaper
        self._rules = rules
        self._key_works = key_works

    async def Work(
        self, request_iterator: AsyncIterator[pb.WorkRequest], context: Any
    ) -> AsyncIterator[pb.WorkResponse]:
        hello = await self._first(request_iterator)
        worker = worker_wire.worker_from_hello(hello, key_id=current_caller().key_id, session=new_id())
        session = Session(worker)
        async with self._storage.write() as tx:
            await tx.registry.worker_connected(worker)
        try:
            refs = [worker_wire.ref_from_proto(ref) for ref in hello.leases]
            kept, lost = await self._dispatch.keep(session, refs)
            # Only now: a lease given before would look like one that the worker has dropped.
            self._sessions.add(session)
            await self._reaper.refresh_pools()
            log.info(
                "worker_connected", holder=worker.holder, worker_types=",".join(worker.worker_types), kept=len(kept)
            )
            yield pb.WorkResponse(welcome=self._welcome(session, kept, lost))
            async for response in self._converse(session, request_iterator):
                yield response
        finally:
            self._sessions.remove(session)
            await asyncio.shield(self._gone(session))

    async def reconnect_all(self) -> None:
        """Ask every worker to connect again: this replica goes down."""
        for session in self._sessions:
            session.draining = True
            session.send(ReconnectNotice(_RECONNECT_WITHIN))
            session.close("The router is going down: connect again.")

    async def _first(self, requests: AsyncIterator[pb.WorkRequest]) -> pb.Hello:
        first = await self._next(requests)
        if first is None or first.WhichOneof("message") != "hello":
            raise InvalidArgument("The first request of a session must be hello.")
        return first.hello

    async def _next(self, requests: AsyncIterator[pb.WorkRequest]) -> pb.WorkRequest | None:
        """Return the next request, None at the end. A worker that says nothing for the life of a lease is gone."""
        try:
            async with asyncio.timeout(self._rules.lease_ttl.total_seconds()):
                return await anext(requests, None)
        except TimeoutError:
            raise DeadlineExceeded("The worker has not sent a heartbeat for the life of a lease.") from None

    def _welcome(self, session: Session, kept: list[Any], lost: list[Any]) -> pb.Welcome:
        return pb.Welcome(
            session_epoch=session.epoch,
            heartbeat_interval=worker_wire.duration(self._rules.heartbeat_interval),
            lease_ttl=worker_wire.duration(self._rules.lease_ttl),
            upload_endpoint=self._rules.upload_endpoint,
            kept=[worker_wire.ref_to_proto(ref) for ref in kept],
            lost=[worker_wire.ref_to_proto(ref) for ref in lost],
        )

    async def _converse(
        self, session: Session, requests: AsyncIterator[pb.WorkRequest]
    ) -> AsyncIterator[pb.WorkResponse]:
        """Send what is on its way to the worker, while two tasks read what it says and apply it."""
        unapplied: asyncio.Queue[pb.WorkRequest] = asyncio.Queue(_MOST_UNAPPLIED)
        tasks = [
            asyncio.create_task(self._read(session, requests, unapplied)),
            asyncio.create_task(self._apply_all(session, unapplied)),
        ]
        for task in tasks:
            task.add_done_callback(lambda _: session.close("The worker has ended the session."))
        try:
            while (message := await session.next_message()) is not None:
                yield worker_wire.message_to_proto(
                    message, lease_ttl=self._rules.lease_ttl, max_output_bytes=self._rules.max_output_bytes
                )
                if isinstance(message, OutcomeReply):
                    crash.reach("router.record.acknowledged")
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result
        if not tasks[0].done() or tasks[0].cancelled():
            raise Unavailable(session.close_reason)

    async def _read(
        self, session: Session, requests: AsyncIterator[pb.WorkRequest], unapplied: asyncio.Queue[pb.WorkRequest]
    ) -> None:
        """Take requests as they come. Reports are relayed at once; what needs the database waits its turn."""
        while (request := await self._next(requests)) is not None:
            kind = request.WhichOneof("message")
            if kind == "reports":
                self._relay_reports(session, request.reports)
            elif kind == "credits":
                session.credits = max(request.credits.free, 0)
                self._signals.queue_changed()
            elif kind == "drain":
                session.draining = True
            elif kind == "hello":
                raise InvalidArgument("hello comes once, at the beginning of a session.")
            elif kind is not None:
                if kind == "lease_ack":
                    # At once: the credits that come next already count the slot as taken.
                    session.accepted(worker_wire.ref_from_proto(request.lease_ack.ref))
                await unapplied.put(request)
        # The worker has closed its side: what it said before still counts.
        await unapplied.join()

    async def _apply_all(self, session: Session, unapplied: asyncio.Queue[pb.WorkRequest]) -> None:
        while True:
            request = await unapplied.get()
            try:
                await self._apply(session, request)
            finally:
                unapplied.task_done()

    async def _apply(self, session: Session, request: pb.WorkRequest) -> None:
        kind = request.WhichOneof("message")
        if kind == "lease_ack":
            await self._dispatch.acknowledge(session, worker_wire.ref_from_proto(request.lease_ack.ref))
        elif kind == "lease_reject":
            reject = request.lease_reject
            await self._dispatch.reject(session, worker_wire.ref_from_proto(reject.ref), reject.reason[:200])
        elif kind == "heartbeat":
            if not await self._key_works(current_caller().key_id):
                raise Unauthenticated("The worker's key was revoked or has expired.")
            refs = [worker_wire.ref_from_proto(ref) for ref in request.heartbeat.leases]
            cancelled, lost = await self._dispatch.renew(session, refs)
            session.send(HeartbeatReply(tuple(cancelled), tuple(lost)))
        elif kind == "outcome":
            outcome = worker_wire.outcome_from_proto(request.outcome)
            status = await self._recording.record(outcome, holder=session.worker.holder)
            session.send(OutcomeReply(outcome.ref, outcome.completion_id, status))

    def _relay_reports(self, session: Session, reports: pb.Reports) -> None:
        for report in reports.reports:
            if not session.holds(worker_wire.ref_from_proto(report.ref)):
                continue
            job_id, kind = report.ref.job_id, report.WhichOneof("report")
            if kind == "progress":
                step = report.progress
                self._relay.step(
                    job_id, asset_index=step.asset_index, step=step.step, steps=step.steps, phase=step.phase
                )
            elif kind == "preview":
                shown = report.preview
                self._relay.preview(
                    job_id,
                    asset_index=shown.asset_index,
                    step=shown.step,
                    content_type=shown.content_type,
                    image=shown.image,
                )
            elif kind == "text":
                self._relay.text(job_id, offset=report.text.offset, text=report.text.text)
            elif kind == "log":
                self._relay.log(job_id, report.log)

    async def _gone(self, session: Session) -> None:
        async with self._storage.write() as tx:
            await tx.registry.worker_gone(session.epoch)
        await self._reaper.refresh_pools()
        log.info("worker_disconnected", holder=session.worker.holder, reason=session.close_reason)
