"""Records outcomes.

One transaction stores the outcome, ends the lease, moves the job, and puts the settlement into the outbox: from then on
nothing else decides how the job ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from router_service.acknowledgements import Acknowledgements
from router_service.chat_domain import ChatReply, FinishReason, TokenUsage
from router_service.claimed import Claimed
from router_service.domain import (
    Failure,
    Job,
    JobState,
    Lease,
    LeaseRef,
    Output,
    OutputState,
    StageKind,
    Warning_,
)
from router_service.enhancement_domain import EnhancedBy
from router_service.relay import Relay
from router_service.sessions import Sessions
from router_service.signals import Signals
from router_service.storage import Storage, Transaction
from router_service.storage.queue import Waiting
from service_kit import crash
from service_kit.batching import Batcher
from service_kit.capabilities import Capabilities
from service_kit.errors import AtelierError, ErrorReason
from service_kit.telemetry import get_logger

log = get_logger(__name__)

RECORDED, DUPLICATE, STALE, FENCED = "recorded", "duplicate", "stale", "fenced"
NOT_AGAIN = "Its text was being read already, so it is not tried again."
_LONGEST_ENHANCEMENT = 32_000
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
    finish_reason: FinishReason | None = None
    usage: TokenUsage | None = None
    enhanced_by: EnhancedBy | None = None


@dataclass(frozen=True, slots=True)
class RetryRules:
    """How often a stage is started and leased, and how long it waits before its second attempt; doubled each time."""

    max_attempts: int
    max_leases: int
    backoff: timedelta


@dataclass(frozen=True, slots=True)
class _Taken:
    """An outcome that counts, and what it makes of the job. `pause` is how long it waits if it waits."""

    before: Job
    after: Job
    outcome: Outcome
    pause: timedelta


_Report = tuple[Outcome, str, str]


class Recording:
    """Takes outcomes of workers."""

    def __init__(
        self,
        storage: Storage,
        sessions: Sessions,
        relay: Relay,
        signals: Signals,
        acknowledgements: Acknowledgements,
        capabilities: Capabilities,
        rules: RetryRules,
        claimed: Claimed,
    ) -> None:
        self._storage = storage
        self._sessions = sessions
        self._relay = relay
        self._signals = signals
        self._acknowledgements = acknowledgements
        self._capabilities = capabilities
        self._rules = rules
        self._claimed = claimed
        self._outcomes: Batcher[_Report, str] = Batcher("router.record", self._record_all, turn=storage.batch_turn)

    async def close(self) -> None:
        """Let what runs end."""
        await self._outcomes.close()

    async def record(self, outcome: Outcome, *, holder: str, session: str) -> str:
        """Record an outcome, once.

        Returns:
            `recorded`, `duplicate` for a repeat, `stale` when the lease was no longer the holder's, or `fenced` when it
            is, but under another session, in which the worker says it again.
        """
        return await self._outcomes.submit((outcome, holder, session))

    async def _record_all(self, reports: Sequence[_Report]) -> list[str]:
        statuses: list[str] = []
        taken: list[_Taken] = []
        claim_for = self._claimed.claim_for(len(reports))
        async with self._storage.write() as tx:
            job_ids = sorted({outcome.ref.job_id for outcome, _, _ in reports})
            jobs = await tx.jobs.lock(job_ids)
            # Only now, under the locks: a repeat may have been recorded by another replica a moment ago.
            known = await tx.ledger.find_outcomes(_may_repeat(jobs, reports))
            held = await tx.leases.lock(job_ids)
            now = await tx.now()
            for outcome, holder, session in reports:
                this = (outcome.ref.job_id, outcome.ref.stage, outcome.completion_id)
                before = jobs.get(outcome.ref.job_id)
                if this in known:
                    statuses.append(DUPLICATE)
                elif before is None or not before.accepts(outcome.ref, holder):
                    log.info("outcome_stale", job_id=outcome.ref.job_id, fence=outcome.ref.fence, holder=holder)
                    statuses.append(STALE)
                elif _is_elsewhere(held.get(outcome.ref.job_id), outcome.ref, session):
                    statuses.append(FENCED)
                else:
                    after, pause = self._next(self._heard(before, session), outcome, now)
                    taken.append(_Taken(before, after, outcome, pause))
                    jobs[before.job_id] = after
                    known.add(this)
                    statuses.append(RECORDED)
            await _write(tx, taken, now, claim_for=claim_for)
            crash.reach("router.record.before_commit")
        crash.reach("router.record.committed")
        self._after(taken)
        settling = [after for after in _over(taken) if after.needs_settling]
        if settling and claim_for:
            self._claimed.put(settling)
        elif settling:
            self._signals.outbox_changed()
        return statuses

    def _after(self, taken: Sequence[_Taken]) -> None:
        for record in taken:
            job = record.after
            log.debug("outcome_recorded", job_id=job.job_id, state=job.state.value, fence=record.outcome.ref.fence)
            self._acknowledgements.forget(record.outcome.ref)
            self._sessions.forget_lease(record.outcome.ref)
            self._relay.ended(job.job_id)
            self._signals.job_changed(job)
        if any(record.after.state is JobState.QUEUED for record in taken):
            self._signals.queue_changed()

    def _heard(self, job: Job, session: str) -> Job:
        """Return a job whose outcome has come, as what was heard of its stage makes it."""
        # An outcome proves that the stage began, even if its lease was taken back before that was known.
        begun = job.begun()
        return replace(begun, told=False) if self._relay.has_told_nothing(job.ref, session) else begun

    def _next(self, job: Job, outcome: Outcome, now: datetime) -> tuple[Job, timedelta]:
        """Return the job after the outcome, and how long it waits if it waits."""
        warnings = [Warning_("engine", text[:1000]) for text in outcome.warnings[:_MOST_WARNINGS]]
        if outcome.stopped:
            return self._stopped(job, now), timedelta(0)
        if outcome.text is not None and job.current.kind is StageKind.ENHANCE and outcome.text.strip():
            by = replace(outcome.enhanced_by or EnhancedBy(), engine=outcome.engine)
            return job.enhanced(outcome.text[:_LONGEST_ENHANCEMENT], by, warnings, now), timedelta(0)
        if outcome.text is not None and job.current.kind is StageKind.CHAT and (outcome.text or outcome.finish_reason):
            reply = ChatReply(outcome.text, outcome.finish_reason, outcome.usage)
            return job.replied(reply, warnings, outcome.engine, now), timedelta(0)
        if outcome.outputs is not None and job.current.kind is StageKind.GENERATE:
            outputs = {output.asset_index: output for output in self._checked(job, outcome)}
            if any(output.state is OutputState.DELIVERED for output in outputs.values()):
                return job.recorded(outputs, warnings, outcome.engine, now), timedelta(0)
            failures = [output.failure for output in outputs.values() if output.failure is not None]
            failure = failures[0] if failures else _nothing_came()
            return self._failed(job, failure, retryable=True, now=now)
        failure = outcome.failure or _nothing_came()
        return self._failed(job, failure, retryable=outcome.retryable or outcome.failure is None, now=now)

    def _stopped(self, job: Job, now: datetime) -> Job:
        if job.told:
            return job.stage_failed(Failure(ErrorReason.ATTEMPTS_EXHAUSTED, f"The worker stopped. {NOT_AGAIN}"), now)
        if job.leases >= self._rules.max_leases:
            message = f"The job was leased {job.leases} times, and no worker brought it to an end."
            return job.stage_failed(Failure(ErrorReason.ATTEMPTS_EXHAUSTED, message), now)
        return job.stopped()

    def _failed(self, job: Job, failure: Failure, *, retryable: bool, now: datetime) -> tuple[Job, timedelta]:
        attempt = job.current.attempt
        if not retryable:
            return job.stage_failed(failure, now), timedelta(0)
        if job.told:
            return job.stage_failed(replace(failure, message=f"{failure.message} {NOT_AGAIN}"), now), timedelta(0)
        if attempt < self._rules.max_attempts and job.leases < self._rules.max_leases:
            backoff: timedelta = self._rules.backoff * 2 ** max(attempt - 1, 0)
            return job.retried(), min(backoff, _LONGEST_BACKOFF)
        message = f"{failure.message} It failed in each of {attempt} attempts."
        if attempt < self._rules.max_attempts:
            message = f"{failure.message} The job was leased {job.leases} times."
        return job.stage_failed(replace(failure, message=message), now), timedelta(0)

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


async def _write(tx: Transaction, taken: Sequence[_Taken], now: datetime, *, claim_for: timedelta) -> None:
    """Store outcomes, end their leases, move their jobs, and put settlements into the outbox, claimed or due."""
    if not taken:
        return
    job_ids = [record.after.job_id for record in taken]
    await tx.jobs.save([(record.before, record.after) for record in taken])
    # One that was lost waits; its holder was heard in time after all.
    await tx.queue.leave([record.before.job_id for record in taken if record.before.state is JobState.QUEUED])
    waiting = [Waiting(record.after, record.pause) for record in taken if record.after.state is JobState.QUEUED]
    await tx.queue.enter(waiting, now)
    await tx.leases.end(job_ids)
    await tx.ledger.add_outcomes(
        [(record.outcome.ref, record.outcome.completion_id, record.outcome.payload) for record in taken], now
    )
    await tx.ledger.settle(_over(taken), now, claim_for=claim_for)


def _over(taken: Sequence[_Taken]) -> list[Job]:
    """Return the jobs that wait for no other stage or attempt."""
    return [record.after for record in taken if record.after.state is not JobState.QUEUED]


def _is_elsewhere(lease: Lease | None, ref: LeaseRef, session: str) -> bool:
    """Tell whether a lease runs under another session. One that was taken back is under none: its holder may record."""
    return lease is not None and lease.ref == ref and lease.session != session


def _may_repeat(jobs: Mapping[str, Job], reports: Sequence[_Report]) -> list[str]:
    """Return the jobs of which an outcome may be recorded already; a first lease that still counts has none."""
    return [
        outcome.ref.job_id
        for outcome, holder, _ in reports
        if (job := jobs.get(outcome.ref.job_id)) is None or job.leases > 1 or not job.accepts(outcome.ref, holder)
    ]


def _nothing_came() -> Failure:
    return Failure(ErrorReason.ENGINE_FAILED, "The worker ended the stage without any result.")
