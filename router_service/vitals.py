"""What the router's health depends on: its database, without which it does not serve, and the asset service."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sqlalchemy.exc import SQLAlchemyError

from router_service.storage import Storage
from service_kit.errors import AtelierError
from service_kit.health import HealthBoard

_EVERY_S = 5.0
_DEADLINE_S = 2.0


class Vitals:
    """Looks at the dependencies from time to time."""

    def __init__(self, health: HealthBoard, storage: Storage, asset_channel: grpc.aio.Channel) -> None:
        self._health = health
        self._storage = storage
        self._assets: Any = health_pb2_grpc.HealthStub(asset_channel)

    async def run(self) -> None:
        """Look every five seconds, until cancelled."""
        while True:
            await self.check()
            await asyncio.sleep(_EVERY_S)

    async def check(self) -> None:
        """Look once."""
        await asyncio.gather(self._check_database(), self._check_assets())

    async def _check_database(self) -> None:
        try:
            async with self._storage.read() as tx:
                await tx.now()
        except (SQLAlchemyError, AtelierError):
            self._health.set("database", False, "the database does not answer")
        else:
            self._health.set("database", True)

    async def _check_assets(self) -> None:
        try:
            reply = await self._assets.Check(health_pb2.HealthCheckRequest(), timeout=_DEADLINE_S)
        except grpc.RpcError:
            self._health.set("asset_service", False, "the asset service does not answer", required=False)
        else:
            serving = reply.status == health_pb2.HealthCheckResponse.SERVING
            self._health.set("asset_service", serving, "" if serving else "it does not serve", required=False)
