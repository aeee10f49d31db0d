"""What is said in one session: the router hears a worker, has applied what it says, and answers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

from atelier.worker.v1 import worker_service_pb2 as pb
from router_service import worker_wire
from router_service.dispatch import Dispatch
from router_service.domain import LeaseRef
from router_service.in_order import InOrder
from router_service.recording import FENCED, Outcome, Recording
from router_service.relay import Relay
from router_service.session_limits import DATABASE_UNITS, NAMED_LEASE_UNITS, check_size
from router_service.sessions import HeartbeatReply, OutcomeReply, Session, superseded
from router_service.storage import Storage
from service_kit import crash
from service_kit.errors import DeadlineExceeded, InvalidArgument, Unauthenticated
from service_kit.identity import current_caller
from service_kit.telemetry import get_logger
from service_kit.validation import check_limits

log = get_logger(__name__)

# What a session may have under way at once. Beyond it the router reads no further, and the worker waits.
_MOST_AT_ONCE = 256
_MOST_BYTES_AT_ONCE = 1 << 20
_MOST_IN_A_BATCH = 256
# A worker takes messages of 4 MiB.
_MOST_TOGETHER_BYTES = 1 << 20
# How long what was said last may take to reach a worker whose session ends.
_LAST_WORDS_S = 2.0


@dataclass(frozen=True, slots=True)
class SessionRules:
    """What a worker is told in `welcome`, and how many sessions the workers of one key may have here."""

    heartbeat_interval: timedelta
    lease_ttl: timedelta
    upload_endpoint: str
    max_output_bytes: int
    max_sessions_per_key: int


class Conversations:
    """Holds the conversations with workers that were welcomed."""

    def __init__(
        self,
        *,
        storage: Storage,
        dispatch: Dispatch,
        recording: Recording,
        relay: Relay,
        rules: SessionRules,
        key_works: Callable[[str], Awaitable[bool]],
    ) -> None:
        self._storage = storage
        self._dispatch = dispatch
        self._recording = recording
        self._relay = relay
        self._rules = rules
        self._key_works = key_works

    async def hold(self, session: Session, requests: AsyncIterator[pb.WorkRequest], context: Any) -> None:
        """Hear the worker and answer it, until it goes, fails, or the session is closed from within."""
        applying = InOrder(most=_MOST_AT_ONCE, most_bytes=_MOST_BYTES_AT_ONCE)
        session.heard_at_s = asyncio.get_running_loop().time()
        reading = asyncio.create_task(self._read(session, requests, applying))
        writing = asyncio.create_task(self._write(session, context))
        others = (applying.fault(), session.wait_closed(), self._until_silent(session))
        ends = [reading, writing, *map(asyncio.create_task, others)]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            # What is on its way, such as the answer to the last outcome, still goes; but nobody waits long for a
            # worker that does not read.
            ended_by = session.ended_by
            session.close("The worker has ended the session.")
            await asyncio.wait((writing,), timeout=_LAST_WORDS_S)
        finally:
            for task in ends:
                task.cancel()
            results = await asyncio.gather(*ends, return_exceptions=True)
            await applying.close()
        for result in results:
            if isinstance(result, Exception):
                raise result
        if ended_by is not None:
            raise ended_by

    # --- to the worker ----------------------------------------------------------------------------------------------

    async def _write(self, session: Session, context: Any) -> None:
        while messages := await session.next_messages():
            said = [
                worker_wire.message_to_proto(
                    message, lease_ttl=self._rules.lease_ttl, max_output_bytes=self._rules.max_output_bytes
                )
                for message in messages
            ]
            for parcel in _parcels(said):
                await context.write(parcel)
            if any(isinstance(message, OutcomeReply) for message in messages):
                crash.reach("router.record.acknowledged")

    # --- from the worker --------------------------------------------------------------------------------------------

    async def _read(self, session: Session, requests: AsyncIterator[pb.WorkRequest], applying: InOrder) -> None:
        """Take requests as they come. Reports are relayed at once; what needs the database waits its turn."""
        now_s = asyncio.get_running_loop().time
        while (request := await anext(requests, None)) is not None:
            # Time in which we are the slow ones is not the worker's silence.
            session.heard_at_s = math.inf
            for one in _each(session, request):
                await self._hear(session, one, applying)
            session.heard_at_s = now_s()
        # The worker has closed its side: what it said before still counts.
        session.heard_at_s = math.inf
        await applying.drained()

    async def _until_silent(self, session: Session) -> None:
        """Raise when a worker says nothing for the life of a lease: then it is gone. One look for many messages."""
        now_s, patience_s = asyncio.get_running_loop().time, self._rules.lease_ttl.total_seconds()
        while (left_s := session.heard_at_s + patience_s - now_s()) > 0:  # noqa: ASYNC110 - it only looks how long
            await asyncio.sleep(min(left_s, patience_s))
        raise DeadlineExceeded("The worker has not sent a heartbeat for the life of a lease.")

    async def _hear(self, session: Session, request: pb.WorkRequest, applying: InOrder) -> None:
        kind, size_bytes, pays = request.WhichOneof("message"), request.ByteSize(), session.allowance.spend
        if kind == "lease_ack":
            taken = worker_wire.ref_from_proto(request.lease_ack.ref)
            # At once: the credits that come next already count the slot as taken.
            pays(size_bytes=size_bytes, extra=0 if session.accepted(taken) else DATABASE_UNITS)
            self._dispatch.acknowledge(session, taken)
        elif kind == "lease_reject":
            back, reason = worker_wire.reject_from_proto(request.lease_reject)
            pays(size_bytes=size_bytes, extra=0 if session.rejected(back) else DATABASE_UNITS)
            await applying.add(back.job_id, size_bytes, lambda: self._dispatch.reject(session, back, reason))
        elif kind == "heartbeat":
            check_limits(request)
            refs = [worker_wire.ref_from_proto(ref) for ref in request.heartbeat.leases]
            loaded = worker_wire.loaded_from_proto(request.heartbeat)
            writes = 1 + (loaded != session.worker.loaded)
            pays(size_bytes=size_bytes, extra=writes * DATABASE_UNITS + NAMED_LEASE_UNITS * len(refs))
            session.worker = replace(session.worker, loaded=loaded)
            # Only the newest is dealt with. Were each of them, a router slower than they come would fall behind, renew
            # what was held long ago, and believe everything lost that is held now.
            has_waiting, session.heartbeat = session.heartbeat is not None, refs
            if not has_waiting:
                await applying.add(None, size_bytes, lambda: self._renew(session))
        elif kind == "outcome":
            pays(size_bytes=size_bytes)
            outcome = worker_wire.outcome_from_proto(request.outcome)
            if not session.expected(outcome.ref):
                pays(size_bytes=0, extra=DATABASE_UNITS)
            await applying.add(outcome.ref.job_id, len(outcome.payload), lambda: self._record(session, outcome))
        else:
            pays(size_bytes=size_bytes)
            if kind == "reports":
                await self._hear_reports(session, request.reports, applying)
            else:
                self._note(session, request)

    def _note(self, session: Session, request: pb.WorkRequest) -> None:
        """Take what needs no database. What a newer worker says and this router does not know is passed over."""
        kind = request.WhichOneof("message")
        if kind == "credits":
            if session.set_credits(request.credits.free):
                self._dispatch.slots_changed(session)
        elif kind == "drain":
            session.draining = True
        elif kind == "hello":
            raise InvalidArgument("hello comes once, at the beginning of a session.")

    async def _renew(self, session: Session) -> None:
        refs, session.heartbeat = session.heartbeat or [], None
        if not await self._key_works(current_caller().key_id):
            raise Unauthenticated("The worker's key was revoked or has expired.")
        cancelled, lost = await self._dispatch.renew(session, refs)
        await self._note_loaded(session)
        if await self._current_session(session) != session.epoch:
            # Leases that this session has lost may well be the worker's, under its later one: it is not told of them.
            session.end(superseded(session.worker))
            return
        session.send(HeartbeatReply(tuple(cancelled), tuple(lost)))

    async def _note_loaded(self, session: Session) -> None:
        """Write what the worker keeps in memory, when it has changed."""
        loaded = session.worker.loaded
        if loaded != session.noted_loaded:
            async with self._storage.write() as tx:
                await tx.registry.worker_loaded(session.epoch, loaded)
            session.noted_loaded = loaded

    async def _current_session(self, session: Session) -> str | None:
        """Return which session is the worker's, as the database says. A worker that it has forgotten is noted again."""
        async with self._storage.read() as tx:
            current = await tx.registry.session_of(session.worker.holder)
        if current is not None:
            return current
        # Nobody heard of it for long: this process stood still, or the database's clock was set.
        log.warning("worker_was_forgotten", holder=session.worker.holder)
        async with self._storage.write() as tx:
            await tx.registry.worker_still_connected(session.worker)
            return await tx.registry.session_of(session.worker.holder)

    async def _record(self, session: Session, outcome: Outcome) -> None:
        status = await self._recording.record(outcome, holder=session.worker.holder, session=session.epoch)
        if status == FENCED:
            session.end(superseded(session.worker))
            return
        session.send(OutcomeReply(outcome.ref, outcome.completion_id, status))

    async def _hear_reports(self, session: Session, reports: pb.Reports, applying: InOrder) -> None:
        """Relay reports at once, but text that nobody can take back when that is noted, and what follows it after it.

        Meanwhile the worker is heard on: what begins at one moment is noted together.
        """
        for report in reports.reports:
            ref = worker_wire.ref_from_proto(report.ref)
            if not session.holds(ref):
                continue
            waits = self._relay.holds_text(ref.job_id) or applying.is_busy(ref.job_id)
            if report.WhichOneof("report") == "text" and waits:
                work = partial(self._relay_text, session, ref, report.text)
                await applying.add(ref.job_id, report.ByteSize(), work)
            else:
                self._relay_report(report)

    async def _relay_text(self, session: Session, ref: LeaseRef, piece: pb.TextPiece) -> None:
        """Relay a piece of text; wait, before the first one that nobody can take back, until that is noted."""
        if session.holds(ref) and self._relay.holds_text(ref.job_id):
            await self._dispatch.text_begins(session, ref)
        if session.holds(ref):
            self._relay.text(ref.job_id, offset=piece.offset, text=piece.text)

    def _relay_report(self, report: pb.Report) -> None:
        job_id, kind = report.ref.job_id, report.WhichOneof("report")
        if kind == "progress":
            step = report.progress
            self._relay.step(job_id, asset_index=step.asset_index, step=step.step, steps=step.steps, phase=step.phase)
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


def _each(session: Session, request: pb.WorkRequest) -> Sequence[pb.WorkRequest]:
    """Return what a message says, one after the other.

    Raises:
        InvalidArgument: a batch holds too much, or what is said alone.
        ResourceExhausted: it has more bytes than a message may have, or the worker says too much.
    """
    if request.WhichOneof("message") != "batch":
        return (request,)
    check_size(request.ByteSize())
    # Each of what is in it is paid for like any other; this is for the batch, which may be empty.
    session.allowance.spend(size_bytes=0)
    requests = request.batch.requests
    if len(requests) > _MOST_IN_A_BATCH:
        problem = f"must have at most {_MOST_IN_A_BATCH} requests, got {len(requests)}"
        raise InvalidArgument.field("batch.requests", problem)
    if any(one.WhichOneof("message") in ("hello", "batch") for one in requests):
        raise InvalidArgument("Neither hello nor a batch is part of a batch.")
    return requests


def _parcels(responses: Sequence[pb.WorkResponse]) -> Iterator[pb.WorkResponse]:
    """Put responses together, as far as they are small; one that is by itself goes as it is."""
    parcel: list[pb.WorkResponse] = []
    parcel_bytes = 0
    for response in responses:
        size_bytes = response.ByteSize()
        if parcel and parcel_bytes + size_bytes > _MOST_TOGETHER_BYTES:
            yield _parcel(parcel)
            parcel, parcel_bytes = [], 0
        parcel.append(response)
        parcel_bytes += size_bytes
    yield _parcel(parcel)


def _parcel(responses: Sequence[pb.WorkResponse]) -> pb.WorkResponse:
    return responses[0] if len(responses) == 1 else pb.WorkResponse(batch=pb.ResponseBatch(responses=responses))
