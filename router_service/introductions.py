"""What a worker that introduces itself is told: that it may not come in, or what its operator should know."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from router_service.domain import StageKind
from router_service.generation_domain import Format
from router_service.models import RoutingTable
from router_service.registry import ModelRegistry
from router_service.registry_domain import ConnectedWorker
from service_kit.errors import FailedPrecondition, InvalidArgument, PermissionDenied

OLDEST_WORKER = (0, 1, 0)
"""The oldest release of a worker that this router still understands."""

_RELEASE = re.compile(r"v?([0-9]{1,6})\.([0-9]{1,6})(?:\.([0-9]{1,6}))?")
_MOST_WARNINGS = 10


class Introductions:
    """Judges workers by their key, their release and the routing table."""

    def __init__(self, registry: ModelRegistry, types_of_key: Callable[[str], Awaitable[tuple[str, ...]]]) -> None:
        """Take the routing table, and who says which worker types a key is bound to; none: any."""
        self._registry = registry
        self._types_of_key = types_of_key

    async def check(self, worker: ConnectedWorker) -> None:
        """Refuse a worker that may not come in, in a sentence for its operator.

        Raises:
            FailedPrecondition: its release is too old. A version that is no number, as of others' workers, is let in.
            PermissionDenied: it names a worker type that its key is not for.
        """
        match = _RELEASE.match(worker.version)
        if match is not None and tuple(int(part or 0) for part in match.groups()) < OLDEST_WORKER:
            oldest = ".".join(map(str, OLDEST_WORKER))
            raise FailedPrecondition(
                f"The worker is of release {worker.version}, and this router takes {oldest} and later: update it "
                "(pip install --upgrade atelier-media), and start it again."
            )
        allowed = await self._types_of_key(worker.holder.partition("/")[0])
        refused = sorted(set(worker.worker_types) - set(allowed)) if allowed else []
        if refused:
            raise PermissionDenied(
                f"The worker's key is for the worker types {', '.join(allowed)}, not for {', '.join(refused)}: start "
                f"the worker with --types {','.join(allowed)}, or make another key with "
                f"`atelier keys create --kind worker --owner NAME --worker-type {refused[0]}`."
            )

    async def warnings(self, worker: ConnectedWorker) -> list[str]:
        """Return a sentence for each model that the worker names and that no job can carry to it."""
        table = await self._registry.table()
        found = [sentence for model in worker.models if (sentence := _unreachable(model, worker, table))]
        if len(found) <= _MOST_WARNINGS:
            return found
        return [*found[:_MOST_WARNINGS], f"The same holds for {len(found) - _MOST_WARNINGS} more of its models."]


def _unreachable(model: str, worker: ConnectedWorker, table: RoutingTable) -> str:
    """Return why no job for a model reaches the worker, and what to do about it; empty when one can."""
    other_name = ""
    for stage in (StageKind.GENERATE, StageKind.CHAT):
        try:
            route = table.route(model, stage)
        except InvalidArgument:
            continue
        if worker.serves(route.row.pool):
            if route.model == model:
                return ""
            other_name = route.model
    if other_name:
        return (
            f"Jobs for the model {model} are jobs for {other_name}, of which it is another name: "
            f"name {other_name} among the worker's models, or no job reaches it."
        )
    worker_type = worker.worker_types[0]
    of_type = [row for row in table.rows if row.worker_type == worker_type]
    like = next((row for row in of_type if row.stage is StageKind.GENERATE), of_type[0] if of_type else None)
    if like is not None and like.stage is not StageKind.GENERATE:
        made = "--stage chat"
    else:
        formats = like.formats if like is not None else ()
        made = " ".join(f"--format {form.value}" for form in formats) or "--format image"
        if like is not None and Format.VIDEO in formats:
            made += f" --frame-rate {like.default_frame_rate}"
    types = ", ".join(worker.worker_types)
    return (
        f"No job reaches the model {model} of this worker: no row of the routing table leads there for {types}. "
        f"Add one: atelier models add {model} --worker-type {worker_type} {made}"
    )
