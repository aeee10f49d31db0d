"""The proxy: it forwards and counts, holds everything back while it stalls, resets what it cuts, and fails over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from faults.ports import free_port
from faults.proxy import Link


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(100):
        writer.write(data)
    writer.close()


@asynccontextmanager
async def _link(*, dead_first: bool = False) -> AsyncIterator[tuple[Link, list[int]]]:
    """Give a proxy in front of a server that says everything again, and what the proxy counted."""
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    counted: list[int] = []
    port = server.sockets[0].getsockname()[1]
    targets = [("127.0.0.1", free_port())] if dead_first else []
    link = Link("test", free_port(), [*targets, ("127.0.0.1", port)], on_sent=counted.append)
    await link.start()
    try:
        async with asyncio.timeout(10):
            yield link, counted
    finally:
        await link.close()
        server.close()


async def test_what_goes_in_comes_out_and_is_counted() -> None:
    async with _link() as (link, counted):
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        assert sum(counted) == 5
        writer.close()


async def test_a_stalled_link_lets_nothing_through_until_it_resumes() -> None:
    async with _link() as (link, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
        writer.write(b"before")
        await reader.readexactly(6)
        link.stall()
        writer.write(b"during")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await reader.readexactly(1)
        link.resume()
        assert await reader.readexactly(6) == b"during"
        writer.close()


async def test_a_cut_link_resets_its_connections_and_takes_new_ones() -> None:
    async with _link() as (link, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
        writer.write(b"before")
        await reader.readexactly(6)
        assert link.cut() == 1
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
        writer.write(b"after")
        assert await reader.readexactly(5) == b"after"
        writer.close()


async def test_a_dead_replica_is_passed_over() -> None:
    async with _link(dead_first=True) as (link, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.close()
