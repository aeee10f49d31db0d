"""Connected workers: their sessions, credits and leases, and what is on its way to them."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta

from router_service.domain import Job, Lease, LeaseRef
from router_service.registry_domain import ConnectedWorker, LoadedModel
from router_service.session_limits import Allowance
from service_kit.errors import Aborted, AtelierError, ResourceExhausted, Unavailable

# A worker that reads has a handful waiting; what leases bring comes on top, four messages for each at most.
_MOST_WAITING = 1000
# A stage whose outputs are being uploaded holds no slot, so that the engine can go on; more of them would be hoarding.
_LEASES_PER_SLOT = 2
_MOST_TOGETHER = 32
_UNREAD_RETRY = timedelta(seconds=5)


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


@dataclass(frozen=True, slots=True)
class DrainNotice:
    """No more leases come on this session."""


Message = Grant | CancelOrder | LostNotice | HeartbeatReply | OutcomeReply | DrainNotice | ReconnectNotice


@dataclass(slots=True)
class Session:
    """One connected worker, on this replica."""

    worker: ConnectedWorker
    takes_batches: bool = False
    allowance: Allowance = field(default_factory=lambda: Allowance(time.monotonic))
    closed: bool = False
    ended_by: AtelierError | None = None
    credits: int = 0
    unacknowledged: set[LeaseRef] = field(default_factory=set)
    held: dict[str, LeaseRef] = field(default_factory=dict)
    draining: bool = False
    # When the worker's last message was dealt with, on the loop's clock; infinity while one is.
    heard_at_s: float = math.inf
    # What the newest heartbeat names, until it is dealt with.
    heartbeat: list[LeaseRef] | None = None
    # What was written of the models that the worker keeps in memory.
    noted_loaded: tuple[LoadedModel, ...] = ()
    _expected: dict[LeaseRef, None] = field(default_factory=dict)
    _outgoing: deque[Message] = field(default_factory=deque)
    _unread: int = 0
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def epoch(self) -> str:
        """The session's id."""
        return self.worker.session

    @property
    def free(self) -> int:
        """How many more leases may be sent: what the worker said, less what it has not answered yet.

        Never more than its slots, whatever it says, and never so many that it holds two leases for each of them.
        """
        if self.draining or self.closed:
            return 0
        most_more = _LEASES_PER_SLOT * self.worker.slots - len(self.held)
        return max(min(self.credits - len(self.unacknowledged), most_more), 0)

    def set_credits(self, free: int) -> bool:
        """Note how many more stages the worker can take. Returns whether it takes more than before."""
        before, self.credits = self.credits, min(max(free, 0), self.worker.slots)
        return self.credits > before

    def holds(self, ref: LeaseRef) -> bool:
        """Tell whether reports under this lease may be relayed."""
        return self.held.get(ref.job_id) == ref

    def accepted(self, ref: LeaseRef) -> bool:
        """Note that the worker has taken a lease: one slot less, until it says anew how many are free.

        Returns whether it had not said so before.
        """
        if ref not in self.unacknowledged:
            return False
        self.unacknowledged.discard(ref)
        self.credits = max(self.credits - 1, 0)
        return True

    def rejected(self, ref: LeaseRef) -> bool:
        """Note that the worker does not take a lease: it gets no other until it says anew how many it takes.

        Returns whether it had it.
        """
        self.credits = 0
        self.unacknowledged.discard(ref)
        if not self.holds(ref):
            return False
        del self.held[ref.job_id]
        return True

    def expect_outcome(self, ref: LeaseRef) -> None:
        """Note that the worker has, or had, a lease, so that it may say how it ended. The oldest are forgotten."""
        self._expected[ref] = None
        if len(self._expected) > 2 * _LEASES_PER_SLOT * self.worker.slots + _MOST_WAITING:
            del self._expected[next(iter(self._expected))]

    def expected(self, ref: LeaseRef) -> bool:
        """Tell whether this outcome is the first one of a lease of this worker."""
        return self._expected.pop(ref, 0) is None

    def send(self, message: Message) -> None:
        """Put a message on its way. A worker that does not read is cut off."""
        if self.closed:
            return
        if isinstance(message, Grant):
            self.expect_outcome(message.lease.ref)
            self.allowance.earn()
        most = _MOST_WAITING + 2 * _LEASES_PER_SLOT * self.worker.slots
        if self._unread + _weight(message) > most:
            sentence = f"The worker has left {len(self._outgoing)} messages unread: connect again."
            self.end(ResourceExhausted(sentence, retry_after=_UNREAD_RETRY))
            return
        self._unread += _weight(message)
        self._outgoing.append(message)
        self._wake.set()

    async def next_messages(self) -> list[Message]:
        """Return what is to be sent next, waiting for it; nothing when the session is closed and everything was sent.

        More than one at once only to a worker that takes several in one message.
        """
        while not self._outgoing:
            if self.closed:
                return []
            self._wake.clear()
            await self._wake.wait()
        most = _MOST_TOGETHER if self.takes_batches else 1
        messages = [self._outgoing.popleft() for _ in range(min(most, len(self._outgoing)))]
        self._unread -= sum(map(_weight, messages))
        return messages

    def close(self, reason: str) -> None:
        """End the session; the worker is told why, and comes again."""
        self.end(Unavailable(reason))

    def end(self, error: AtelierError) -> None:
        """End the session with an error; the first one counts."""
        self.ended_by = self.ended_by or error
        self.closed = True
        self._wake.set()
        self._over.set()

    async def wait_closed(self) -> None:
        """Wait until the session is closed."""
        await self._over.wait()


class Sessions:
    """The sessions of this replica."""

    def __init__(self, when_left: Callable[[LeaseRef], None] = lambda _ref: None) -> None:
        """Call `when_left` with each lease whose worker is no longer connected here; it may well be elsewhere."""
        self._when_left = when_left
        self._sessions: dict[str, Session] = {}
        self._empty = asyncio.Event()
        self._empty.set()

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    def __len__(self) -> int:
        return len(self._sessions)

    def add(self, session: Session) -> None:
        """Take a session in. An earlier session of the same worker is closed."""
        self.supersede(session.worker.holder)
        self._sessions[session.epoch] = session
        self._empty.clear()

    def supersede(self, holder: str) -> None:
        """End the sessions of a worker that has begun a later one."""
        for session in self._sessions.values():
            if session.worker.holder == holder:
                session.end(superseded(session.worker))

    def remove(self, session: Session) -> None:
        """Forget a session."""
        self._sessions.pop(session.epoch, None)
        session.close("The session is over.")
        for ref in session.held.values():
            if not any(other.holds(ref) for other in self._sessions.values()):
                self._when_left(ref)
        if not self._sessions:
            self._empty.set()

    async def wait_empty(self) -> None:
        """Wait until no worker is connected here."""
        await self._empty.wait()

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


def _weight(message: Message) -> int:
    """Return how many small messages this one counts for: ten leases that an answer names are one more."""
    if isinstance(message, HeartbeatReply):
        return 1 + (len(message.cancelled) + len(message.lost)) // 10
    return 1


def superseded(worker: ConnectedWorker) -> AtelierError:
    """Return why a session has ended that a later one of the same worker took the place of."""
    name = worker.holder.partition("/")[2]
    return Aborted(
        f"The worker {name} has begun another session with the same key, and this one counts no more. "
        "If two workers have that name, give one of them another (worker.name)."
    )
