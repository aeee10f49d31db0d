"""Records outcomes.

One transaction stores the outcome, ends the lease, moves the job, and puts the settlement into the outbox: from then on
nothing else decides how the job ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from router_service.domain import (
    Failure,
    Job,
    JobState,
    LeaseRef,
    Output,
    OutputState,
    StageKind,
    Warning_,
)
from router_service.relay import Relay
from router_service.sessions import Sessions
from router_service.signals import Signals
from router_service.storage import Storage, Transaction
from router_service.storage.ledger import OutboxKind
from service_kit import crash
from service_kit.capabilities import Capabilities
from service_kit.errors import AtelierError, ErrorReason
from service_kit.telemetry import get_logger

log = get_logger(__name__)

RECORDED, DUPLICATE, STALE = "recorded", "duplicate", "stale"
_LONGEST_TEXT = 32_000
_MOST_WARNINGS = 20
_LONGEST_BACKOFF = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class OutputReport:
    """What a worker says of one output: a receipt of the asset service, or why there is none."""

    asset_index: int
    receipt: str
    failure: Failure | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a worker says of a stage: one of outputs, text, failure and `stopped`.

    `payload` is the message as it came.
    """

    ref: LeaseRef
    completion_id: str
    outputs: tuple[OutputReport, ...] | None
    text: str | None
    failure: Failure | None
    retryable: bool
    stopped: bool
    warnings: tuple[str, ...]
    engine: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class RetryRules:
    """How often a stage is started, and how long it waits before its second attempt; doubled for each further one."""

    max_attempts: int
    backoff: timedelta


class Recording:
    """Takes outcomes of workers."""

    def __init__(
        self,
        storage: Storage,
        sessions: Sessions,
        relay: Relay,
        signals: Signals,
        capabilities: Capabilities,
        rules: RetryRules,
    ) -> None:
        self._storage = storage
        self._sessions = sessions
        self._relay = relay
        self._signals = signals
        self._capabilities = capabilities
        self._rules = rules

    async def record(self, outcome: Outcome, *, holder: str) -> str:
        """Record an outcome, once.

        Returns:
            `recorded`, `duplicate` for a repeat, or `stale` when the lease was no longer the holder's.
        """
        async with self._storage.write() as tx:
            if await tx.ledger.has_outcome(outcome.ref, outcome.completion_id):
                return DUPLICATE
            before = await tx.jobs.get(outcome.ref.job_id)
            if before is None or not before.accepts(outcome.ref, holder):
                log.info("outcome_stale", job_id=outcome.ref.job_id, fence=outcome.ref.fence, holder=holder)
                return STALE
            job = await self._apply(tx, before, outcome)
            crash.reach("router.record.before_commit")
        crash.reach("router.record.committed")
        log.info("outcome_recorded", job_id=job.job_id, state=job.state.value, fence=outcome.ref.fence)
        self._sessions.forget_lease(outcome.ref)
        self._relay.ended(job.job_id)
        self._signals.job_changed(job)
        self._signals.queue_changed()
        self._signals.outbox_changed()
        return RECORDED

    async def _apply(self, tx: Transaction, before: Job, outcome: Outcome) -> Job:
        # A lost ack must not make the start free: an outcome proves that the stage ran.
        lease = await tx.queue.get_lease(before.job_id)
        started = before if lease is None else before.acknowledged(max(before.current.attempt, lease.attempt))
        await tx.queue.end_lease(before.job_id)
        await tx.queue.leave(before.job_id)
        await tx.ledger.add_outcome(outcome.ref, outcome.completion_id, outcome.payload)
        job, delay = await self._next(tx, started, outcome)
        await tx.jobs.save(before, job)
        if job.state is JobState.QUEUED:
            await tx.queue.enter(job, confirmed=True, delay=delay)
        else:
            await tx.ledger.send(OutboxKind.SETTLE, job.job_id)
        return job

    async def _next(self, tx: Transaction, job: Job, outcome: Outcome) -> tuple[Job, timedelta]:
        """Return the job after the outcome, and how long it waits if it waits."""
        now = await tx.now()
        warnings = [Warning_("engine", text[:1000]) for text in outcome.warnings[:_MOST_WARNINGS]]
        if outcome.stopped:
            return job.retried(), timedelta(0)
        if outcome.text is not None and job.current.kind is StageKind.ENHANCE and outcome.text.strip():
            return job.enhanced(outcome.text[:_LONGEST_TEXT], warnings, outcome.engine, now), timedelta(0)
        if outcome.outputs is not None and job.current.kind is StageKind.GENERATE:
            outputs = {output.asset_index: output for output in self._checked(job, outcome)}
            if any(output.state is OutputState.DELIVERED for output in outputs.values()):
                return job.recorded(outputs, warnings, outcome.engine, now), timedelta(0)
            failures = [output.failure for output in outputs.values() if output.failure is not None]
            failure = failures[0] if failures else _nothing_came()
            return self._failed(job, failure, retryable=True, now=now)
        failure = outcome.failure or _nothing_came()
        return self._failed(job, failure, retryable=outcome.retryable or outcome.failure is None, now=now)

    def _failed(self, job: Job, failure: Failure, *, retryable: bool, now: datetime) -> tuple[Job, timedelta]:
        attempt = job.current.attempt
        if retryable and attempt < self._rules.max_attempts:
            backoff: timedelta = self._rules.backoff * 2 ** max(attempt - 1, 0)
            return job.retried(), min(backoff, _LONGEST_BACKOFF)
        if retryable:
            failure = replace(failure, message=f"{failure.message} It failed in each of {attempt} attempts.")
        has_next = job.stage + 1 < len(job.stages)
        if has_next and job.current.kind is StageKind.ENHANCE and job.warn_on_enhancement_failure:
            return job.enhancement_skipped(failure, now), timedelta(0)
        return job.failed(failure, now), timedelta(0)

    def _checked(self, job: Job, outcome: Outcome) -> Sequence[Output]:
        """Return the outputs of an outcome; one without a valid receipt has failed at its index."""
        declared = range(len(job.outputs))
        outputs = []
        for report in outcome.outputs or ():
            if report.asset_index not in declared:
                log.warning("output_undeclared", job_id=job.job_id, asset_index=report.asset_index)
                continue
            failure = report.failure or self._receipt_problem(job, report)
            state = OutputState.DELIVERED if failure is None else OutputState.FAILED
            outputs.append(Output(report.asset_index, state, failure, "" if failure else report.receipt))
        return outputs

    def _receipt_problem(self, job: Job, report: OutputReport) -> Failure | None:
        try:
            receipt = self._capabilities.verify_receipt(report.receipt)
        except AtelierError:
            return Failure(ErrorReason.OUTPUT_LOST, "The worker reported this output without a valid receipt.")
        said = (receipt.job_id, receipt.stage, receipt.fence, receipt.asset_index)
        if said != (job.job_id, job.stage, job.fence, report.asset_index):
            return Failure(ErrorReason.OUTPUT_LOST, "The worker reported this output with the receipt of another.")
        return None


def _nothing_came() -> Failure:
    return Failure(ErrorReason.ENGINE_FAILED, "The worker ended the stage without any result.")
