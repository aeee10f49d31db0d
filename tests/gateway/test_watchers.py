"""Hundreds of idle event streams on one gateway: all hear of an event, and who leaves ends nobody's but his own."""

from __future__ import annotations

import asyncio

from tests.gateway.conftest import World
from tests.gateway.logs import JobLog

WATCHERS, LEAVING = 300, 100


async def _watch(port: int, room: asyncio.Semaphore) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with room:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /v1/jobs/j1/events HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: atl_ann\r\n\r\n")
        # Who is told how the job is has begun to be told of changes: not before.
        await reader.readuntil(b"event: snapshot")
        return reader, writer


async def test_hundreds_of_streams_hear_and_leave_one_by_one(world: World) -> None:
    log = JobLog()
    world.behaviour.streams["WatchJob"] = log.watch
    room = asyncio.Semaphore(50)
    streams = await asyncio.gather(*(_watch(world.port, room) for _ in range(WATCHERS)))
    try:
        await log.add()
        await asyncio.gather(*(reader.readuntil(b"event: state") for reader, _ in streams))
        for _, writer in streams[:LEAVING]:
            writer.transport.abort()
        await log.add()
        await asyncio.gather(*(reader.readuntil(b"event: state") for reader, _ in streams[LEAVING:]))
        # They watch the same with one key: the service has one of them.
        assert log.followed == 1
    finally:
        for _, writer in streams:
            writer.transport.abort()
    await asyncio.wait_for(log.quiet(), 5)
