"""Protobuf to domain and back, for the routing table and the workers behind it."""

from __future__ import annotations

from atelier.router.v1 import job_pb2, model_pb2
from atelier.type.v1 import generation_pb2
from router_service import wire
from router_service.domain import StageKind
from router_service.generation_domain import Format
from router_service.pools import Pools
from router_service.registry_domain import ConnectedWorker, ModelRow


def model_from_proto(message: model_pb2.Model) -> ModelRow:
    """Return a row of the routing table; numbers that were left at zero take their defaults."""
    stage = wire.known(job_pb2.StageKind, message.stage, "STAGE_KIND_", "model.stage")
    formats = [wire.known(generation_pb2.Format, form, "FORMAT_", "model.formats") for form in message.formats]
    given = {
        field: getattr(message, field)
        for field in ("max_quantity", "base_size", "default_steps", "default_frame_rate", "deadline_seconds")
        if getattr(message, field)
    }
    return ModelRow(
        name=message.name,
        position=message.position,
        stage=StageKind(stage or "generate"),
        worker_type=message.worker_type,
        aliases=tuple(message.aliases),
        formats=tuple(Format(form) for form in formats if form),
        **given,
    )


def model_to_proto(row: ModelRow, pools: Pools) -> model_pb2.Model:
    """Return a row of the routing table with who is connected for it."""
    if row.stage is StageKind.ENHANCE:
        workers = pools.takers(row.pool, "")
    else:
        workers = pools.of(row.pool) if row.is_pattern else pools.takers(row.pool, row.name)
    return model_pb2.Model(
        name=row.name,
        aliases=row.aliases,
        stage=wire.STAGE_KINDS[row.stage],
        worker_type=row.worker_type,
        formats=[wire.FORMATS[form] for form in row.formats],
        max_quantity=row.max_quantity,
        base_size=row.base_size,
        default_steps=row.default_steps,
        default_frame_rate=row.default_frame_rate,
        deadline_seconds=row.deadline_seconds,
        position=row.position,
        connected_workers=len(workers),
        free_slots=sum(max(worker.slots - worker.leases, 0) for worker in workers),
        hint=pools.hint(row.pool),
    )


def worker_to_proto(worker: ConnectedWorker) -> model_pb2.Worker:
    """Return a connected worker."""
    key_id, _, name = worker.holder.partition("/")
    return model_pb2.Worker(
        name=name,
        key_id=key_id,
        worker_types=worker.worker_types,
        models=worker.models,
        slots=worker.slots,
        leases=worker.leases,
        labels=dict(worker.labels),
        version=worker.version,
        loaded=[
            model_pb2.LoadedModel(name=model.name, device=model.device, size_bytes=model.size_bytes)
            for model in worker.loaded
        ],
    )
