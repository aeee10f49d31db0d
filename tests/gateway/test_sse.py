"""A stream of events ends with its frames, with its client, or with the gateway, and says that it lives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import timedelta

import pytest

from gateway.closing import Closing
from gateway.http import Exchange, Limits, Message, Receive, Send
from gateway.sse import PING, send_events
from gateway.web_server import WebServer


class Streams:
    """An application that answers with the same stream each time; behind the first frame it waits for `go_on`."""

    def __init__(self) -> None:
        self.closing = Closing()
        self.go_on = asyncio.Event()
        self.closed = asyncio.Event()
        self.fault: Exception | None = None
        self.raised: Exception | None = None
        self.ping = timedelta(hours=1)
        self.last_words = timedelta(0)

    async def frames(self) -> AsyncGenerator[bytes, None]:
        try:
            yield b"data: first\n\n"
            await self.go_on.wait()
            if self.fault is not None:
                raise self.fault
            yield b"data: last\n\n"
        finally:
            self.closed.set()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send, request_id="r", limits=Limits())
        try:
            await send_events(
                exchange,
                self.frames(),
                closing=self.closing,
                ping_interval=self.ping,
                opening=b"data: opening\n\n",
                last_words=self.last_words,
            )
        except ValueError as error:
            self.raised = error
            await exchange.write(b"", more=False)


@pytest.fixture
async def streams() -> Streams:
    return Streams()


@pytest.fixture
async def port(streams: Streams) -> AsyncIterator[int]:
    server = WebServer(streams, "127.0.0.1:0")
    await server.start()
    yield server.port
    streams.go_on.set()
    await server.stop()


async def _ask(port: int, until: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    await asyncio.wait_for(reader.readuntil(until), 5)
    return reader, writer


async def test_it_ends_with_its_frames(streams: Streams, port: int) -> None:
    reader, writer = await _ask(port, b"data: first\n\n\r\n")
    streams.go_on.set()
    assert await asyncio.wait_for(reader.read(), 5) == b"c\r\ndata: last\n\n\r\n0\r\n\r\n"
    writer.close()
    assert streams.closed.is_set()


async def test_it_ends_whole_when_the_gateway_closes(streams: Streams, port: int) -> None:
    reader, writer = await _ask(port, b"data: first\n\n\r\n")
    streams.closing.set()
    assert await asyncio.wait_for(reader.read(), 5) == b"0\r\n\r\n"
    writer.close()
    assert streams.closed.is_set()
    # One that begins now says so, and ends.
    reader, writer = await _ask(port, b"data: opening\n\n\r\n")
    assert (await asyncio.wait_for(reader.read(), 5)).endswith(b"0\r\n\r\n")
    writer.close()


async def test_its_frames_may_say_that_the_gateway_closes(streams: Streams, port: int) -> None:
    streams.last_words = timedelta(hours=1)
    reader, writer = await _ask(port, b"data: first\n\n\r\n")
    streams.closing.set()
    # One that begins now has its say, too. Until it is here, the other one has long been told.
    late, late_writer = await _ask(port, b"data: first\n\n\r\n")
    streams.go_on.set()
    for each in (reader, late):
        assert await asyncio.wait_for(each.read(), 5) == b"c\r\ndata: last\n\n\r\n0\r\n\r\n"
    writer.close()
    late_writer.close()


async def test_nobody_is_told_that_the_gateway_closes_who_has_gone(streams: Streams, port: int) -> None:
    streams.last_words = timedelta(hours=1)
    _, writer = await _ask(port, b"data: first\n\n\r\n")
    streams.closing.set()
    writer.transport.abort()
    await asyncio.wait_for(streams.closed.wait(), 5)


async def test_its_frames_are_closed_when_the_client_goes(streams: Streams, port: int) -> None:
    _, writer = await _ask(port, b"data: first\n\n\r\n")
    writer.transport.abort()
    await asyncio.wait_for(streams.closed.wait(), 5)


async def test_a_fault_of_the_frames_is_raised(streams: Streams, port: int) -> None:
    streams.fault = ValueError("odd")
    reader, writer = await _ask(port, b"data: first\n\n\r\n")
    streams.go_on.set()
    await asyncio.wait_for(reader.read(), 5)
    writer.close()
    assert streams.raised is streams.fault


async def test_silence_is_told_from_the_end(streams: Streams, port: int) -> None:
    streams.ping = timedelta(milliseconds=20)
    reader, writer = await _ask(port, b"data: first\n\n\r\n")
    for _ in range(3):
        await asyncio.wait_for(reader.readuntil(PING), 5)
    writer.close()
