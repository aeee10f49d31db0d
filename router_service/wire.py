"""Protobuf to domain and back, for what clients and the asset service see."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from google.protobuf.message import Message

from atelier.asset.v1 import asset_control_service_pb2
from atelier.router.v1 import job_pb2
from atelier.router.v1 import router_service_pb2 as pb
from atelier.type.v1 import error_pb2, generation_pb2, media_pb2
from router_service import chat_wire, webhook_wire
from router_service.domain import Failure, Job, JobState, Output, OutputState, Stage, StageKind, StageState, Warning_
from router_service.enhancement_domain import EnhancedBy
from router_service.generation_domain import Format, GenerationSettings, Lora, Quality, Reference
from router_service.moment_wire import moment
from router_service.plans import Request
from router_service.pools import Pools
from router_service.reports import LogLine, Preview, Progress, Report, TextDelta
from service_kit.errors import ErrorReason, InvalidArgument
from service_kit.identity import Owner
from service_kit.ids import asset_id
from service_kit.validation import default_of

# The contract is the one place where it stands.
_DEFAULT_STRENGTH = float(default_of(generation_pb2.ReferenceImage.DESCRIPTOR.fields_by_name["strength"]))
_DEFAULT_WEIGHT = float(default_of(generation_pb2.Lora.DESCRIPTOR.fields_by_name["weight"]))
JOB_STATES: Mapping[JobState, Any] = {state: job_pb2.JobState.Value(f"JOB_STATE_{state.name}") for state in JobState}
STAGE_KINDS: Mapping[StageKind, Any] = {kind: job_pb2.StageKind.Value(f"STAGE_KIND_{kind.name}") for kind in StageKind}
_STAGE_STATES = {state: job_pb2.StageState.Value(f"STAGE_STATE_{state.name}") for state in StageState}
_OUTPUT_STATES = {state: job_pb2.OutputState.Value(f"OUTPUT_STATE_{state.name}") for state in OutputState}
FORMATS = {form: generation_pb2.Format.Value(f"FORMAT_{form.name}") for form in Format}
_QUALITIES = {quality: generation_pb2.Quality.Value(f"QUALITY_{quality.name}") for quality in Quality}


def _enum_name(enum: Any, number: int, prefix: str) -> str:
    """Return the lower-case name of a value without its prefix. Raises KeyError for an unknown number."""
    try:
        return str(enum.Name(number)).removeprefix(prefix).lower()
    except ValueError as error:
        raise KeyError(number) from error


def known(enum: Any, number: int, prefix: str, field: str) -> str | None:
    """Return the name of a value, None for an unspecified one. Raises InvalidArgument for a number nobody knows."""
    if number == 0:
        return None
    try:
        return _enum_name(enum, number, prefix)
    except KeyError:
        raise InvalidArgument.field(field, f"has no value with the number {number}") from None


# --- requests ---------------------------------------------------------------------------------------------------------


def request_from_proto(message: pb.GenerateContentRequest, digest: str | None = None) -> Request:
    """Return what a client asks for. `digest` names what it sent; without one the message itself does.

    Raises:
        InvalidArgument: an enum number that nobody knows.
    """
    form = known(generation_pb2.Format, message.format, "FORMAT_", "format")
    quality = known(generation_pb2.Quality, message.quality, "QUALITY_", "quality")
    on_failure = known(
        pb.OnEnhancementFailure, message.on_enhancement_failure, "ON_ENHANCEMENT_FAILURE_", "on_enhancement_failure"
    )
    return Request(
        prompt=message.prompt,
        negative_prompt=message.negative_prompt,
        model=message.model,
        format=Format(form) if form else None,
        quantity=_optional(message, "quantity"),
        seed=_optional(message, "seed"),
        quality=Quality(quality) if quality else None,
        aspect_ratio=message.aspect_ratio or None,
        steps=_optional(message, "steps"),
        duration_seconds=_optional(message, "duration_seconds"),
        frame_rate=_optional(message, "frame_rate"),
        references=tuple(
            _reference_from_proto(reference, f"reference_images[{index}]")
            for index, reference in enumerate(message.reference_images)
        ),
        enhancement_only=message.enhancement_only,
        enhance_prompt=message.enhance_prompt,
        warn_on_enhancement_failure=on_failure == "warn",
        priority=message.priority,
        idempotency_key=message.idempotency_key or None,
        digest=digest or _digest(message),
        cannot_restart=message.cannot_restart,
        width=_optional(message, "width"),
        height=_optional(message, "height"),
        chat=chat_wire.chat_from_proto(message.chat) if message.HasField("chat") else None,
        annotations=tuple(sorted(message.annotations.items())),
        webhook=webhook_wire.webhook_from_proto(message.webhook) if message.HasField("webhook") else None,
        deadline_seconds=_optional(message, "deadline_seconds"),
        guidance=_optional(message, "guidance"),
        scheduler=message.scheduler,
        loras=tuple(
            Lora(lora.name, lora.weight if lora.HasField("weight") else _DEFAULT_WEIGHT) for lora in message.loras
        ),
    )


def _optional(message: Message, field: str) -> Any:
    return getattr(message, field) if message.HasField(field) else None


def _digest(message: pb.GenerateContentRequest) -> str:
    """Return what names the content of a request: SHA-256 of its bytes without the idempotency key."""
    content = pb.GenerateContentRequest()
    content.CopyFrom(message)
    content.ClearField("idempotency_key")
    return hashlib.sha256(content.SerializeToString(deterministic=True)).hexdigest()


def _reference_from_proto(message: generation_pb2.ReferenceImage, path: str) -> Reference:
    kind = known(generation_pb2.ReferenceKind, message.kind, "REFERENCE_KIND_", f"{path}.kind")
    strength = message.strength if message.HasField("strength") else _DEFAULT_STRENGTH
    return Reference(message.asset_id, kind or "style", strength)


def reference_from_held(reference: Reference, held: asset_control_service_pb2.HeldAsset) -> Reference:
    """Return a reference with where its bytes lie."""
    return Reference(
        asset_id=reference.asset_id,
        kind=reference.kind,
        strength=reference.strength,
        bucket=held.blob.bucket,
        key=held.blob.key,
        generation=held.blob.generation,
        content_type=held.asset.media.content_type,
        size_bytes=held.asset.media.size_bytes,
        sha256=held.asset.media.sha256,
    )


def state_from_proto(number: int) -> JobState | None:
    """Return the state that a filter names, None when it names none."""
    name = known(job_pb2.JobState, number, "JOB_STATE_", "state")
    return JobState(name) if name else None


def format_from_proto(number: int) -> Format | None:
    """Return the format that a filter names, None when it names none."""
    name = known(generation_pb2.Format, number, "FORMAT_", "format")
    return Format(name) if name else None


# --- replies ----------------------------------------------------------------------------------------------------------


def job_to_proto(job: Job, pools: Pools) -> job_pb2.Job:
    """Return a job as its owner sees it."""
    return job_pb2.Job(
        job_id=job.job_id,
        state=JOB_STATES[job.state],
        version=job.version,
        prompt=job.prompt,
        negative_prompt=job.negative_prompt,
        enhanced_prompt=job.enhanced_prompt,
        generation_settings=settings_to_proto(job.settings),
        enhancement_only=job.enhancement_only,
        stages=[
            _stage_to_proto(stage, pools.waits_for(job) if index == job.stage else "")
            for index, stage in enumerate(job.stages)
        ],
        outputs=[_output_to_proto(job, output) for output in job.outputs],
        requested=len(job.outputs),
        delivered=job.delivered if job.state is JobState.SUCCEEDED else 0,
        warnings=warnings_to_proto(job.warnings),
        failure=failure_to_proto(job.failure),
        reference_images=references_to_proto(job.references),
        priority=job.priority,
        created_at=moment(job.created_at),
        started_at=moment(job.started_at),
        finished_at=moment(job.finished_at),
        deadline_at=moment(job.deadline_at),
        reply=chat_wire.reply_to_proto(job.reply) if job.reply is not None else None,
        annotations=dict(job.annotations),
        enhanced_by=enhanced_by_to_proto(job.enhanced_by),
    )


def accepted_to_proto(job: Job) -> pb.GenerateContentResponse:
    """Return the reply to an accepted request."""
    return pb.GenerateContentResponse(
        job_id=job.job_id,
        state=JOB_STATES[job.state],
        generation_settings=settings_to_proto(job.settings),
        asset_ids=[asset_id(job.job_id, output.asset_index) for output in job.outputs],
        warnings=warnings_to_proto(job.warnings),
        created_at=moment(job.created_at),
    )


def settings_to_proto(settings: GenerationSettings) -> generation_pb2.GenerationSettings:
    """Return the effective values of a job."""
    return generation_pb2.GenerationSettings(
        worker_type=settings.worker_type,
        model=settings.model,
        format=FORMATS[settings.format] if settings.format else generation_pb2.FORMAT_UNSPECIFIED,
        seed=settings.seed,
        size=f"{settings.width}x{settings.height}" if settings.width else "",
        width=settings.width,
        height=settings.height,
        steps=settings.steps,
        quantity=settings.quantity,
        quality=_QUALITIES[settings.quality],
        aspect_ratio=settings.aspect_ratio,
        frames=settings.frames,
        frame_rate=settings.frame_rate,
        guidance=settings.guidance,
        scheduler=settings.scheduler,
        loras=[generation_pb2.Lora(name=lora.name, weight=lora.weight) for lora in settings.loras],
    )


def references_to_proto(references: tuple[Reference, ...]) -> list[generation_pb2.ReferenceImage]:
    """Return references as clients send them."""
    return [
        generation_pb2.ReferenceImage(
            asset_id=reference.asset_id,
            kind=generation_pb2.ReferenceKind.Value(f"REFERENCE_KIND_{reference.kind.upper()}"),
            strength=reference.strength,
        )
        for reference in references
    ]


def provenance_to_proto(job: Job, asset_index: int) -> generation_pb2.Provenance:
    """Return how one output of a job was made."""
    return generation_pb2.Provenance(
        job_id=job.job_id,
        asset_index=asset_index,
        prompt=job.prompt,
        negative_prompt=job.negative_prompt,
        enhanced_prompt=job.enhanced_prompt,
        settings=settings_to_proto(job.settings),
        seed=job.settings.seed + asset_index,
        reference_images=references_to_proto(job.references),
        engine=job.engine,
        submitted_at=moment(job.created_at),
        enhanced_by=enhanced_by_to_proto(job.enhanced_by),
        enhance_prompt=job.stages[0].kind is StageKind.ENHANCE,
        warn_on_enhancement_failure=job.warn_on_enhancement_failure,
    )


def enhanced_by_to_proto(by: EnhancedBy | None) -> generation_pb2.EnhancedBy | None:
    """Return what rewrote a prompt, None when nothing did."""
    return None if by is None else generation_pb2.EnhancedBy(**asdict(by))


def report_to_proto(report: Report) -> dict[str, Message]:
    """Return a report under the name of its member in the events' oneof."""
    if isinstance(report, Progress):
        progress = pb.Progress(
            job_id=report.job_id,
            stage=STAGE_KINDS[report.stage],
            asset_index=report.asset_index,
            step=report.step,
            steps=report.steps,
            fraction=report.fraction,
            phase=report.phase,
        )
        return {"progress": progress}
    if isinstance(report, Preview):
        preview = pb.Preview(
            job_id=report.job_id,
            asset_index=report.asset_index,
            step=report.step,
            content_type=report.content_type,
            image=report.image,
        )
        return {"preview": preview}
    if isinstance(report, TextDelta):
        return {"text_delta": pb.TextDelta(job_id=report.job_id, offset=report.offset, text=report.text)}
    return {"log": _log_to_proto(report)}


def _log_to_proto(line: LogLine) -> pb.LogLine:
    return pb.LogLine(job_id=line.job_id, line=line.line)


def warnings_to_proto(warnings: tuple[Warning_, ...]) -> list[generation_pb2.Warning]:
    """Return what the caller should know."""
    return [generation_pb2.Warning(code=warning.code, message=warning.message) for warning in warnings]


def failure_to_proto(failure: Failure | None) -> job_pb2.Failure | None:
    """Return why something failed, None when it did not."""
    if failure is None:
        return None
    reason = error_pb2.ErrorReason.Value(f"ERROR_REASON_{failure.reason.name}")
    return job_pb2.Failure(reason=reason, message=failure.message)


def failure_from_proto(message: job_pb2.Failure) -> Failure:
    """Return why something failed, as a worker says it; a reason that nobody knows is the engine's."""
    try:
        reason = ErrorReason(_enum_name(error_pb2.ErrorReason, message.reason, "ERROR_REASON_"))
    except (KeyError, ValueError):
        reason = ErrorReason.ENGINE_FAILED
    if reason is ErrorReason.UNSPECIFIED:
        reason = ErrorReason.ENGINE_FAILED
    return Failure(reason, message.message[:1000] or "The engine failed and did not say why.")


def owner_to_proto(owner: Owner) -> media_pb2.Owner:
    """Return whose something is."""
    return media_pb2.Owner(tenant_id=owner.tenant_id, owner_id=owner.owner_id)


def _stage_to_proto(stage: Stage, waits_for: str) -> job_pb2.Stage:
    return job_pb2.Stage(
        kind=STAGE_KINDS[stage.kind],
        worker_type=stage.worker_type,
        state=_STAGE_STATES[stage.state],
        attempt=stage.attempt,
        waits_for=waits_for,
        started_at=moment(stage.started_at),
        finished_at=moment(stage.finished_at),
    )


def _output_to_proto(job: Job, output: Output) -> job_pb2.Output:
    # What is recorded and not yet published cannot be seen by anybody, so nobody is told that it is there.
    is_unpublished = job.state is JobState.PUBLISHING and output.state is OutputState.DELIVERED
    return job_pb2.Output(
        asset_index=output.asset_index,
        asset_id=asset_id(job.job_id, output.asset_index),
        state=_OUTPUT_STATES[OutputState.PENDING if is_unpublished else output.state],
        failure=failure_to_proto(output.failure),
    )
