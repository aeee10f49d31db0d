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
