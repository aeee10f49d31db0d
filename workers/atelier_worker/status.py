"""What a process of workers tells about itself: for probes, for Prometheus, and for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from atelier_worker.engine import DeviceRoom
from atelier_worker.member import Member, models_of, worker_types_of
from service_kit.version import __version__

_RESULTS = ("finished", "failed", "cancelled", "crashed")
Labels = dict[str, str]


def is_live(members: Sequence[Member]) -> bool:
    """Tell whether the process is worth keeping: some worker runs, or has an engine that is being started again."""
    return not all(one.down for one in members)


def is_ready(members: Sequence[Member]) -> bool:
    """Tell whether some worker is connected to a router."""
    return any(one.connected for one in members)


def status_of(members: Sequence[Member]) -> dict[str, Any]:
    """Return everything as JSON has it; sizes in bytes."""
    return {
        "version": __version__,
        "live": is_live(members),
        "ready": is_ready(members),
        "engines": [_engine_status(one) for one in members],
    }


def metrics_text(members: Sequence[Member]) -> str:
    """Return the metrics in the text format of Prometheus, version 0.0.4."""
    lines: list[str] = []
    for name, kind, text, samples in _FAMILIES:
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        for member in members:
            lines += [f"{name}{_labels(labels)} {value:g}" for labels, value in samples(member)]
    return "\n".join(lines) + "\n"


def _engine_status(member: Member) -> dict[str, Any]:
    engine, holdings, info = member.engine, member.holdings, member.info
    room = engine.device_room if engine is not None else None
    return {
        "name": member.plan.name,
        "worker_id": member.worker_id,
        "engine": member.plan.engine,
        "state": member.state.value,
        "reason": member.reason,
        "connected": member.connected,
        "engine_ready": engine is not None and engine.ready,
        "pid": engine.pid if engine is not None else None,
        "restarts": engine.restarts if engine is not None else 0,
        "last_end": engine.last_end if engine is not None else "",
        "worker_types": list(worker_types_of(member.plan, info) if info is not None else member.plan.worker_types),
        "models": list(models_of(member.plan, info)),
        "slots": member.slots,
        "tasks": engine.tasks if engine is not None else 0,
        "leases": len(holdings.refs()) if holdings is not None else 0,
        "uploads": holdings.uploads if holdings is not None else 0,
        "ends": {result: engine.tally.ends[result] if engine is not None else 0 for result in _RESULTS},
        "loaded": [
            {"name": one.name, "device": one.device, "size_bytes": one.size_bytes}
            for one in (engine.loaded if engine is not None else ())
        ],
        "device": asdict(room) if room is not None else None,
        "counted": dict(engine.counted) if engine is not None else {},
    }


def _ends(member: Member) -> Iterator[tuple[Labels, float]]:
    for result in _RESULTS:
        count = member.engine.tally.ends[result] if member.engine is not None else 0
        yield {"engine": member.plan.name, "result": result}, count


def _loaded(member: Member) -> Iterator[tuple[Labels, float]]:
    for one in member.engine.loaded if member.engine is not None else ():
        yield {"engine": member.plan.name, "model": one.name, "device": one.device}, one.size_bytes


def _device(read: Callable[[DeviceRoom], float]) -> Callable[[Member], Iterator[tuple[Labels, float]]]:
    def samples(member: Member) -> Iterator[tuple[Labels, float]]:
        room = member.engine.device_room if member.engine is not None else None
        if room is not None:
            yield {"engine": member.plan.name, "device": room.device}, read(room)

    return samples


def _counted(member: Member) -> Iterator[tuple[Labels, float]]:
    for name, amount in sorted(member.engine.counted.items()) if member.engine is not None else ():
        yield {"engine": member.plan.name, "what": name}, amount


def _one(read: Callable[[Member], float]) -> Callable[[Member], Iterator[tuple[Labels, float]]]:
    def samples(member: Member) -> Iterator[tuple[Labels, float]]:
        yield {"engine": member.plan.name}, read(member)

    return samples


_FAMILIES: tuple[tuple[str, str, str, Callable[[Member], Iterator[tuple[Labels, float]]]], ...] = (
    ("atelier_worker_tasks_total", "counter", "Tasks that have ended, by result.", _ends),
    (
        "atelier_worker_task_seconds_total",
        "counter",
        "Seconds that ended tasks took together.",
        _one(lambda one: one.engine.tally.seconds if one.engine is not None else 0),
    ),
    (
        "atelier_worker_tasks_running",
        "gauge",
        "Tasks in the engine.",
        _one(lambda one: one.engine.tasks if one.engine is not None else 0),
    ),
    (
        "atelier_worker_engine_restarts_total",
        "counter",
        "How often the engine's process was started again.",
        _one(lambda one: one.engine.restarts if one.engine is not None else 0),
    ),
    (
        "atelier_worker_engine_ready",
        "gauge",
        "1 while the engine takes tasks.",
        _one(lambda one: one.engine is not None and one.engine.ready),
    ),
    ("atelier_worker_connected", "gauge", "1 while a session with a router is held.", _one(lambda one: one.connected)),
    ("atelier_worker_loaded_bytes", "gauge", "What models take in memory.", _loaded),
    (
        "atelier_worker_device_free_bytes",
        "gauge",
        "What the engine's device has free.",
        _device(lambda room: room.free_bytes),
    ),
    (
        "atelier_worker_device_total_bytes",
        "gauge",
        "What the engine's device has in all.",
        _device(lambda room: room.total_bytes),
    ),
    (
        "atelier_worker_engine_counted_total",
        "counter",
        "What the engine counts itself since its process began.",
        _counted,
    ),
    (
        "atelier_worker_leases",
        "gauge",
        "Leases held, those with an unanswered outcome included.",
        _one(lambda one: len(one.holdings.refs()) if one.holdings is not None else 0),
    ),
    (
        "atelier_worker_uploads",
        "gauge",
        "Outputs on their way to the asset service.",
        _one(lambda one: one.holdings.uploads if one.holdings is not None else 0),
    ),
)


def _labels(labels: Labels) -> str:
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items()) + "}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
