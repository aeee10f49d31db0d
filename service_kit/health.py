"""The health of a service: grpc.health.v1 for the whole, for each gRPC service, for each thing it depends on."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service_kit.telemetry import get_logger

log = get_logger(__name__)
_LOOK_AGAIN_S = 1.0
_DEPENDENCY = "dependency/"
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


@dataclass(frozen=True, slots=True)
class DependencyHealth:
    """Whether something that a service depends on works. Without a required one the service does not serve."""

    serving: bool
    detail: str
    required: bool


class HealthBoard:
    """What is known about the health of one service. Its names are "", each gRPC service, and `dependency/<name>`."""

    def __init__(self) -> None:
        """Start as not serving, with nothing known."""
        self.dependencies: dict[str, DependencyHealth] = {}
        self._services: tuple[str, ...] = ()
        self._started = False
        self._draining = False
        self._changed = asyncio.Event()

    def set(self, dependency: str, serving: bool, detail: str = "", *, required: bool = True) -> None:
        """Say whether a dependency, such as `database` or `asset_service`, works."""
        before = self.dependencies.get(dependency)
        self.dependencies[dependency] = DependencyHealth(serving, detail, required)
        if before is None or before.serving != serving:
            log.info("dependency_health", dependency=dependency, serving=serving, detail=detail)
            self._tell()

    def start(self, services: tuple[str, ...]) -> None:
        """Say that the server accepts calls for these gRPC services."""
        self._services = services
        self._started = True
        self._tell()

    def drain(self) -> None:
        """Say NOT_SERVING from now on, whatever the dependencies do."""
        self._draining = True
        self._tell()

    @property
    def serving(self) -> bool:
        """Whether the service as a whole serves."""
        required = (dependency.serving for dependency in self.dependencies.values() if dependency.required)
        return self._started and not self._draining and all(required)

    def statuses(self) -> dict[str, Any]:
        """Return the status of every name."""
        own = _SERVING if self.serving else _NOT_SERVING
        found = dict.fromkeys(("", *self._services), own)
        for name, dependency in self.dependencies.items():
            found[_DEPENDENCY + name] = _SERVING if dependency.serving else _NOT_SERVING
        return found

    async def changed(self) -> None:
        """Wait until something changes."""
        await self._changed.wait()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class HealthServicer(health_pb2_grpc.HealthServicer):
    """Answers the gRPC health protocol from a board."""

    def __init__(self, board: HealthBoard) -> None:
        self._board = board

    async def Check(
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse],
    ) -> health_pb2.HealthCheckResponse:
        status = self._board.statuses().get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "There is no such service here.")
        return health_pb2.HealthCheckResponse(status=status)

    async def List(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        response = health_pb2.HealthListResponse()  # type: ignore[attr-defined]  # the published stubs lack it
        for name, status in self._board.statuses().items():
            response.statuses[name].status = status
        return response

    async def Watch(
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse],
    ) -> None:
        last: Any = None
        while True:
            status = self._board.statuses().get(request.service, _UNKNOWN)
            if status != last:
                last = status
                await context.write(health_pb2.HealthCheckResponse(status=status))
            else:
                await self._board.changed()


async def follow(channel: grpc.aio.Channel, board: HealthBoard, dependency: str, *, required: bool = False) -> None:
    """Keep a board's entry for another service up to date, for ever: run it as a task, and cancel it at the end."""
    stub: Any = health_pb2_grpc.HealthStub(channel)
    while True:
        call = stub.Watch(health_pb2.HealthCheckRequest(service=""))
        try:
            async for answer in call:
                board.set(dependency, answer.status == _SERVING, required=required)
            detail = "the service ended the stream"
        except grpc.aio.AioRpcError as error:
            detail = error.code().name.lower()
        finally:
            call.cancel()
        board.set(dependency, False, detail, required=required)
        await asyncio.sleep(_LOOK_AGAIN_S)
