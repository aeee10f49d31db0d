"""What takes too long or is too much: services that are slow or away, bodies that are too large or never come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from tests.gateway.conftest import MakeWorld, World
from tests.gateway.fakes import ANN
from tests.gateway.raw import exchange, reason
from tests.gateway.test_errors import GENERATE, check_shape


async def test_a_service_that_is_too_slow(make_world: MakeWorld) -> None:
    world = await make_world(gateway__request_timeout=timedelta(milliseconds=200))

    async def wait(request: Any, context: Any) -> Any:
        await asyncio.Event().wait()

    world.behaviour.unary["GetJob"] = wait
    response = await world.http.get("/v1/jobs/x", headers=ANN)
    assert (response.status_code, check_shape(response)["reason"]) == (504, "deadline_exceeded")


async def test_a_service_that_is_away(world: World) -> None:
    await world.services.servers["library"].stop()
    response = await world.http.get("/v1/items", headers=ANN)
    assert (response.status_code, check_shape(response)["reason"]) == (503, "service_unavailable")
    assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_over_the_limit(make_world: MakeWorld, announced: bool) -> None:
    world = await make_world(gateway__max_body_bytes=1000)

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(300):
            yield b" " * 10_000

    content: Any = b" " * 3_000_000 if announced else chunks()
    response = await world.http.post(GENERATE, content=content, headers={**ANN, "content-type": "application/json"})
    error = check_shape(response)
    assert (response.status_code, error["reason"], error["status"]) == (413, "body_too_large", "RESOURCE_EXHAUSTED")
    assert "1000" in error["message"]


async def test_a_body_that_never_comes(make_world: MakeWorld) -> None:
    world = await make_world(gateway__request_timeout=timedelta(milliseconds=200))
    head = f"POST {GENERATE} HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: atl_ann\r\nConnection: close\r\n"
    status, _, body = await exchange(world.port, head.encode() + b"Content-Length: 50\r\n\r\n{")
    assert (status, reason(body)) == (504, "deadline_exceeded")


async def test_a_body_that_comes_drop_by_drop(make_world: MakeWorld) -> None:
    world = await make_world(gateway__request_timeout=timedelta(milliseconds=200))
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    head = f"POST {GENERATE} HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: atl_ann\r\nContent-Type: application/json\r\n"
    writer.write(head.encode() + b"Content-Length: 5000\r\n\r\n")

    async def drip() -> None:
        # Each drop comes in time.
        while True:
            writer.write(b" ")
            await asyncio.sleep(0.02)

    dripping = asyncio.create_task(drip())
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n"), 5)
    dripping.cancel()
    await asyncio.gather(dripping, return_exceptions=True)
    writer.transport.abort()
    assert answer.startswith(b"HTTP/1.1 504 ")


async def test_headers_that_never_end_are_cut_and_hold_up_nobody(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.http_connection._HEADER_TIMEOUT_S", 0.3)
    begun = b"GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\nX-Slow: "

    async def hold() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        writer.write(begun)
        try:
            return await asyncio.wait_for(reader.read(), 5)
        except ConnectionError:
            return b""
        finally:
            writer.transport.abort()

    slow = [asyncio.create_task(hold()) for _ in range(100)]
    assert (await world.http.get("/v1/jobs", headers=ANN)).status_code == 200
    assert set(await asyncio.gather(*slow)) == {b""}
