"""Connected workers: their sessions, credits and leases, and what is on its way to them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta

from router_service.domain import ConnectedWorker, Job, Lease, LeaseRef

_MOST_WAITING = 1000


@dataclass(frozen=True, slots=True)
class Grant:
    """Do this stage: the lease, the job and the lease token."""

    lease: Lease
    job: Job
    token: str


@dataclass(frozen=True, slots=True)
class CancelOrder:
    """Stop this stage."""

    ref: LeaseRef


@dataclass(frozen=True, slots=True)
class LostNotice:
    """This stage is no longer the worker's."""

    ref: LeaseRef


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    """Of the leases that a heartbeat named: those whose job was cancelled, and those that are lost."""

    cancelled: tuple[LeaseRef, ...]
    lost: tuple[LeaseRef, ...]


@dataclass(frozen=True, slots=True)
class OutcomeReply:
    """What became of an outcome: recorded, duplicate or stale."""

    ref: LeaseRef
    completion_id: str
    status: str


@dataclass(frozen=True, slots=True)
class ReconnectNotice:
    """Connect again, after a random part of this time."""

    within: timedelta


Message = Grant | CancelOrder | LostNotice | HeartbeatReply | OutcomeReply | ReconnectNotice


@dataclass(slots=True)
class Session:
    """One connected worker, on this replica."""

    worker: ConnectedWorker
    closed: bool = False
    close_reason: str = ""
    credits: int = 0
    unacknowledged: set[LeaseRef] = field(default_factory=set)
    held: dict[str, LeaseRef] = field(default_factory=dict)
    draining: bool = False
    _outgoing: deque[Message] = field(default_factory=deque)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def epoch(self) -> str:
        """The session's id."""
        return self.worker.session

    @property
    def free(self) -> int:
        """How many more leases may be sent: what the worker said, less what it has not answered yet."""
        return 0 if self.draining or self.closed else max(self.credits - len(self.unacknowledged), 0)

    def holds(self, ref: LeaseRef) -> bool:
        """Tell whether reports under this lease may be relayed."""
        return self.held.get(ref.job_id) == ref

    def accepted(self, ref: LeaseRef) -> None:
        """Note that the worker has taken a lease: one slot less, until it says anew how many are free."""
        if ref in self.unacknowledged:
            self.unacknowledged.discard(ref)
            self.credits = max(self.credits - 1, 0)

    def send(self, message: Message) -> None:
        """Put a message on its way. A worker that does not read is cut off."""
        if self.closed:
            return
        if len(self._outgoing) >= _MOST_WAITING:
            self.close(f"The worker has not read {_MOST_WAITING} messages: connect again.")
            return
        self._outgoing.append(message)
        self._wake.set()

    async def next_message(self) -> Message | None:
        """Return what is to be sent next, waiting for it; None when the session is closed and everything was sent."""
        while not self._outgoing:
            if self.closed:
                return None
            self._wake.clear()
            await self._wake.wait()
        return self._outgoing.popleft()

    def close(self, reason: str) -> None:
        """End the session; the worker is told why."""
        self.close_reason = self.close_reason or reason
        self.closed = True
        self._wake.set()


class Sessions:
    """The sessions of this replica."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    def add(self, session: Session) -> None:
        """Take a session in. An earlier session of the same worker is closed."""
        for other in self._sessions.values():
            if other.worker.holder == session.worker.holder:
                other.close("The worker has connected again.")
        self._sessions[session.epoch] = session

    def remove(self, session: Session) -> None:
        """Forget a session."""
        self._sessions.pop(session.epoch, None)
        session.close("The session is over.")

    def get(self, epoch: str) -> Session | None:
        """Return a session of this replica, or None."""
        return self._sessions.get(epoch)

    def forget_lease(self, ref: LeaseRef) -> None:
        """Note that a lease is over, whoever held it."""
        for session in self._sessions.values():
            session.unacknowledged.discard(ref)
            if session.holds(ref):
                del session.held[ref.job_id]

    def lease_ended(self, ref: LeaseRef, cancelled: bool) -> None:
        """Tell the worker that a lease is over, if it is connected here."""
        if cancelled:
            self.tell_cancelled(ref)
        else:
            self.tell_lost(ref)

    def tell_cancelled(self, ref: LeaseRef) -> None:
        """Tell the worker that runs a job to stop, if it is connected here."""
        self._tell(ref, CancelOrder(ref))

    def tell_lost(self, ref: LeaseRef) -> None:
        """Tell the worker that a lease is no longer its, if it is connected here.

        It gets no more until it says again how much it takes: one that does not answer would get the same at once.
        """
        for session in self._sessions.values():
            if session.holds(ref):
                session.credits = 0
        self._tell(ref, LostNotice(ref))

    def _tell(self, ref: LeaseRef, message: Message) -> None:
        for session in self._sessions.values():
            if session.holds(ref):
                session.send(message)
        self.forget_lease(ref)
