"""Channels over networks that are slow: a connection that takes its time is not given up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from atelier_worker.dial import dial
from service_kit.channels import connect

# Of the way there, and as long back: more than half of what is far away, or a busy machine.
_DELAY_S = 0.15
_LIMIT_S = 10.0


@pytest.mark.parametrize("open_channel", [connect, dial], ids=["service", "worker"])
async def test_a_slow_way_to_a_service_is_not_taken_for_none(open_channel: Callable[[str], grpc.aio.Channel]) -> None:
    """A call that meets an attempt to connect which was given up is UNAVAILABLE at once."""
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(_Serving(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with _slow_way_to(port) as target, open_channel(target) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            reply = await stub.Check(health_pb2.HealthCheckRequest(), timeout=_LIMIT_S)
    finally:
        await server.stop(None)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


class _Serving(health_pb2_grpc.HealthServicer):
    async def Check(self, request: object, context: object) -> health_pb2.HealthCheckResponse:
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


@asynccontextmanager
async def _slow_way_to(port: int) -> AsyncIterator[str]:
    """Pass bytes on, later. Yields an address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        try:
            await _first_of(_pass_on(reader, back), _pass_on(there, writer))
        finally:
            back.close()
            writer.close()

    proxy = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
    finally:
        proxy.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await asyncio.wait_for(reader.read(65536), _LIMIT_S):
        await asyncio.sleep(_DELAY_S)  # it stands for the distance
        writer.write(data)
        await asyncio.wait_for(writer.drain(), _LIMIT_S)


async def _first_of(*ways: Awaitable[None]) -> None:
    tasks = [asyncio.ensure_future(way) for way in ways]
    _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED, timeout=_LIMIT_S)
    for task in pending:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
