"""`WorkerService`: the stream between the router and one worker."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

from atelier.worker.v1 import worker_service_pb2 as pb
from atelier.worker.v1 import worker_service_pb2_grpc
from router_service import worker_wire
from router_service.conversation_servicer import Conversations, SessionRules
from router_service.dispatch import Dispatch
from router_service.introductions import Introductions
from router_service.reaper import Reaper
from router_service.session_limits import Allowance, Door
from router_service.sessions import DrainNotice, ReconnectNotice, Session, Sessions
from router_service.storage import Storage
from service_kit.clock import Clock
from service_kit.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted, Unavailable
from service_kit.identity import current_caller
from service_kit.ids import new_id
from service_kit.telemetry import get_logger
from service_kit.validation import check_limits

log = get_logger(__name__)

_HELLO_WITHIN_S = 10.0
# Workers that are sent elsewhere come back spread over a time that grows with their number.
_RECONNECT_EACH = timedelta(milliseconds=20)
_RECONNECT_WITHIN = timedelta(seconds=3)
_LEAVE_SLACK_S = 0.5


class WorkerServicer(worker_service_pb2_grpc.WorkerServiceServicer):
    """Workers over gRPC."""

    def __init__(
        self,
        *,
        storage: Storage,
        sessions: Sessions,
        dispatch: Dispatch,
        reaper: Reaper,
        conversations: Conversations,
        introductions: Introductions,
        rules: SessionRules,
        clock: Clock,
    ) -> None:
        self._storage = storage
        self._sessions = sessions
        self._dispatch = dispatch
        self._reaper = reaper
        self._conversations = conversations
        self._introductions = introductions
        self._rules = rules
        self._clock = clock
        self._door = Door(clock.monotonic, sessions_per_key=rules.max_sessions_per_key)
        self._draining = False

    async def Work(self, request_iterator: AsyncIterator[pb.WorkRequest], context: Any) -> None:  # type: ignore[override]
        """Hold one session. No generator: a worker that does not read must not keep its session in a write."""
        with self._door.opened(current_caller().key_id):
            hello = await self._hello(request_iterator)
            worker = worker_wire.worker_from_hello(hello, key_id=current_caller().key_id, session=new_id())
            await self._introductions.check(worker)
            self._door.let_in(worker.holder)
            if self._draining:
                raise _going_down()
            session = Session(worker, hello.takes_batches, Allowance(self._clock.monotonic))
            try:
                await context.write(pb.WorkResponse(welcome=await self._take_in(session, hello)))
                await self._conversations.hold(session, request_iterator, context)
            except ResourceExhausted:
                self._door.send_away(worker.holder)
                raise
            finally:
                self._sessions.remove(session)
                await asyncio.shield(self._gone(session))

    async def drain(self) -> None:
        """Send every worker elsewhere: this replica goes down. They keep what they run, and what they say is heard."""
        self._draining = True
        within = min(_RECONNECT_EACH * len(self._sessions), _RECONNECT_WITHIN)
        for session in self._sessions:
            session.draining = True
            session.send(DrainNotice())
            session.send(ReconnectNotice(within))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within.total_seconds() + _LEAVE_SLACK_S):
                await self._sessions.wait_empty()
        for session in self._sessions:
            session.end(_going_down())

    # --- the beginning ----------------------------------------------------------------------------------------------

    async def _hello(self, requests: AsyncIterator[pb.WorkRequest]) -> pb.Hello:
        try:
            async with asyncio.timeout(_HELLO_WITHIN_S):
                first = await anext(requests, None)
        except TimeoutError:
            raise DeadlineExceeded(f"The worker has not said hello within {_HELLO_WITHIN_S:.0f} seconds.") from None
        if first is None or first.WhichOneof("message") != "hello":
            raise InvalidArgument("The first request of a session must be hello.")
        check_limits(first)
        return first.hello

    async def _take_in(self, session: Session, hello: pb.Hello) -> pb.Welcome:
        worker = session.worker
        # Before the leases change hands: what an earlier session says from now on is not the worker's any more.
        self._sessions.supersede(worker.holder)
        async with self._storage.write() as tx:
            await tx.registry.worker_connected(worker)
        refs = [worker_wire.ref_from_proto(ref) for ref in hello.leases]
        kept, lost = await self._dispatch.keep(session, refs)
        for ref in refs:
            session.expect_outcome(ref)
        # Only now: a lease given before would look like one that the worker has dropped.
        self._sessions.add(session)
        await self._reaper.refresh_pools()
        log.info("worker_connected", holder=worker.holder, worker_types=",".join(worker.worker_types), kept=len(kept))
        return pb.Welcome(
            session_epoch=session.epoch,
            heartbeat_interval=worker_wire.duration(self._rules.heartbeat_interval),
            lease_ttl=worker_wire.duration(self._rules.lease_ttl),
            upload_endpoint=self._rules.upload_endpoint,
            kept=[worker_wire.ref_to_proto(ref) for ref in kept],
            lost=[worker_wire.ref_to_proto(ref) for ref in lost],
            takes_batches=True,
            warnings=await self._introductions.warnings(worker),
        )

    async def _gone(self, session: Session) -> None:
        async with self._storage.write() as tx:
            await tx.registry.worker_gone(session.epoch)
        await self._reaper.refresh_pools()
        reason = "" if session.ended_by is None else session.ended_by.message
        log.info("worker_disconnected", holder=session.worker.holder, reason=reason)


def _going_down() -> Unavailable:
    return Unavailable("The router is going down: connect again, to another one if there is one.")
