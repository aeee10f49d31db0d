"""What a request becomes: its checks, its effective values, its stages and its deadline. Pure."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from datetime import timedelta

from router_service.chat_domain import Chat
from router_service.domain import Stage, StageKind, StageState, Warning_
from router_service.generation_domain import Format, GenerationSettings, Lora, Quality, Reference
from router_service.models import Route, RoutingTable, check_size, effective_size, effective_steps
from router_service.registry_domain import ModelRow
from router_service.webhook_domain import Webhook
from service_kit.errors import ErrorReason, FieldProblem, InvalidArgument

LARGEST_SEED = 2**53 - 1
SIZE_MULTIPLE = 8
_DEFAULT_SECONDS = 3.0
_LONGEST_NAME = 100
_MOST_ANNOTATION_BYTES = 32 << 10
_RANDOM_SEED_BITS = 32


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
    cannot_restart: bool = False
    width: int | None = None
    height: int | None = None
    chat: Chat | None = None
    annotations: tuple[tuple[str, str], ...] = ()
    webhook: Webhook | None = None
    deadline_seconds: int | None = None
    guidance: float | None = None
    scheduler: str = ""
    loras: tuple[Lora, ...] = ()
    frame_rate: int | None = None

    @property
    def is_steered(self) -> bool:
        """Whether it says something of a generation that workers of the first release do not know."""
        last_frame = any(reference.kind == "last_frame" for reference in self.references)
        return self.guidance is not None or bool(self.scheduler or self.loras) or last_frame

    def deadline(self, model: timedelta) -> timedelta:
        """From acceptance to the deadline of the job: what the request asks for, at most what the model has."""
        return model if self.deadline_seconds is None else min(model, timedelta(seconds=self.deadline_seconds))


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be done for a request: its effective values, before a job is made of it."""

    settings: GenerationSettings
    stages: tuple[Stage, ...]
    warnings: tuple[Warning_, ...]
    deadline: timedelta


def make_plan(request: Request, table: RoutingTable) -> Plan:
    """Work out the effective values of a request.

    Raises:
        InvalidArgument: names the field that cannot be.
    """
    _check_ranges(request)
    if request.chat is not None:
        return _chat_plan(request, table)
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
    width, height = request.width, request.height
    if width is not None and height is not None:
        check_size(route.row, width, height)
        aspect_ratio = ""
    else:
        width, height = effective_size(route.row, aspect_ratio, quality)
    frames, frame_rate = _footage(request, route.row) if form is Format.VIDEO else (0, 0)
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
        frames=frames,
        frame_rate=frame_rate,
        guidance=request.guidance,
        scheduler=request.scheduler,
        loras=request.loras,
    )
    stages = [Stage(StageKind.GENERATE, route.row.worker_type, steered=request.is_steered)]
    deadline = route.row.deadline
    if request.enhance_prompt:
        enhancer = table.enhancer()
        stages.insert(0, Stage(StageKind.ENHANCE, enhancer.worker_type))
        deadline += enhancer.deadline
    stages[0] = replace(stages[0], state=StageState.QUEUED)
    return Plan(settings, tuple(stages), route.warnings, deadline)


def _footage(request: Request, row: ModelRow) -> tuple[int, int]:
    """Return how many frames a video has, and how many of them a second."""
    seconds = _DEFAULT_SECONDS if request.duration_seconds is None else request.duration_seconds
    rate = row.default_frame_rate if request.frame_rate is None else request.frame_rate
    return round(seconds * rate), rate


def _enhancement_plan(request: Request, route: Route, table: RoutingTable) -> Plan:
    _refuse(_about_outputs(request), "enhancement_only")
    enhancer = table.enhancer()
    settings = _text_settings(request, enhancer.worker_type, route.model, request.format)
    stage = Stage(StageKind.ENHANCE, enhancer.worker_type, StageState.QUEUED)
    return Plan(settings, (stage,), route.warnings, enhancer.deadline)


def _chat_plan(request: Request, table: RoutingTable) -> Plan:
    others = {
        "prompt": bool(request.prompt),
        "negative_prompt": bool(request.negative_prompt),
        "format": request.format is not None,
        "enhancement_only": request.enhancement_only,
        "on_enhancement_failure": request.warn_on_enhancement_failure,
    }
    _refuse(others | _about_outputs(request), "chat")
    route = table.route(request.model, StageKind.CHAT)
    settings = _text_settings(request, route.row.worker_type, route.model, None)
    stage = Stage(StageKind.CHAT, route.row.worker_type, StageState.QUEUED)
    return Plan(settings, (stage,), route.warnings, route.row.deadline)


def _text_settings(request: Request, worker_type: str, model: str, form: Format | None) -> GenerationSettings:
    """Return the effective values of a job without outputs."""
    return GenerationSettings(
        worker_type=worker_type,
        model=model,
        format=form,
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


def _about_outputs(request: Request) -> dict[str, bool]:
    """Return the fields that say something about outputs, and whether they were sent."""
    return {
        "enhance_prompt": request.enhance_prompt,
        "quantity": request.quantity not in (None, 1),
        "quality": request.quality is not None,
        "aspect_ratio": request.aspect_ratio is not None,
        "width": request.width is not None,
        "height": request.height is not None,
        "steps": request.steps is not None,
        "duration_seconds": request.duration_seconds is not None,
        "frame_rate": request.frame_rate is not None,
        "guidance": request.guidance is not None,
        "scheduler": bool(request.scheduler),
        "loras": bool(request.loras),
        "reference_images": bool(request.references),
    }


def _refuse(fields: dict[str, bool], other: str) -> None:
    for field, is_sent in fields.items():
        if is_sent:
            message = f"means nothing together with {other}: leave it out"
            raise InvalidArgument.field(field, message, ErrorReason.CONFLICTING_FIELDS)


def _check_ranges(request: Request) -> None:
    """Check what the contract's limits cannot say."""
    if (request.width is None) is not (request.height is None):
        field, other = ("height", "width") if request.height is None else ("width", "height")
        raise InvalidArgument.field(field, f"is required together with {other}", ErrorReason.MISSING_FIELD)
    for field, pixels in (("width", request.width), ("height", request.height)):
        if pixels is not None and pixels % SIZE_MULTIPLE:
            raise InvalidArgument.field(field, f"must be a multiple of {SIZE_MULTIPLE}, got {pixels}")
    if request.width is not None and request.aspect_ratio is not None:
        message = "means nothing together with width and height: leave it out"
        raise InvalidArgument.field("aspect_ratio", message, ErrorReason.CONFLICTING_FIELDS)
    names = [lora.name for lora in request.loras]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise InvalidArgument.field(f"loras[{index}].name", f"must name each LoRA once, got {name!r} again")
    _check_annotations(request.annotations)


def _check_annotations(annotations: tuple[tuple[str, str], ...]) -> None:
    size = sum(len(name.encode()) + len(text.encode()) for name, text in annotations)
    problems = []
    if size > _MOST_ANNOTATION_BYTES:
        message = f"must together have at most {_MOST_ANNOTATION_BYTES} bytes, got {size}"
        problems.append(FieldProblem("annotations", message))
    for name, text in annotations:
        if not 1 <= len(name) <= _LONGEST_NAME or "\0" in name + text:
            message = f"must have names of 1..{_LONGEST_NAME} characters, and no U+0000, got {name[:_LONGEST_NAME]!r}"
            problems.append(FieldProblem("annotations", message))
    if problems:
        raise InvalidArgument.of(problems, ErrorReason.OUT_OF_RANGE)


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
    for field, number in (("duration_seconds", request.duration_seconds), ("frame_rate", request.frame_rate)):
        if number is not None and form is not Format.VIDEO:
            message = "is for videos only: leave it out for an image"
            raise InvalidArgument.field(field, message, ErrorReason.CONFLICTING_FIELDS)
    kinds = [reference.kind for reference in request.references]
    for index, kind in enumerate(kinds):
        path = f"reference_images[{index}].kind"
        if kind in ("first_frame", "last_frame") and form is not Format.VIDEO:
            raise InvalidArgument.field(path, f"{kind} is for videos only", ErrorReason.CONFLICTING_FIELDS)
        if kind == "last_frame" and "first_frame" not in kinds:
            message = "last_frame needs a reference of kind first_frame beside it"
            raise InvalidArgument.field(path, message, ErrorReason.CONFLICTING_FIELDS)
        if kind == "mask" and "init" not in kinds:
            message = "mask needs a reference of kind init beside it"
            raise InvalidArgument.field(path, message, ErrorReason.CONFLICTING_FIELDS)


def _seed(request: Request, quantity: int) -> int:
    if request.seed is None:
        return secrets.randbits(_RANDOM_SEED_BITS)
    if request.seed + quantity - 1 > LARGEST_SEED:
        message = f"the last output's seed must be at most {LARGEST_SEED}, got {request.seed} for {quantity} outputs"
        raise InvalidArgument.field("seed", message, ErrorReason.OUT_OF_RANGE)
    return request.seed
