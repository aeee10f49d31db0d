"""Ends jobs before their outcome: because their owner asks, or because their deadline has passed."""

from __future__ import annotations

from collections.abc import Sequence

from router_service.domain import FINAL, OPEN, Failure, Job, JobState
from router_service.relay import Relay
from router_service.signals import Signals
from router_service.storage import Storage, Transaction
from router_service.storage.ledger import OutboxKind
from service_kit import crash
from service_kit.errors import ErrorReason, FailedPrecondition, NotFound
from service_kit.identity import Owner
from service_kit.telemetry import get_logger

log = get_logger(__name__)


class Ending:
    """Cancels jobs, and fails those that are overdue."""

    def __init__(self, storage: Storage, relay: Relay, signals: Signals) -> None:
        self._storage = storage
        self._relay = relay
        self._signals = signals

    async def cancel(self, job_id: str, owner: Owner) -> Job:
        """Cancel a job that waits or runs; one that has ended is returned as it is. The worker is told at once.

        Raises:
            NotFound: no such job, or somebody else owns it.
            FailedPrecondition: its last outcome is recorded; it is too late.
        """
        async with self._storage.write() as tx:
            before = (await tx.jobs.lock([job_id])).get(job_id)
            if before is None or before.owner != owner:
                raise NotFound.of("job", job_id)
            if before.state in FINAL:
                return before
            if before.state is JobState.PUBLISHING:
                message = f"The job {job_id} is done and its assets are being published: it is too late to cancel it."
                raise FailedPrecondition(message, ErrorReason.TOO_LATE)
            job = before.cancelled(await tx.now())
            await _end(tx, [(before, job)])
            crash.reach("router.cancel.before_commit")
        crash.reach("router.cancel.committed")
        self._after_end([(before, job)])
        return job

    async def delete(self, job_id: str, owner: Owner) -> None:
        """Remove a job that has ended. That it was submitted stays known, as it does when old jobs are removed.

        Raises:
            NotFound: no such job, or somebody else owns it.
            FailedPrecondition: it has not ended, or the asset service does not know yet that it has.
        """
        async with self._storage.write() as tx:
            job = (await tx.jobs.lock([job_id])).get(job_id)
            if job is None or job.owner != owner:
                raise NotFound.of("job", job_id)
            if job.state not in FINAL:
                raise FailedPrecondition(f"The job {job_id} is {job.state} and has not ended: cancel it, or wait.")
            if not await tx.jobs.remove(job_id):
                raise FailedPrecondition(f"The workspace is not told yet that the job {job_id} has ended: repeat.")
            # Those that are pending are still sent.
            await tx.deliveries.remove_finished_of(job_id)

    async def fail_overdue(self, *, limit: int = 200) -> int:
        """Fail the jobs whose deadline has passed. Returns how many. Any replica may do it."""
        async with self._storage.read() as tx:
            overdue = await tx.queue.find_overdue(limit=limit)
        if not overdue:
            return 0
        async with self._storage.write() as tx:
            jobs = await tx.jobs.lock(overdue, skip_locked=True)
            now = await tx.now()
            ended = [
                (before, before.failed(_overdue(before), now))
                for before in jobs.values()
                if before.state in OPEN and before.deadline_at < now
            ]
            await _end(tx, ended)
            crash.reach("router.overdue.before_commit")
        crash.reach("router.overdue.committed")
        for _, job in ended:
            log.warning("job_overdue", job_id=job.job_id)
        self._after_end(ended)
        return len(ended)

    def _after_end(self, ended: Sequence[tuple[Job, Job]]) -> None:
        for before, after in ended:
            self._signals.lease_ended(before.ref, cancelled=True)
            self._relay.ended(after.job_id)
            self._signals.job_changed(after)
        if ended:
            self._signals.queue_changed()
            self._signals.outbox_changed()


def _overdue(job: Job) -> Failure:
    allowed = job.deadline_at - job.created_at
    message = f"The job did not end within {allowed.total_seconds():.0f} seconds."
    return Failure(ErrorReason.JOB_DEADLINE_EXCEEDED, message)


async def _end(tx: Transaction, ended: Sequence[tuple[Job, Job]]) -> None:
    """Write the ends of jobs that are locked: nothing of them waits or runs any more, and the asset service is told."""
    if not ended:
        return
    job_ids = sorted(after.job_id for _, after in ended)
    await tx.jobs.save(ended)
    await tx.queue.leave(job_ids)
    await tx.leases.lock(job_ids)
    await tx.leases.end(job_ids)
    await tx.ledger.sent(OutboxKind.CONFIRM, job_ids)
    await tx.ledger.settle([after for _, after in ended], await tx.now())
