"""Moves stages between waiting and running: lease, acknowledge, renew, keep, hand back, lose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

from router_service.acknowledgements import Acknowledgements
from router_service.domain import Failure, Job, JobState, Lease, LeaseRef
from router_service.patience import Patience
from router_service.recording import NOT_AGAIN
from router_service.relay import Relay
from router_service.rounds import LeaseRules, Rounds
from router_service.sessions import Grant, Session
from router_service.signals import Signals
from router_service.storage import Storage, Transaction
from router_service.storage.queue import Waiting
from service_kit import crash
from service_kit.batching import Batcher
from service_kit.clock import Clock
from service_kit.errors import AtelierError, ErrorReason
from service_kit.telemetry import get_logger

log = get_logger(__name__)

# What another replica did, and a pause that is over, is found after this long, even if nobody tells.
POLL_S = 1.0
_Named = tuple[LeaseRef, str]


@dataclass(frozen=True, slots=True)
class _Mark:
    """Note that text of a lease goes out, which the holder `by` has, or that none has gone out in the session `by`."""

    ref: LeaseRef
    by: str
    told: bool


class Dispatch:
    """Leases waiting stages to connected workers, hears what they say of their leases, and takes leases back."""

    def __init__(
        self,
        storage: Storage,
        relay: Relay,
        signals: Signals,
        rounds: Rounds,
        acknowledgements: Acknowledgements,
        rules: LeaseRules,
        patience: Patience,
        clock: Clock,
    ) -> None:
        self._storage = storage
        self._patience = patience
        self._relay = relay
        self._signals = signals
        self._rounds = rounds
        self._rules = rules
        self._clock = clock
        self._looks_at = 0.0
        self._looked_at_version = -1
        self._one_round = asyncio.Lock()
        self._is_leasing = False
        self._acknowledgements = acknowledgements
        self._beginnings: Batcher[Sequence[_Mark], list[bool]] = Batcher(
            "router.told", self._mark_all, turn=storage.batch_turn
        )
        self._rejections: Batcher[_Named, None] = Batcher("router.reject", self._reject_all, turn=storage.batch_turn)
        self._renewals: Batcher[tuple[str, Sequence[LeaseRef]], frozenset[LeaseRef]] = Batcher(
            "router.renew", self._renew_all, turn=storage.batch_turn
        )

    async def close(self) -> None:
        """Let what runs end."""
        batchers = (self._beginnings, self._rejections, self._renewals)
        await asyncio.gather(self._acknowledgements.close(), *(batcher.close() for batcher in batchers))

    # --- leasing ----------------------------------------------------------------------------------------------------

    async def lease_waiting(self) -> int:
        """Fill the free slots of this replica's sessions. Returns how many stages were leased."""
        leased = 0
        async with self._one_round:
            await self._end_pauses()
            while True:
                self._looked_at_version = self._signals.queue_version
                done = await self._rounds.run()
                self.hand_over(done.grants)
                leased += len(done.grants)
                if not done.goes_on:
                    return leased

    @contextmanager
    def leasing(self) -> Iterator[None]:
        """Say that somebody leases here whatever waits: only then may what is new be leased without waiting."""
        self._is_leasing = True
        try:
            yield
        finally:
            self._is_leasing = False

    @asynccontextmanager
    async def turn(self, jobs: int) -> AsyncIterator[Rounds | None]:
        """Keep rounds off while so many new jobs are leased as they are accepted; None when they have to wait.

        That is so while a round runs, which would count the same slots, and when there are not slots enough.
        """
        if not self._is_leasing or self._one_round.locked() or not self._rounds.takes_new(jobs):
            yield None
            return
        async with self._one_round:
            yield self._rounds

    def hand_over(self, grants: Sequence[tuple[Session, Grant]]) -> None:
        """Give workers what was leased, after the commit."""
        if grants:
            crash.reach("router.lease.committed")
        for session, grant in grants:
            self._hand_over(session, grant)

    def slots_changed(self, session: Session) -> None:
        """Wake the leasing of this replica: a worker takes more. Not if the last round has left nothing for it."""
        if self._signals.queue_version != self._looked_at_version or not self._rounds.has_emptied(session):
            self._signals.slots_changed()

    @property
    def looks_again_in(self) -> float:
        """After how many seconds `lease_waiting` may find something of which nobody tells."""
        return max(self._looks_at - self._clock.monotonic(), 0.0)

    async def _end_pauses(self) -> None:
        """Once a second, and when a pause is known to be over: let stages be leased whose pause is over."""
        if self._clock.monotonic() < self._looks_at:
            return
        async with self._storage.read() as tx:
            now, next_at = await tx.now(), await tx.queue.next_ready_at()
        if next_at is not None and next_at <= now:
            async with self._storage.write() as tx:
                await tx.queue.make_ready()
        pause_s = POLL_S if next_at is None or next_at <= now else (next_at - now).total_seconds()
        self._looks_at = self._clock.monotonic() + min(pause_s, POLL_S)

    def _hand_over(self, session: Session, grant: Grant) -> None:
        ref = grant.lease.ref
        session.held[ref.job_id] = ref
        session.unacknowledged.add(ref)
        self._relay.began(grant.job)
        if grant.job.told:
            self._relay.first_words.expect(ref, session.epoch, self._clock.monotonic())
        session.send(grant)
        self._signals.job_changed(grant.job)
        log.debug("job_leased", job_id=ref.job_id, stage=ref.stage, fence=ref.fence, holder=session.worker.holder)

    # --- what workers say about their leases ------------------------------------------------------------------------

    def acknowledge(self, session: Session, ref: LeaseRef) -> None:
        """Note that a worker has begun a stage: from now on the lease lives as long as it is renewed.

        It is written within a moment, and before this replica writes or decides anything else about leases.
        """
        self._acknowledgements.note(ref, session.epoch)

    async def text_begins(self, session: Session, ref: LeaseRef) -> None:
        """Note that text of a stage goes out which nobody can take back: before the first piece, and only then it goes.

        A stage that was lost meanwhile may be tried again by somebody else, so its text stays here.
        """
        # From here on only what is noted counts: whoever ends the lease after that must not take it back.
        self._relay.first_words.forget(ref.job_id)
        (goes,) = await self._beginnings.submit([_Mark(ref, session.worker.holder, told=True)])
        self._relay.decide_text(ref, goes=goes)

    async def unmark_silent(self) -> None:
        """Take the marks back of leases whose workers have not said a word yet: they may be tried again after a crash.

        What they say from now on waits until it is noted.
        """
        silent = self._relay.first_words.overdue(self._clock.monotonic())
        if not silent:
            return
        for ref, _ in silent:
            self._relay.hold_text(ref)
        # In one piece, and at once: the note of what begins meanwhile comes after it.
        await self._beginnings.submit([_Mark(ref, session, told=False) for ref, session in silent])

    async def _mark_all(self, batch: Sequence[Sequence[_Mark]]) -> list[list[bool] | AtelierError]:
        marks = [mark for each in batch for mark in each]
        async with self._storage.write() as tx:
            before = await tx.jobs.lock(sorted({mark.ref.job_id for mark in marks}))
            leases = await tx.leases.lock(sorted(mark.ref.job_id for mark in marks if not mark.told))
            after: dict[str, Job] = {}
            done = [[_mark(mark, before, leases, after) for mark in each] for each in batch]
            await tx.jobs.save([(before[job_id], after[job_id]) for job_id in sorted(after)])
        for mark in marks:
            if not mark.told:
                self._relay.first_words.forget(mark.ref.job_id)
        return [*done]

    async def reject(self, session: Session, ref: LeaseRef, reason: str) -> None:
        """Take a lease back that a worker does not want, begun or not. It burns no attempt."""
        log.info("lease_rejected", job_id=ref.job_id, holder=session.worker.holder, reason=reason)
        self._acknowledgements.forget(ref)
        await self._rejections.submit((ref, session.epoch))

    async def _reject_all(self, refs: Sequence[_Named]) -> list[None]:
        async with self._storage.write() as tx:
            job_ids = sorted({ref.job_id for ref, _ in refs})
            before = await tx.jobs.lock(job_ids)
            held = await tx.leases.lock(job_ids)
            back = [lease for lease in held.values() if (lease.ref, lease.session) in set(refs)]
            jobs = await self._take_back(tx, before, back, none_began=True)
            crash.reach("router.reject.before_commit")
        crash.reach("router.reject.committed")
        self._after_take_back(jobs)
        return [None] * len(refs)

    async def renew(self, session: Session, refs: Sequence[LeaseRef]) -> tuple[list[LeaseRef], list[LeaseRef]]:
        """Renew the leases that a heartbeat names. Returns those whose job was cancelled, and those that are lost."""
        try:
            await self._acknowledgements.flush()
            renewed = await self._renewals.submit((session.epoch, refs))
        except AtelierError:
            # It was heard and could not be written: nobody's silence proves anything now.
            self._patience.begin()
            raise
        gone = [ref for ref in refs if ref not in renewed]
        if not gone:
            return [], []
        async with self._storage.read() as tx:
            jobs = await tx.jobs.find({ref.job_id for ref in gone})
        cancelled = [ref for ref in gone if ref.job_id in jobs and jobs[ref.job_id].state is JobState.CANCELLED]
        return cancelled, [ref for ref in gone if ref not in cancelled]

    async def _renew_all(
        self, heartbeats: Sequence[tuple[str, Sequence[LeaseRef]]]
    ) -> list[frozenset[LeaseRef] | AtelierError]:
        async with self._storage.write() as tx:
            named = {(ref, epoch) for epoch, refs in heartbeats for ref in refs}
            renewed = await tx.leases.renew(named) if named else set()
            await tx.registry.workers_seen({epoch for epoch, _ in heartbeats})
            crash.reach("router.renew.before_commit")
        crash.reach("router.renew.committed")
        return [frozenset(ref for ref in refs if (ref, epoch) in renewed) for epoch, refs in heartbeats]

    async def keep(self, session: Session, refs: Sequence[LeaseRef]) -> tuple[list[LeaseRef], list[LeaseRef]]:
        """Give a worker that has come back the leases that it still holds. Returns what it keeps, and what it has lost.

        Leases of the same worker that it does not name went down with its last process: they wait again at once.
        """
        holder = session.worker.holder
        await self._acknowledgements.flush()
        async with self._storage.write() as tx:
            held = [lease.ref.job_id for lease in await tx.leases.find_held(holder)]
            before = await tx.jobs.lock(sorted({*held, *(ref.job_id for ref in refs)}))
            leases = await tx.leases.lock(before)
            kept = await self._keep_named(
                tx, session, {ref for ref in refs if _may_keep(ref, before, holder)}, before, leases
            )
            dropped = [lease for lease in leases.values() if lease.holder == holder and lease.ref not in kept]
            taken_back = await self._take_back(tx, before, dropped)
            crash.reach("router.keep.before_commit")
        crash.reach("router.keep.committed")
        for ref, job in kept.items():
            session.held[ref.job_id] = ref
            self._relay.began(job)
            self._signals.job_changed(job)
        self._after_take_back(taken_back)
        return [ref for ref in refs if ref in kept], [ref for ref in refs if ref not in kept]

    async def _keep_named(
        self,
        tx: Transaction,
        session: Session,
        refs: Collection[LeaseRef],
        before: Mapping[str, Job],
        leases: Mapping[str, Lease],
    ) -> dict[LeaseRef, Job]:
        """Bind leases to the session, and lease again what waits since it was lost. Returns the jobs by lease."""
        now = await tx.now()
        adopted = {ref: before[ref.job_id] for ref in refs if ref.job_id in leases and leases[ref.job_id].ref == ref}
        again = {
            ref: before[ref.job_id].kept(now)
            for ref in refs
            if ref not in adopted and before[ref.job_id].state is JobState.QUEUED
        }
        await tx.leases.adopt(adopted.keys(), session.epoch, now)
        await tx.jobs.save([(before[ref.job_id], job) for ref, job in again.items()])
        await tx.queue.leave([ref.job_id for ref in again])
        await tx.leases.add([(job, session.epoch) for job in again.values()], now, acknowledged=True)
        return adopted | again

    # --- taking back ------------------------------------------------------------------------------------------------

    async def take_back_expired(self, *, ack_timeout: timedelta, limit: int = 200) -> int:
        """Let stages wait again whose worker was not heard of in time. Returns how many. Any replica may do it."""
        rules = {"lease_ttl": self._rules.ttl, "ack_timeout": ack_timeout}
        await self._acknowledgements.flush()
        async with self._storage.read() as tx:
            expired = await tx.leases.find_expired(**rules, limit=limit)
        if not expired:
            return 0
        async with self._storage.write() as tx:
            before = await tx.jobs.lock(expired, skip_locked=True)
            # Looked at again under the lock: its worker may have been heard of meanwhile.
            leases = await tx.leases.lock_expired(before.keys(), **rules)
            jobs = await self._take_back(tx, before, leases.values())
            crash.reach("router.take_back.before_commit")
        crash.reach("router.take_back.committed")
        for lease in leases.values():
            log.warning("lease_lost", job_id=lease.ref.job_id, holder=lease.holder, acknowledged=lease.acknowledged)
            self._signals.lease_ended(lease.ref, cancelled=False)
        self._after_take_back(jobs)
        return len(leases)

    async def _take_back(
        self, tx: Transaction, before: Mapping[str, Job], leases: Collection[Lease], *, none_began: bool = False
    ) -> list[Job]:
        """End leases without an outcome; their jobs are locked. Returns the jobs as they are then.

        The fences stay: their holders may still record until somebody else has the stages.
        """
        if not leases:
            return []
        now = await tx.now()
        await tx.leases.end([lease.ref.job_id for lease in leases])
        transitions = []
        for lease in leases:
            job = before.get(lease.ref.job_id)
            if job is not None and job.state is JobState.RUNNING and job.ref == lease.ref:
                if self._relay.has_told_nothing(lease.ref, lease.session):
                    job = replace(job, told=False)
                back = job.requeued(began=lease.acknowledged and not none_began)
                spent = self._spent(back)
                transitions.append((before[job.job_id], back if spent is None else job.stage_failed(spent, now)))
        after = [job for _, job in transitions]
        await tx.jobs.save(transitions)
        await tx.queue.enter([Waiting(job) for job in after if job.state is JobState.QUEUED], now)
        await tx.ledger.settle([job for job in after if job.state is JobState.FAILED], now)
        return after

    def _spent(self, job: Job) -> Failure | None:
        """Return why a stage is not leased again, None if it is."""
        if job.told:
            return Failure(ErrorReason.ATTEMPTS_EXHAUSTED, f"The worker was lost. {NOT_AGAIN}")
        if job.current.attempt >= self._rules.max_attempts:
            message = f"The worker was lost in each of {job.current.attempt} attempts."
            return Failure(ErrorReason.ATTEMPTS_EXHAUSTED, message)
        if job.leases >= self._rules.max_leases:
            return Failure(ErrorReason.ATTEMPTS_EXHAUSTED, f"The job was leased {job.leases} times without an outcome.")
        return None

    def _after_take_back(self, jobs: Collection[Job]) -> None:
        for job in jobs:
            self._relay.ended(job.job_id)
            self._signals.job_changed(job)
        if jobs:
            self._signals.queue_changed()
            self._signals.outbox_changed()


def _may_keep(ref: LeaseRef, jobs: Mapping[str, Job], holder: str) -> bool:
    return ref.job_id in jobs and jobs[ref.job_id].accepts(ref, holder)


def _mark(mark: _Mark, before: Mapping[str, Job], leases: Mapping[str, Lease], after: dict[str, Job]) -> bool:
    """Mark a job, or take its mark back, unless its lease is over or, for the latter, with another session by now."""
    job, lease = before.get(mark.ref.job_id), leases.get(mark.ref.job_id)
    if job is None or job.state is not JobState.RUNNING or job.ref != mark.ref:
        return False
    counts = job.holder == mark.by if mark.told else lease is not None and lease.session == mark.by
    if counts:
        after[job.job_id] = replace(job, told=mark.told)
    return counts
