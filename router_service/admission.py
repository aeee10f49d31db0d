"""Takes jobs in: validation, defaults, effective values, idempotency, and the hold on references."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from router_service.domain import (
    Format,
    GenerationSettings,
    Job,
    Output,
    Quality,
    Reference,
    Stage,
    StageKind,
    StageState,
    Warning_,
)
from router_service.models import FRAME_RATE, Route, RoutingTable, effective_size, effective_steps
from router_service.signals import Signals
from router_service.storage import Storage, Transaction
from router_service.storage.ledger import OutboxKind, Submission
from service_kit import crash
from service_kit.errors import Aborted, ErrorReason, InvalidArgument, NotFound
from service_kit.identity import Owner
from service_kit.ids import new_id

HOLD_TTL = timedelta(seconds=60)
RETRY_WINDOW = timedelta(minutes=10)
LARGEST_SEED = 2**53 - 1
_DEFAULT_SECONDS = 3.0
_RANDOM_SEEDS = 2**32


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks for. None means absent: zero is a value. `digest` names all of it but the idempotency key."""

    prompt: str
    negative_prompt: str
    model: str
    format: Format | None
    quantity: int | None
    seed: int | None
    quality: Quality | None
    aspect_ratio: str | None
    steps: int | None
    duration_seconds: float | None
    references: tuple[Reference, ...]
    enhancement_only: bool
    enhance_prompt: bool
    warn_on_enhancement_failure: bool
    priority: int
    idempotency_key: str | None
    digest: str


class References(Protocol):
    """What admission needs of the asset service."""

    async def take_hold(
        self, job_id: str, owner: Owner, references: Sequence[Reference], ttl: timedelta
    ) -> tuple[Reference, ...]:
        """Hold the references of a job and say where their bytes lie. Raises NotFound when one is not the owner's."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be done for a request: its effective values, before a job is made of it."""

    settings: GenerationSettings
    stages: tuple[Stage, ...]
    warnings: tuple[Warning_, ...]
    deadline: timedelta


class Admission:
    """Makes jobs of requests."""

    def __init__(self, storage: Storage, references: References, signals: Signals) -> None:
        self._storage = storage
        self._references = references
        self._signals = signals

    async def admit(self, request: Request, table: RoutingTable, owner: Owner, *, is_retry: bool = False) -> Job:
        """Accept a request as one job, or answer the job that it became before.

        Args:
            request: within its limits already.
            table: the routing table.
            owner: whose job it is.
            is_retry: the client says that it sent this before; an equal request of the last ten minutes is answered.

        Raises:
            InvalidArgument: a model, a format, or fields that contradict each other.
            NotFound: a reference that does not exist, or is somebody else's; names the field.
            Aborted: the idempotency key was used with another request.
        """
        plan = make_plan(request, table)
        if request.references:
            # A repeat must not take a hold; without references the look in the transaction below is enough.
            async with self._storage.read() as tx:
                known = await self._find_known(tx, request, owner, is_retry=is_retry)
            if known is not None:
                return known
        job_id = new_id()
        references = await self._hold(job_id, request.references, owner)
        async with self._storage.write() as tx:
            known = await self._find_known(tx, request, owner, is_retry=is_retry)
            if known is not None:
                return known
            job = make_job(job_id, request, plan, references, owner, await tx.now())
            await tx.jobs.add(job)
            await tx.queue.enter(job, confirmed=not references)
            await tx.ledger.add_submission(owner, request.idempotency_key, request.digest, job_id)
            if references:
                await tx.ledger.send(OutboxKind.CONFIRM, job_id)
        crash.reach("router.admit.committed")
        # The dispatcher first: watchers can wait, the worker should not.
        self._signals.queue_changed()
        self._signals.job_changed(job)
        if references:
            self._signals.outbox_changed()
        return job

    async def _find_known(self, tx: Transaction, request: Request, owner: Owner, *, is_retry: bool) -> Job | None:
        submission: Submission | None = None
        if request.idempotency_key:
            submission = await tx.ledger.find_submission(owner, request.idempotency_key)
        elif is_retry:
            submission = await tx.ledger.find_equal_submission(owner, request.digest, within=RETRY_WINDOW)
        if submission is None:
            return None
        if submission.digest != request.digest:
            raise Aborted(
                f"The idempotency key {request.idempotency_key!r} was used for another request: send a new key.",
                ErrorReason.IDEMPOTENCY_KEY_REUSED,
            )
        return await tx.jobs.get_owned(submission.job_id, owner)

    async def _hold(self, job_id: str, references: Sequence[Reference], owner: Owner) -> tuple[Reference, ...]:
        if not references:
            return ()
        try:
            return await self._references.take_hold(job_id, owner, references, HOLD_TTL)
        except NotFound as error:
            missing = [
                (index, reference.asset_id)
                for index, reference in enumerate(references)
                if reference.asset_id in error.message
            ]
            index, asset_id = missing[0] if missing else (0, references[0].asset_id)
            problem = InvalidArgument.field(f"reference_images[{index}].asset_id", f"there is no asset {asset_id!r}")
            raise NotFound(problem.message, ErrorReason.NOT_FOUND, fields=problem.fields) from error


def make_plan(request: Request, table: RoutingTable) -> Plan:
    """Work out the effective values of a request.

    Raises:
        InvalidArgument: names the field that cannot be.
    """
    route = table.route(request.model)
    if request.enhancement_only:
        return _enhancement_plan(request, route, table)
    form = _format_of(request, route)
    _check_generation(request, form)
    quantity = 1 if request.quantity is None else request.quantity
    if quantity > route.row.max_quantity:
        message = f"must be 1..{route.row.max_quantity} for the model {route.model}, got {quantity}"
        raise InvalidArgument.field("quantity", message, ErrorReason.OUT_OF_RANGE)
    quality = request.quality or Quality.STANDARD
    aspect_ratio = request.aspect_ratio or ("16:9" if form is Format.VIDEO else "1:1")
    width, height = effective_size(route.row, aspect_ratio, quality)
    seconds = _DEFAULT_SECONDS if request.duration_seconds is None else request.duration_seconds
    settings = GenerationSettings(
        worker_type=route.row.worker_type,
        model=route.model,
        format=form,
        seed=_seed(request, quantity),
        width=width,
        height=height,
        steps=effective_steps(route.row, quality) if request.steps is None else request.steps,
        quantity=quantity,
        quality=quality,
        aspect_ratio=aspect_ratio,
        frames=round(seconds * FRAME_RATE) if form is Format.VIDEO else 0,
        frame_rate=FRAME_RATE if form is Format.VIDEO else 0,
    )
    stages = [Stage(StageKind.GENERATE, route.row.worker_type)]
    deadline = route.row.deadline
    if request.enhance_prompt:
        enhancer = table.enhancer()
        stages.insert(0, Stage(StageKind.ENHANCE, enhancer.worker_type))
        deadline += enhancer.deadline
    stages[0] = replace(stages[0], state=StageState.QUEUED)
    return Plan(settings, tuple(stages), route.warnings, deadline)


def make_job(
    job_id: str, request: Request, plan: Plan, references: tuple[Reference, ...], owner: Owner, now: datetime
) -> Job:
    """Return the new job of a plan, waiting for its first stage."""
    outputs = 0 if request.enhancement_only else plan.settings.quantity
    return Job(
        job_id=job_id,
        owner=owner,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        settings=plan.settings,
        enhancement_only=request.enhancement_only,
        warn_on_enhancement_failure=request.warn_on_enhancement_failure,
        references=references,
        priority=request.priority,
        created_at=now,
        deadline_at=now + plan.deadline,
        stages=plan.stages,
        outputs=tuple(Output(index) for index in range(outputs)),
        warnings=plan.warnings,
    )


def _enhancement_plan(request: Request, route: Route, table: RoutingTable) -> Plan:
    meaningless = {
        "enhance_prompt": request.enhance_prompt,
        "quantity": request.quantity not in (None, 1),
        "quality": request.quality is not None,
        "aspect_ratio": request.aspect_ratio is not None,
        "steps": request.steps is not None,
        "duration_seconds": request.duration_seconds is not None,
        "reference_images": bool(request.references),
    }
    for field, is_sent in meaningless.items():
        if is_sent:
            message = "means nothing together with enhancement_only: leave it out"
            raise InvalidArgument.field(field, message, ErrorReason.CONFLICTING_FIELDS)
    enhancer = table.enhancer()
    settings = GenerationSettings(
        worker_type=enhancer.worker_type,
        model=route.model,
        format=request.format,
        seed=_seed(request, 1),
        width=0,
        height=0,
        steps=0,
        quantity=0,
        quality=Quality.STANDARD,
        aspect_ratio="",
        frames=0,
        frame_rate=0,
    )
    stage = Stage(StageKind.ENHANCE, enhancer.worker_type, StageState.QUEUED)
    return Plan(settings, (stage,), route.warnings, enhancer.deadline)


def _format_of(request: Request, route: Route) -> Format:
    if request.format is None:
        message = "is required: send image or video (or set enhancement_only)"
        raise InvalidArgument.field("format", message, ErrorReason.MISSING_FIELD)
    if request.format not in route.row.formats:
        made = " and ".join(form.value for form in route.row.formats)
        message = f"the model {route.model} makes {made}, not {request.format.value}: send another format or model"
        raise InvalidArgument.field("format", message, ErrorReason.CONFLICTING_FIELDS)
    return request.format


def _check_generation(request: Request, form: Format) -> None:
    if request.duration_seconds is not None and form is not Format.VIDEO:
        message = "is for videos only: leave it out for an image"
        raise InvalidArgument.field("duration_seconds", message, ErrorReason.CONFLICTING_FIELDS)
    kinds = [reference.kind for reference in request.references]
    for index, kind in enumerate(kinds):
        path = f"reference_images[{index}].kind"
        if kind == "first_frame" and form is not Format.VIDEO:
            raise InvalidArgument.field(path, "first_frame is for videos only", ErrorReason.CONFLICTING_FIELDS)
        if kind == "mask" and "init" not in kinds:
            message = "mask needs a reference of kind init beside it"
            raise InvalidArgument.field(path, message, ErrorReason.CONFLICTING_FIELDS)


def _seed(request: Request, quantity: int) -> int:
    if request.seed is None:
        return secrets.randbelow(_RANDOM_SEEDS)
    if request.seed + quantity - 1 > LARGEST_SEED:
        message = f"the last output's seed must be at most {LARGEST_SEED}, got {request.seed} for {quantity} outputs"
        raise InvalidArgument.field("seed", message, ErrorReason.OUT_OF_RANGE)
    return request.seed
