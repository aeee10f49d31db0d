"""Job, stage, output and lease: their states and the legal transitions between them. No I/O.

A transition takes a job and returns the job after it, with `version` one higher; storage writes it only if the row
still is the job before. The fence grows at every lease, at every recorded outcome and when the job ends, not when a
lease is lost: until somebody else leases the stage, the old holder may still record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from router_service.chat_domain import Chat, ChatReply
from router_service.enhancement_domain import EnhancedBy
from router_service.generation_domain import GenerationSettings, Reference
from router_service.pool_domain import PoolKind, pool_name
from router_service.webhook_domain import Webhook
from service_kit.errors import ErrorReason
from service_kit.identity import Owner


class JobState(StrEnum):
    """The state of a job; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    PUBLISHING = "publishing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
OPEN = frozenset({JobState.QUEUED, JobState.RUNNING})


class StageKind(StrEnum):
    """What a stage does."""

    ENHANCE = "enhance"
    GENERATE = "generate"
    CHAT = "chat"


class StageState(StrEnum):
    """The state of one stage."""

    PENDING = "pending"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class OutputState(StrEnum):
    """The state of one declared output."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    WITHHELD = "withheld"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job, a stage or an output failed."""

    reason: ErrorReason
    message: str


@dataclass(frozen=True, slots=True)
class Warning_:
    """Something the caller should know although the request was accepted."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a job that runs in one pool. `steered`: it has settings or references that old workers do not know."""

    kind: StageKind
    worker_type: str
    state: StageState = StageState.PENDING
    attempt: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None
    steered: bool = False

    @property
    def pool(self) -> str:
        """Where it waits."""
        if self.kind is StageKind.CHAT:
            return pool_name(self.worker_type, PoolKind.CHAT)
        return pool_name(self.worker_type, PoolKind.STEERED if self.steered else PoolKind.PLAIN)


@dataclass(frozen=True, slots=True)
class Output:
    """One declared output; `receipt` is the asset service's, once the outcome is recorded."""

    asset_index: int
    state: OutputState = OutputState.PENDING
    failure: Failure | None = None
    receipt: str = ""


@dataclass(frozen=True, slots=True)
class LeaseRef:
    """Names one lease: a stage of a job, and the fence under which it was given."""

    job_id: str
    stage: int
    fence: int


@dataclass(frozen=True, slots=True)
class Lease:
    """A running stage: who holds it, since when, and whether it said so. `attempt` counts this start."""

    ref: LeaseRef
    holder: str
    session: str
    attempt: int
    acknowledged: bool


@dataclass(frozen=True, slots=True)
class Job:
    """One accepted request.

    `leases` counts those of the current stage; `start_is_uncounted`: the last was taken back before its worker began;
    `told`: its text may be with somebody who cannot take it back, so it is not tried again. `key_id`: the key that it
    was submitted with, for a session the one that this comes from.
    """

    job_id: str
    owner: Owner
    prompt: str
    negative_prompt: str
    settings: GenerationSettings
    enhancement_only: bool
    warn_on_enhancement_failure: bool
    references: tuple[Reference, ...]
    priority: int
    created_at: datetime
    deadline_at: datetime
    stages: tuple[Stage, ...]
    outputs: tuple[Output, ...]
    warnings: tuple[Warning_, ...] = ()
    state: JobState = JobState.QUEUED
    version: int = 1
    fence: int = 0
    stage: int = 0
    leases: int = 0
    tier: int = 0
    start_is_uncounted: bool = False
    cannot_restart: bool = False
    told: bool = False
    holder: str = ""
    enhanced_prompt: str = ""
    enhanced_by: EnhancedBy | None = None
    chat: Chat | None = None
    reply: ChatReply | None = None
    annotations: tuple[tuple[str, str], ...] = ()
    engine: str = ""
    failure: Failure | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    webhook: Webhook | None = None
    key_id: str = ""

    @property
    def current(self) -> Stage:
        """The stage that waits, runs, or was the last to do so."""
        return self.stages[self.stage]

    @property
    def runs_model(self) -> str:
        """The model that the current stage runs; empty for an enhancement, which only is for the model of the job."""
        return "" if self.current.kind is StageKind.ENHANCE else self.settings.model

    @property
    def delivered(self) -> int:
        """How many outputs were delivered."""
        return sum(output.state is OutputState.DELIVERED for output in self.outputs)

    @property
    def needs_settling(self) -> bool:
        """Whether the asset service may have anything of it: outputs, which its leases may upload, or held references.

        Of any other job there is nothing to settle.
        """
        return bool(self.outputs or self.references)

    @property
    def ref(self) -> LeaseRef:
        """The lease under which the current stage was last given away."""
        return LeaseRef(self.job_id, self.stage, self.fence)

    def accepts(self, ref: LeaseRef, holder: str) -> bool:
        """Tell whether a report of this holder under this lease still counts."""
        return self.state in OPEN and ref == self.ref and holder == self.holder

    # --- transitions ------------------------------------------------------------------------------------------------

    def leased(self, holder: str, now: datetime) -> Job:
        """Give the waiting stage to a worker: a new fence, and one attempt more.

        Text that nobody can take back is noted as told at once: it goes out as it comes (`FirstWords`).
        """
        stage = replace(self.current, state=StageState.RUNNING, started_at=now, attempt=self.current.attempt + 1)
        return self._with(
            state=JobState.RUNNING,
            fence=self.fence + 1,
            leases=self.leases + 1,
            start_is_uncounted=False,
            told=self.cannot_restart and stage.kind is not StageKind.GENERATE,
            holder=holder,
            started_at=self.started_at or now,
            stages=self._stages(stage),
        )

    def kept(self, now: datetime) -> Job:
        """Give the stage back to the holder that had lost it, before anybody else took it."""
        began = self.begun()
        stage = replace(began.current, state=StageState.RUNNING, started_at=began.current.started_at or now)
        return began._with(state=JobState.RUNNING, stages=self._stages(stage))

    def begun(self) -> Job:
        """Count the attempt after all: its worker proves that it began. The version stays."""
        if not self.start_is_uncounted:
            return self
        counted = replace(self.current, attempt=self.current.attempt + 1)
        return replace(self, start_is_uncounted=False, stages=self._stages(counted))

    def requeued(self, *, began: bool) -> Job:
        """Let the stage wait again after its lease was lost or handed back. The fence stays.

        If its worker had not said that it `began`, it was no attempt.
        """
        attempt = self.current.attempt if began else max(self.current.attempt - 1, 0)
        stage = replace(self.current, state=StageState.QUEUED, attempt=attempt)
        return self._with(state=JobState.QUEUED, start_is_uncounted=not began, stages=self._stages(stage))

    def retried(self) -> Job:
        """Let the stage wait again after an outcome that said it failed."""
        return replace(self.requeued(began=True), fence=self.fence + 1)

    def stopped(self) -> Job:
        """Let the stage wait again after its worker stopped it, as one that goes down does. It was no attempt."""
        return replace(self.requeued(began=False), start_is_uncounted=False, fence=self.fence + 1)

    def stage_failed(self, failure: Failure, now: datetime) -> Job:
        """End the job, or go on with its next stage if the request says so of an enhancement that fails."""
        has_next = self.stage + 1 < len(self.stages)
        if has_next and self.current.kind is StageKind.ENHANCE and self.warn_on_enhancement_failure:
            return self.enhancement_skipped(failure, now)
        return self.failed(failure, now)

    def enhanced(self, text: str, by: EnhancedBy, warnings: Sequence[Warning_], now: datetime) -> Job:
        """Record the text of the enhancement: the next stage waits, or the job is done."""
        told = (*self.warnings, *warnings)
        return self._stage_done(now, enhanced_prompt=text, enhanced_by=by, warnings=told, engine=by.engine)

    def replied(self, reply: ChatReply, warnings: Sequence[Warning_], engine: str, now: datetime) -> Job:
        """Record the next message of the conversation: the job is done."""
        return self._stage_done(now, reply=reply, warnings=(*self.warnings, *warnings), engine=engine)

    def enhancement_skipped(self, failure: Failure, now: datetime) -> Job:
        """Go on with the prompt as it was sent."""
        warning = Warning_("enhancement_failed", f"The prompt was not enhanced: {failure.message}")
        job = self._stage_done(now, warnings=(*self.warnings, warning))
        failed = replace(job.stages[self.stage], state=StageState.FAILED)
        return replace(job, stages=(*job.stages[: self.stage], failed, *job.stages[self.stage + 1 :]))

    def recorded(self, outputs: Mapping[int, Output], warnings: Sequence[Warning_], engine: str, now: datetime) -> Job:
        """Record the outputs of the last stage. The job waits for its assets to be published."""
        silent = Failure(ErrorReason.OUTPUT_LOST, "The worker did not report this output.")
        return self._with(
            state=JobState.PUBLISHING,
            fence=self.fence + 1,
            stages=self._stages(replace(self.current, state=StageState.DONE, finished_at=now)),
            outputs=tuple(
                outputs.get(output.asset_index) or replace(output, state=OutputState.FAILED, failure=silent)
                for output in self.outputs
            ),
            warnings=(*self.warnings, *warnings),
            engine=engine,
        )

    def refused(self, message: str, now: datetime) -> Job:
        """End a recorded job whose assets can never be published."""
        failure = Failure(ErrorReason.OUTPUT_LOST, f"The outputs could not be published: {message}")
        outputs = tuple(replace(output, state=OutputState.FAILED, failure=failure) for output in self.outputs)
        return self._with(state=JobState.FAILED, outputs=outputs, failure=failure, finished_at=now)

    def settled(self, lost: Sequence[int], now: datetime) -> Job:
        """End a recorded job whose assets are published, less those whose bytes were lost."""
        failure = Failure(ErrorReason.OUTPUT_LOST, "The bytes of this output were lost before it was published.")
        outputs = tuple(
            replace(output, state=OutputState.FAILED, failure=failure)
            if output.asset_index in lost and output.state is OutputState.DELIVERED
            else output
            for output in self.outputs
        )
        settled = replace(self, outputs=outputs)
        if settled.delivered:
            return settled._with(state=JobState.SUCCEEDED, finished_at=now)
        first = next((output.failure for output in outputs if output.failure), failure)
        return settled._with(state=JobState.FAILED, failure=first, finished_at=now)

    def failed(self, failure: Failure, now: datetime) -> Job:
        """End the job without outputs."""
        return self._ended(JobState.FAILED, failure, now)

    def cancelled(self, now: datetime) -> Job:
        """End the job because its owner asked."""
        return self._ended(JobState.CANCELLED, Failure(ErrorReason.CANCELLED, "The job was cancelled."), now)

    def _with(self, **changes: Any) -> Job:
        return replace(self, version=self.version + 1, **changes)

    def _stages(self, stage: Stage) -> tuple[Stage, ...]:
        return (*self.stages[: self.stage], stage, *self.stages[self.stage + 1 :])

    def _stage_done(self, now: datetime, **changes: Any) -> Job:
        done = self._stages(replace(self.current, state=StageState.DONE, finished_at=now))
        if self.stage + 1 == len(self.stages):
            return self._with(state=JobState.SUCCEEDED, fence=self.fence + 1, stages=done, finished_at=now, **changes)
        after = replace(done[self.stage + 1], state=StageState.QUEUED)
        changes |= {"stages": (*done[: self.stage + 1], after, *done[self.stage + 2 :]), "leases": 0, "told": False}
        return self._with(state=JobState.QUEUED, fence=self.fence + 1, stage=self.stage + 1, **changes)

    def _ended(self, state: JobState, failure: Failure, now: datetime) -> Job:
        return self._with(
            state=state,
            fence=self.fence + 1,
            failure=None if state is JobState.CANCELLED else failure,
            finished_at=now,
            stages=tuple(
                stage if stage.state is StageState.DONE else replace(stage, state=StageState.FAILED, finished_at=now)
                for stage in self.stages
            ),
            outputs=tuple(
                replace(output, state=OutputState.FAILED, failure=failure, receipt="") for output in self.outputs
            ),
        )
