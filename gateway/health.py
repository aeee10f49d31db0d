"""`GET /v1/health`: whether the gateway is of use, and which service holds that up and why (grpc.health.v1)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.backends import Backend
from gateway.http import Exchange, Reply
from gateway.render import dump
from service_kit.clock import Clock

_TIMEOUT = timedelta(seconds=2)
_DEPENDENCY = "dependency/"


class Health:
    """Asks every service how it is, at most once in `fresh_for` however many ask here."""

    def __init__(self, backends: Sequence[Backend], clock: Clock) -> None:
        """Ask these services."""
        self.fresh_for = timedelta(seconds=1)
        self._backends = backends
        self._clock = clock
        self._lock = asyncio.Lock()
        self._answer: dict[str, Any] = {}
        self._asked_at = float("-inf")

    async def serve(self, exchange: Exchange) -> Reply:
        """Answer 200 when everything that is required serves, else 503; the same body for both."""
        async with self._lock:
            if self._clock.monotonic() - self._asked_at >= self.fresh_for.total_seconds():
                self._answer = await self._ask_all()
                self._asked_at = self._clock.monotonic()
        status = 503 if self._answer["status"] == "not_serving" else 200
        return Reply(status, {"content-type": "application/json", "cache-control": "no-store"}, dump(self._answer))

    async def _ask_all(self) -> dict[str, Any]:
        services = await asyncio.gather(*(_ask(backend) for backend in self._backends))
        failing = [service for service in services if service["status"] != "serving"]
        status = "serving"
        if failing:
            status = "not_serving" if any(service["required"] for service in failing) else "degraded"
        return {"status": status, "services": services}


async def _ask(backend: Backend) -> dict[str, Any]:
    """Return the status of one service and of what it depends on."""
    stub: Any = health_pb2_grpc.HealthStub(backend.channel)
    found: dict[str, Any] = {"name": backend.name, "status": "unreachable", "required": backend.required}
    try:
        listed = await stub.List(health_pb2.HealthListRequest(), timeout=_TIMEOUT.total_seconds())  # type: ignore[attr-defined]
    except grpc.RpcError:
        return {**found, "depends_on": []}
    statuses = {name: _word(answer.status) for name, answer in listed.statuses.items()}
    dependencies = [
        {"name": name.removeprefix(_DEPENDENCY), "status": status}
        for name, status in sorted(statuses.items())
        if name.startswith(_DEPENDENCY)
    ]
    return {**found, "status": statuses.get("", "unknown"), "depends_on": dependencies}


def _word(status: int) -> str:
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(status)).lower()
