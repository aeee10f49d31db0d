"""Protobuf to domain and back, for what workers see."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from atelier.router.v1 import chat_pb2, job_pb2
from atelier.type.v1 import generation_pb2, media_pb2
from atelier.worker.v1 import worker_service_pb2 as pb
from router_service import chat_wire, wire
from router_service.chat_domain import LONGEST_REPLY
from router_service.domain import Failure, LeaseRef, StageKind
from router_service.enhancement_domain import EnhancedBy
from router_service.recording import DUPLICATE, RECORDED, STALE, Outcome, OutputReport
from router_service.registry_domain import ConnectedWorker, LoadedModel
from router_service.sessions import (
    CancelOrder,
    DrainNotice,
    Grant,
    HeartbeatReply,
    LostNotice,
    Message,
    OutcomeReply,
)
from service_kit.errors import ErrorReason, InvalidArgument
from service_kit.telemetry import get_logger

log = get_logger(__name__)

_STATUSES: dict[str, pb.OutcomeStatus.ValueType] = {
    RECORDED: pb.OUTCOME_STATUS_RECORDED,
    DUPLICATE: pb.OUTCOME_STATUS_DUPLICATE,
    STALE: pb.OUTCOME_STATUS_STALE,
}
_CANCEL_GRACE = timedelta(seconds=5)
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LONGEST_SENTENCE = 1000
_LONGEST_RECEIPT = 4096
_MOST_WARNINGS = 20
_MOST_OUTPUTS = 64
_LONGEST_TYPE = 64
_LONGEST_LABEL = 200
_LONGEST_NAME = 100


def worker_from_hello(hello: pb.Hello, *, key_id: str, session: str) -> ConnectedWorker:
    """Return who introduces itself; its contract's limits are checked before, but for what its lists hold.

    Raises:
        InvalidArgument: a worker type, a model or a label that no database could hold, or nobody would read.
    """
    _check_each("hello.worker_types", hello.worker_types, longest=_LONGEST_TYPE)
    _check_each("hello.models", hello.models, longest=_LONGEST_LABEL)
    for name, text in hello.labels.items():
        if not name or len(name) + len(text) > _LONGEST_LABEL or "\0" in name + text:
            problem = f"must each be a name and a text of at most {_LONGEST_LABEL} characters, without U+0000"
            raise InvalidArgument.field("hello.labels", problem)
    return ConnectedWorker(
        holder=f"{key_id}/{hello.worker_id}",
        session=session,
        worker_types=tuple(hello.worker_types),
        models=tuple(hello.models),
        slots=hello.slots,
        labels=tuple(sorted(hello.labels.items())),
        version=hello.version,
        chats=job_pb2.STAGE_KIND_CHAT in hello.stages,
        steers=hello.takes_steering,
        enhances=not hello.stages or job_pb2.STAGE_KIND_ENHANCE in hello.stages,
    )


def loaded_from_proto(heartbeat: pb.Heartbeat) -> tuple[LoadedModel, ...]:
    """Return what a worker keeps in memory."""
    return tuple(LoadedModel(model.name, model.device, model.size_bytes) for model in heartbeat.loaded)


def _check_each(field: str, texts: Sequence[str], *, longest: int) -> None:
    for index, text in enumerate(texts):
        if not text or len(text) > longest or "\0" in text:
            problem = f"must have 1..{longest} characters, none of them U+0000, got {len(text)}"
            raise InvalidArgument.field(f"{field}[{index}]", problem)


def ref_from_proto(message: pb.LeaseRef) -> LeaseRef:
    """Return which lease a message is about. Raises InvalidArgument when what it names can be no job."""
    if not _ID.fullmatch(message.job_id):
        raise InvalidArgument.field("ref.job_id", f"must be the id of a job, got {message.job_id[:64]!r}")
    return LeaseRef(message.job_id, message.stage, message.fence)


def reject_from_proto(message: pb.LeaseReject) -> tuple[LeaseRef, str]:
    """Return which lease is handed back, and why, for the log."""
    return ref_from_proto(message.ref), _clean(message.reason, 200)


def ref_to_proto(ref: LeaseRef) -> pb.LeaseRef:
    """Return which lease a message is about."""
    return pb.LeaseRef(job_id=ref.job_id, stage=ref.stage, fence=ref.fence)


def outcome_from_proto(message: pb.Outcome) -> Outcome:
    """Return what a worker says of a stage.

    What is longer than anybody needs is cut: a worker keeps its outcome until it is recorded, so to refuse it would be
    to refuse it for ever.

    Raises:
        InvalidArgument: it has no completion id, or names no job.
    """
    if not _ID.fullmatch(message.completion_id):
        raise InvalidArgument.field(
            "outcome.completion_id", "must have 1..64 letters, digits, dots, underscores and hyphens"
        )
    _trim(message)
    kind = message.WhichOneof("result")
    return Outcome(
        ref=ref_from_proto(message.ref),
        completion_id=message.completion_id,
        outputs=_outputs(message) if kind == "outputs" else None,
        text=message.text if kind == "text" else None,
        failure=wire.failure_from_proto(message.failure.failure) if kind == "failure" else None,
        retryable=message.failure.retryable,
        stopped=kind == "cancelled",
        warnings=tuple(message.warnings),
        engine=message.engine,
        payload=message.SerializeToString(),
        finish_reason=chat_wire.finish_reason_from_proto(message.finish_reason),
        usage=chat_wire.usage_from_proto(message.usage) if message.HasField("usage") else None,
        enhanced_by=_enhanced_by(message.enhanced_by) if message.HasField("enhanced_by") else None,
    )


def _trim(message: pb.Outcome) -> None:
    """Cut an outcome to what a job may keep of it, at most some 600 KiB."""
    kind = message.WhichOneof("result")
    if kind == "text":
        if len(message.text) > LONGEST_REPLY:
            message.finish_reason = chat_pb2.FINISH_REASON_LENGTH
        message.text = _clean(message.text, LONGEST_REPLY)
    elif kind == "failure":
        _trim_failure(message.failure.failure)
    elif kind == "outputs":
        del message.outputs.outputs[_MOST_OUTPUTS:]
        for output in message.outputs.outputs:
            if output.WhichOneof("result") == "failure":
                _trim_failure(output.failure)
            elif len(output.receipt) > _LONGEST_RECEIPT:
                output.receipt = ""
    del message.warnings[_MOST_WARNINGS:]
    message.warnings[:] = [_clean(warning, _LONGEST_SENTENCE) for warning in message.warnings]
    message.engine = _clean(message.engine, 64)
    for field, said in message.enhanced_by.ListFields():
        setattr(message.enhanced_by, field.name, _clean(said, _LONGEST_NAME))


def _enhanced_by(message: generation_pb2.EnhancedBy) -> EnhancedBy:
    return EnhancedBy(model=message.model, template=message.template, template_version=message.template_version)


def _trim_failure(failure: job_pb2.Failure) -> None:
    failure.message = _clean(failure.message, _LONGEST_SENTENCE)


def _clean(text: str, most: int) -> str:
    """Return a text that every database can keep, cut to so many characters."""
    return text[:most].replace("\0", "")


def _outputs(message: pb.Outcome) -> tuple[OutputReport, ...]:
    results = [result for result in message.outputs.outputs if result.HasField("asset_index")]
    if len(results) < len(message.outputs.outputs):
        log.warning("outputs_without_index", job_id=message.ref.job_id)
    return tuple(map(_output, results))


def _output(result: pb.OutputResult) -> OutputReport:
    if result.WhichOneof("result") == "receipt":
        return OutputReport(result.asset_index, result.receipt, None)
    if result.WhichOneof("result") == "failure":
        return OutputReport(result.asset_index, "", wire.failure_from_proto(result.failure))
    silent = Failure(ErrorReason.OUTPUT_LOST, "The worker reported this output without saying what became of it.")
    return OutputReport(result.asset_index, "", silent)


def message_to_proto(message: Message, *, lease_ttl: timedelta, max_output_bytes: int) -> pb.WorkResponse:
    """Return what is sent to a worker."""
    if isinstance(message, Grant):
        return pb.WorkResponse(lease=_lease(message, lease_ttl, max_output_bytes))
    if isinstance(message, CancelOrder):
        return pb.WorkResponse(cancel=pb.Cancel(ref=ref_to_proto(message.ref), grace=duration(_CANCEL_GRACE)))
    if isinstance(message, LostNotice):
        return pb.WorkResponse(lost=pb.Lost(ref=ref_to_proto(message.ref)))
    if isinstance(message, HeartbeatReply):
        cancelled, lost = map(ref_to_proto, message.cancelled), map(ref_to_proto, message.lost)
        return pb.WorkResponse(heartbeat_ack=pb.HeartbeatAck(cancelled=cancelled, lost=lost))
    if isinstance(message, OutcomeReply):
        ack = pb.OutcomeAck(
            ref=ref_to_proto(message.ref), completion_id=message.completion_id, status=_STATUSES[message.status]
        )
        return pb.WorkResponse(outcome_ack=ack)
    if isinstance(message, DrainNotice):
        return pb.WorkResponse(drain=pb.Drain())
    return pb.WorkResponse(reconnect=pb.Reconnect(within=duration(message.within)))


def _lease(grant: Grant, lease_ttl: timedelta, max_output_bytes: int) -> pb.Lease:
    job = grant.job
    is_generation = job.current.kind is StageKind.GENERATE
    is_enhanced = is_generation and bool(job.enhanced_prompt)
    prompt = job.enhanced_prompt if is_enhanced else job.prompt
    spec = pb.StageSpec(
        kind=wire.STAGE_KINDS[job.current.kind],
        prompt=prompt,
        negative_prompt=job.negative_prompt,
        settings=wire.settings_to_proto(job.settings),
        references=_references(grant) if is_generation else [],
        original_prompt=job.prompt if prompt != job.prompt else "",
        max_output_bytes=max_output_bytes,
        chat=chat_wire.chat_to_proto(job.chat) if job.chat is not None else None,
        enhanced_by=wire.enhanced_by_to_proto(job.enhanced_by) if is_enhanced else None,
    )
    return pb.Lease(
        ref=ref_to_proto(grant.lease.ref),
        attempt=grant.lease.attempt,
        spec=spec,
        ttl=duration(lease_ttl),
        token=grant.token,
    )


def _references(grant: Grant) -> list[pb.LeasedReference]:
    messages: list[generation_pb2.ReferenceImage] = wire.references_to_proto(grant.job.references)
    return [
        pb.LeasedReference(
            reference=message,
            media=media_pb2.Media(
                content_type=reference.content_type, size_bytes=reference.size_bytes, sha256=reference.sha256
            ),
        )
        for message, reference in zip(messages, grant.job.references, strict=True)
    ]


def duration(value: timedelta) -> Duration:
    """Return a duration."""
    message = Duration()
    message.FromTimedelta(value)
    return message
