"""A lease as a task, and an ended task as an outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from atelier.router.v1 import job_pb2
from atelier.type.v1 import error_pb2, generation_pb2
from atelier.worker.v1 import worker_service_pb2 as pb
from atelier_worker.engine import Lora, Reference, Task
from atelier_worker.engine_wire import chat_from_proto, enhanced_by_from_proto
from service_kit.ids import new_id

_QUALITIES = {generation_pb2.QUALITY_DRAFT: "draft", generation_pb2.QUALITY_HIGH: "high"}
_STAGES: dict[job_pb2.StageKind.ValueType, Literal["enhance", "chat"]] = {
    job_pb2.STAGE_KIND_ENHANCE: "enhance",
    job_pb2.STAGE_KIND_CHAT: "chat",
}
REFERENCE_KINDS = {
    generation_pb2.REFERENCE_KIND_STYLE: "style",
    generation_pb2.REFERENCE_KIND_COMPOSITION: "composition",
    generation_pb2.REFERENCE_KIND_INIT: "init",
    generation_pb2.REFERENCE_KIND_MASK: "mask",
    generation_pb2.REFERENCE_KIND_FIRST_FRAME: "first_frame",
    generation_pb2.REFERENCE_KIND_LAST_FRAME: "last_frame",
}


def task_of(spec: pb.StageSpec, references: Sequence[Reference], stage_key: str) -> Task:
    """Return what the engine is asked to do; `references` are the files, in the order of the lease."""
    settings = spec.settings
    stage: Literal["generate", "enhance", "chat"] = _STAGES.get(spec.kind, "generate")
    is_text = stage != "generate"
    options = {"aspect_ratio": settings.aspect_ratio, "original_prompt": spec.original_prompt}
    return Task(
        stage=stage,
        format=None if is_text else ("video" if settings.format == generation_pb2.FORMAT_VIDEO else "image"),
        model=settings.model,
        prompt=spec.prompt,
        negative_prompt=spec.negative_prompt,
        seed=settings.seed,
        quantity=settings.quantity,
        width=settings.width,
        height=settings.height,
        steps=settings.steps,
        quality=_QUALITIES.get(settings.quality, "standard"),
        references=tuple(references),
        frames=settings.frames,
        fps=settings.frame_rate,
        indexes=() if is_text else tuple(range(settings.quantity)),
        options={name: value for name, value in options.items() if value},
        chat=chat_from_proto(spec.chat) if stage == "chat" else None,
        guidance=settings.guidance if settings.HasField("guidance") and not is_text else None,
        scheduler="" if is_text else settings.scheduler,
        loras=() if is_text else tuple(Lora(lora.name, lora.weight) for lora in settings.loras),
        stage_key=stage_key,
        enhanced_by=enhanced_by_from_proto(spec.enhanced_by) if spec.HasField("enhanced_by") else None,
    )


def failure(reason: error_pb2.ErrorReason.ValueType, message: str) -> job_pb2.Failure:
    """Return why something failed: a stable reason and one sentence."""
    return job_pb2.Failure(reason=reason, message=message)


def outcome(ref: pb.LeaseRef, engine: str, warnings: Sequence[str] = ()) -> pb.Outcome:
    """Return an outcome with a new completion id and no result yet."""
    return pb.Outcome(ref=ref, completion_id=new_id(), engine=engine, warnings=warnings)


def fail_stage(into: pb.Outcome, why: job_pb2.Failure, *, retryable: bool) -> pb.Outcome:
    """Make an outcome a failure of the whole stage."""
    into.failure.CopyFrom(pb.StageFailure(failure=why, retryable=retryable))
    return into


def fill_manifest(
    into: pb.Outcome, indexes: Sequence[int], receipts: Mapping[int, str], failures: Mapping[int, job_pb2.Failure]
) -> pb.Outcome:
    """Make an outcome a manifest with one entry for each index, in order."""
    missing = failure(error_pb2.ERROR_REASON_ENGINE_FAILED, "The engine ended without this output.")
    for index in indexes:
        entry = into.outputs.outputs.add(asset_index=index)
        if index in receipts:
            entry.receipt = receipts[index]
        else:
            entry.failure.CopyFrom(failures.get(index, missing))
    return into
