"""Clients that ask and then do not read: the service is slowed, nothing piles up, and in the end they are let go."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

import pytest

from atelier.router.v1 import router_service_pb2
from gateway.http import Message, Receive, Send
from gateway.http_connection import HttpConnection
from gateway.web_server import WebServer
from service_kit.blobs import open_store
from service_kit.clock import SystemClock
from service_kit.keyring import Keyrings
from tests.gateway.conftest import MakeWorld, World

PIECE = "x" * 32_000


@pytest.fixture
async def impatient(make_world: MakeWorld) -> World:
    return await make_world(gateway__request_timeout=timedelta(milliseconds=400))


@asynccontextmanager
async def _asking(world: World, path: str) -> AsyncIterator[asyncio.StreamReader]:
    """Ask over a connection whose small buffers fill at once, and read nothing."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.setblocking(False)
    await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", world.port))
    reader, writer = await asyncio.open_connection(sock=made, limit=4096)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: atl_ann\r\n\r\n".encode())
    try:
        yield reader
    finally:
        writer.transport.abort()


@pytest.mark.parametrize(
    ("path", "rpc", "reply"),
    [
        ("/v1/jobs/j1/events", "WatchJob", router_service_pb2.WatchJobResponse),
        ("/v1/events", "WatchJobs", router_service_pb2.WatchJobsResponse),
    ],
)
async def test_a_stream_that_nobody_reads_is_ended(impatient: World, path: str, rpc: str, reply: Any) -> None:
    ended = asyncio.Event()
    sent = 0

    async def watch(request: Any, context: Any) -> AsyncIterator[Any]:
        nonlocal sent
        await context.send_initial_metadata((("atelier-stream", "open"),))
        try:
            while True:
                yield reply(progress=router_service_pb2.Progress(phase=PIECE))
                sent += 1
        finally:
            ended.set()

    impatient.behaviour.streams[rpc] = watch
    async with _asking(impatient, path):
        await asyncio.wait_for(ended.wait(), 10)
    # What was taken lies in the buffers of the sockets and of gRPC; 64 events may wait in the merged stream.
    assert sent * len(PIECE) < 16 << 20


async def test_a_file_that_nobody_reads_is_let_go(impatient: World, caplog: pytest.LogCaptureFixture) -> None:
    async def content() -> AsyncIterator[bytes]:
        for _ in range(256):
            yield b"x" * 65_536

    store = open_store(impatient.settings)
    info = await store.put("workspace-temp", "big.png", content(), content_type="image/png")
    signer = Keyrings(impatient.settings.keys_dir).media_signer("asset", SystemClock(), base_url="")
    url = signer.sign(info.bucket, info.key, info.generation, timedelta(hours=1)).url
    cut = asyncio.Event()
    limits = impatient.gateway.app.limits
    abort = limits.abort

    def cutting(scope: Mapping[str, Any]) -> None:
        abort(scope)
        cut.set()

    limits.abort = cutting
    async with _asking(impatient, url) as reader:
        await asyncio.wait_for(cut.wait(), 10)
        got = 0
        with suppress(ConnectionError):
            while chunk := await reader.read(65_536):
                got += len(chunk)
    # A client that reads on at last sees by the announced length that this is not the whole.
    assert got < info.size_bytes
    assert "uvicorn.error" not in caplog.text


@pytest.mark.parametrize("more", [b"Connection: close\r\n\r\n", b"\r\n\0"])
async def test_the_last_of_an_answer_that_nobody_reads_is_let_go(monkeypatch: pytest.MonkeyPatch, more: bytes) -> None:
    monkeypatch.setattr("gateway.joined_writes.SLOWEST_BYTES_PER_S", 1 << 30)
    gone = asyncio.Event()

    async def answer(scope: Message, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * (16 << 20)})

    class Noting(HttpConnection):
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            gone.set()

    monkeypatch.setattr("gateway.web_server.HttpConnection", Noting)
    server = WebServer(answer, "127.0.0.1:0", write_timeout=timedelta(milliseconds=100))
    await server.start()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.port))
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + more)
        await asyncio.wait_for(gone.wait(), 10)
    await server.stop()
