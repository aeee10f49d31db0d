"""Hundreds of idle event streams on one gateway: all hear of an event, and who leaves ends nobody's but his own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from atelier.router.v1 import router_service_pb2
from tests.gateway.conftest import World

WATCHERS, LEAVING = 300, 100


async def _watch(port: int, room: asyncio.Semaphore) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with room:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /v1/jobs/j1/events HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: atl_ann\r\n\r\n")
        await reader.readuntil(b": open")
        return reader, writer


async def test_hundreds_of_streams_hear_and_leave_one_by_one(world: World) -> None:
    told, again, left = asyncio.Event(), asyncio.Event(), asyncio.Semaphore(0)

    async def watch(request: Any, context: Any) -> AsyncIterator[Any]:
        await context.send_initial_metadata((("atelier-stream", "open"),))
        try:
            for event in (told, again):
                await event.wait()
                yield router_service_pb2.WatchJobResponse(progress=router_service_pb2.Progress(phase="drawing"))
            await asyncio.Event().wait()
        finally:
            left.release()

    world.behaviour.streams["WatchJob"] = watch
    room = asyncio.Semaphore(50)
    streams = await asyncio.gather(*(_watch(world.port, room) for _ in range(WATCHERS)))
    try:
        told.set()
        await asyncio.gather(*(reader.readuntil(b"event: progress") for reader, _ in streams))
        for _, writer in streams[:LEAVING]:
            writer.transport.abort()
        for _ in range(LEAVING):
            await left.acquire()
        again.set()
        await asyncio.gather(*(reader.readuntil(b"event: progress") for reader, _ in streams[LEAVING:]))
        assert left.locked(), "nobody else's stream has ended"
    finally:
        for _, writer in streams:
            writer.transport.abort()
