"""Moves stages between waiting and running: lease, acknowledge, renew, keep, lose, cancel."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from router_service.domain import FINAL, Failure, Job, JobState, Lease, LeaseRef
from router_service.fairness import rank
from router_service.relay import Relay
from router_service.sessions import Grant, Session, Sessions
from router_service.signals import Signals
from router_service.storage import Storage, Transaction
from router_service.storage.ledger import OutboxKind
from router_service.storage.queue import Candidate, QueueKey
from service_kit import crash
from service_kit.capabilities import Capabilities, LeaseClaims, ReferenceGrant
from service_kit.errors import ErrorReason, FailedPrecondition
from service_kit.identity import Owner
from service_kit.telemetry import get_logger

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LeaseRules:
    """How leases live. `max_output_bytes` is the largest output that a worker may upload."""

    ttl: timedelta
    max_attempts: int
    max_leases: int
    max_output_bytes: int


class Dispatch:
    """Leases waiting stages to connected workers, and takes them back."""

    def __init__(
        self,
        storage: Storage,
        sessions: Sessions,
        relay: Relay,
        signals: Signals,
        capabilities: Capabilities,
        rules: LeaseRules,
    ) -> None:
        self._storage = storage
        self._sessions = sessions
        self._relay = relay
        self._signals = signals
        self._capabilities = capabilities
        self._rules = rules
        self._served: dict[Owner, int] = {}
        self._serving = 0

    # --- leasing ----------------------------------------------------------------------------------------------------

    async def lease_waiting(self) -> int:
        """Fill the free slots of this replica's sessions, once. Returns how many stages were leased."""
        takers = [session for session in self._sessions if session.free > 0]
        if not takers:
            return 0
        async with self._storage.write() as tx:
            chosen = await self._choose(tx, takers)
            grants = [
                (session, grant)
                for session, candidate in chosen
                if (grant := await self._lease_one(tx, session, candidate)) is not None
            ]
        crash.reach("router.lease.committed")
        for session, grant in grants:
            self._hand_over(session, grant)
        return len(grants)

    async def _choose(self, tx: Transaction, takers: Sequence[Session]) -> list[tuple[Session, Candidate]]:
        free = {session.epoch: session.free for session in takers}
        keys = {
            QueueKey(worker_type, session.worker.models)
            for session in takers
            for worker_type in session.worker.worker_types
        }
        slots = sum(free.values())
        candidates = await tx.queue.find_candidates(sorted(keys, key=repr), per_owner=slots)
        several = len({candidate.owner for candidate in candidates}) > 1
        running = await tx.queue.count_running() if several else {}
        chosen = []
        for candidate in rank(candidates, running, last_served=self._served, limit=len(candidates)):
            session = _best_session(takers, free, candidate)
            if session is not None:
                free[session.epoch] -= 1
                chosen.append((session, candidate))
                if len(chosen) == slots:
                    break
        return chosen

    async def _lease_one(self, tx: Transaction, session: Session, candidate: Candidate) -> Grant | None:
        before = await tx.jobs.get(candidate.job_id)
        if before is None or before.state is not JobState.QUEUED:
            await tx.queue.leave(candidate.job_id)
            return None
        job = before.leased(session.worker.holder, await tx.now())
        await tx.jobs.save(before, job)
        attempt = before.current.attempt + 1
        lease = await tx.queue.lease(job, session=session.epoch, attempt=attempt, acknowledged=False)
        return Grant(lease, job, self._token(job))

    def _hand_over(self, session: Session, grant: Grant) -> None:
        ref = grant.lease.ref
        self._serving += 1
        self._served[grant.job.owner] = self._serving
        session.held[ref.job_id] = ref
        session.unacknowledged.add(ref)
        self._relay.began(grant.job)
        session.send(grant)
        self._signals.job_changed(grant.job)
        log.info("job_leased", job_id=ref.job_id, stage=ref.stage, fence=ref.fence, holder=session.worker.holder)

    def _token(self, job: Job) -> str:
        references = tuple(
            ReferenceGrant(
                bucket=reference.bucket,
                key=reference.key,
                generation=reference.generation,
                asset_id=reference.asset_id,
            )
            for reference in job.references
        )
        return self._capabilities.sign_lease(
            LeaseClaims(
                job_id=job.job_id,
                stage=job.stage,
                fence=job.fence,
                owner=job.owner,
                max_outputs=len(job.outputs),
                max_bytes=self._rules.max_output_bytes,
                formats=(job.settings.format.value,) if job.settings.format else (),
                references=references,
                expires_at=job.deadline_at + self._rules.ttl,
            )
        )

    # --- what workers say about their leases ------------------------------------------------------------------------

    async def acknowledge(self, session: Session, ref: LeaseRef) -> None:
        """Note that a worker has started a stage: from now on the attempt counts."""
        async with self._storage.write() as tx:
            lease = await tx.queue.get_lease(ref.job_id)
            if lease is None or lease.acknowledged or not await tx.queue.acknowledge(ref, session.epoch):
                return
            job = await tx.jobs.get(ref.job_id)
            if job is not None and job.ref == ref:
                await tx.jobs.save(job, job.acknowledged(lease.attempt))

    async def reject(self, session: Session, ref: LeaseRef, reason: str) -> None:
        """Take a lease back that a worker has not started. It burns no attempt."""
        log.info("lease_rejected", job_id=ref.job_id, holder=session.worker.holder, reason=reason)
        self._sessions.forget_lease(ref)
        async with self._storage.write() as tx:
            lease = await tx.queue.get_lease(ref.job_id)
            if lease is None or lease.ref != ref or lease.session != session.epoch:
                return
            job = await self._take_back(tx, lease)
        self._after_take_back(job)

    async def renew(self, session: Session, refs: Sequence[LeaseRef]) -> tuple[list[LeaseRef], list[LeaseRef]]:
        """Renew the leases that a heartbeat names. Returns those whose job was cancelled, and those that are lost."""
        cancelled: list[LeaseRef] = []
        lost: list[LeaseRef] = []
        async with self._storage.write() as tx:
            await tx.registry.worker_seen(session.epoch)
            renewed = await tx.queue.renew(refs, session.epoch)
            for ref in refs:
                if ref not in renewed:
                    job = await tx.jobs.get(ref.job_id)
                    is_cancelled = job is not None and job.state is JobState.CANCELLED
                    (cancelled if is_cancelled else lost).append(ref)
        return cancelled, lost

    async def keep(self, session: Session, refs: Sequence[LeaseRef]) -> tuple[list[LeaseRef], list[LeaseRef]]:
        """Give a worker that has come back the leases that it still holds. Returns what it keeps, and what it has lost.

        Leases of the same worker that it does not name went down with its last process: they wait again at once.
        """
        kept: dict[LeaseRef, Job] = {}
        async with self._storage.write() as tx:
            for ref in refs:
                job = await self._keep_one(tx, session, ref)
                if job is not None:
                    kept[ref] = job
            dropped = [
                await self._take_back(tx, lease)
                for lease in await tx.queue.find_held(session.worker.holder)
                if lease.ref not in kept
            ]
        for ref, job in kept.items():
            session.held[ref.job_id] = ref
            self._relay.began(job)
            self._signals.job_changed(job)
        for taken_back in dropped:
            self._after_take_back(taken_back)
        return list(kept), [ref for ref in refs if ref not in kept]

    async def _keep_one(self, tx: Transaction, session: Session, ref: LeaseRef) -> Job | None:
        """Give one lease back. Returns the job, None when the lease is lost."""
        job = await tx.jobs.get(ref.job_id)
        if job is None or not job.accepts(ref, session.worker.holder):
            return None
        if job.state is JobState.QUEUED:
            kept = job.kept(await tx.now())
            await tx.jobs.save(job, kept)
            await tx.queue.lease(kept, session=session.epoch, attempt=max(job.current.attempt, 1), acknowledged=True)
            return kept
        return job if await tx.queue.adopt(ref, session.epoch) else None

    # --- taking back ------------------------------------------------------------------------------------------------

    async def take_back_expired(self, *, ack_timeout: timedelta, limit: int = 200) -> int:
        """Let stages wait again whose worker was not heard of in time. Returns how many."""
        async with self._storage.write() as tx:
            expired = await tx.queue.find_expired(lease_ttl=self._rules.ttl, ack_timeout=ack_timeout, limit=limit)
            jobs = [(lease, await self._take_back(tx, lease)) for lease in expired]
        for lease, job in jobs:
            log.warning("lease_lost", job_id=lease.ref.job_id, holder=lease.holder, acknowledged=lease.acknowledged)
            self._signals.lease_ended(lease.ref, cancelled=False)
            self._after_take_back(job)
        return len(jobs)

    async def _take_back(self, tx: Transaction, lease: Lease) -> Job | None:
        """End a lease without an outcome. The fence stays: its holder may still record until somebody else has it."""
        await tx.queue.end_lease(lease.ref.job_id)
        before = await tx.jobs.get(lease.ref.job_id)
        if before is None or before.state is not JobState.RUNNING or before.ref != lease.ref:
            return None
        spent = self._spent(before)
        if spent is not None:
            job = before.failed(spent, await tx.now())
            await tx.jobs.save(before, job)
            await tx.ledger.send(OutboxKind.SETTLE, job.job_id)
            return job
        job = before.requeued()
        await tx.jobs.save(before, job)
        await tx.queue.enter(job, confirmed=True)
        return job

    def _spent(self, job: Job) -> Failure | None:
        if job.current.attempt >= self._rules.max_attempts:
            message = f"The worker was lost in each of {job.current.attempt} attempts."
            return Failure(ErrorReason.ATTEMPTS_EXHAUSTED, message)
        if job.leases >= self._rules.max_leases:
            return Failure(ErrorReason.ATTEMPTS_EXHAUSTED, f"The job was leased {job.leases} times without an outcome.")
        return None

    def _after_take_back(self, job: Job | None) -> None:
        if job is None:
            return
        self._relay.ended(job.job_id)
        self._signals.job_changed(job)
        self._signals.queue_changed()
        self._signals.outbox_changed()

    # --- ending -----------------------------------------------------------------------------------------------------

    async def cancel(self, job_id: str, owner: Owner) -> Job:
        """Cancel a job that waits or runs; one that has ended is returned as it is. The worker is told at once.

        Raises:
            NotFound: no such job, or somebody else owns it.
            FailedPrecondition: its last outcome is recorded; it is too late.
        """
        async with self._storage.write() as tx:
            before = await tx.jobs.get_owned(job_id, owner, lock=True)
            if before.state in FINAL:
                return before
            if before.state is JobState.PUBLISHING:
                message = f"The job {job_id} is done and its assets are being published: it is too late to cancel it."
                raise FailedPrecondition(message, ErrorReason.TOO_LATE)
            job = await self._end(tx, before, before.cancelled(await tx.now()))
        crash.reach("router.cancel.committed")
        self._after_end(before, job)
        return job

    async def fail_overdue(self, *, limit: int = 200) -> int:
        """Fail the jobs whose deadline has passed. Returns how many."""
        ended = []
        async with self._storage.write() as tx:
            for job_id in await tx.queue.find_overdue(limit=limit):
                before = await tx.jobs.get(job_id)
                if before is None or before.state not in (JobState.QUEUED, JobState.RUNNING):
                    continue
                allowed = before.deadline_at - before.created_at
                failure = Failure(
                    ErrorReason.JOB_DEADLINE_EXCEEDED,
                    f"The job did not end within {allowed.total_seconds():.0f} seconds.",
                )
                ended.append((before, await self._end(tx, before, before.failed(failure, await tx.now()))))
        for before, job in ended:
            log.warning("job_overdue", job_id=job.job_id)
            self._after_end(before, job)
        return len(ended)

    async def _end(self, tx: Transaction, before: Job, after: Job) -> Job:
        await tx.jobs.save(before, after)
        await tx.queue.leave(before.job_id)
        await tx.queue.end_lease(before.job_id)
        await tx.ledger.sent(OutboxKind.CONFIRM, before.job_id)
        await tx.ledger.send(OutboxKind.SETTLE, before.job_id)
        return after

    def _after_end(self, before: Job, after: Job) -> None:
        self._signals.lease_ended(before.ref, cancelled=True)
        self._relay.ended(after.job_id)
        self._signals.job_changed(after)
        self._signals.queue_changed()
        self._signals.outbox_changed()


def _best_session(takers: Sequence[Session], free: Mapping[str, int], candidate: Candidate) -> Session | None:
    """Return the session with the most free slots that takes the stage, or None."""
    fitting: dict[int, list[Session]] = defaultdict(list)
    for session in takers:
        if free[session.epoch] > 0 and session.worker.takes(candidate.worker_type, candidate.model):
            fitting[free[session.epoch]].append(session)
    return fitting[max(fitting)][0] if fitting else None
