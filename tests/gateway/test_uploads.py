"""Uploads: what reaches the service, and what happens when either side breaks off."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from atelier.asset.v1 import asset_pb2, upload_service_pb2
from service_kit.errors import ErrorReason, InvalidArgument, ResourceExhausted
from tests.gateway.conftest import World
from tests.gateway.fakes import ANN

URL = "/v1/uploads"
CONTENT = bytes(range(256)) * 8000


@pytest.fixture
def received(world: World) -> list[Any]:
    """Let the service take every file, and keep the messages that it got."""
    messages: list[Any] = []

    async def take(requests: AsyncIterator[Any], context: Any) -> upload_service_pb2.CreateUploadResponse:
        async for message in requests:
            messages.append(message)
        return upload_service_pb2.CreateUploadResponse(asset=asset_pb2.Asset(asset_id="a1"))

    world.behaviour.uploads["CreateUpload"] = take
    return messages


async def test_the_body_is_the_file(world: World, received: list[Any]) -> None:
    digest = hashlib.sha256(CONTENT)
    headers = {
        **ANN,
        "content-type": "image/png; charset=binary",
        "content-digest": f"sha-256=:{base64.b64encode(digest.digest()).decode()}:",
    }
    response = await world.http.post(f"{URL}?filename=caf%C3%A9.png", content=CONTENT, headers=headers)
    assert response.status_code == 200, response.text
    assert response.json()["asset"]["asset_id"] == "a1"
    assert b"".join(message.data for message in received) == CONTENT
    first = received[0]
    assert (first.filename, first.content_type) == ("café.png", "image/png")
    assert (first.size_bytes, first.sha256) == (len(CONTENT), digest.hexdigest())
    assert all(not message.filename and message.size_bytes == 0 for message in received[1:])
    assert max(len(message.data) for message in received) <= 1 << 20
    assert world.behaviour.last("CreateUpload").metadata["authorization"].startswith("Bearer ey")


async def test_a_body_without_a_length_says_none(world: World, received: list[Any]) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"abc"
        yield b"def"

    response = await world.http.post(URL, content=chunks(), headers={**ANN, "content-type": "application/octet-stream"})
    assert response.status_code == 200
    assert b"".join(message.data for message in received) == b"abcdef"
    assert (received[0].size_bytes, received[0].content_type, received[0].sha256) == (0, "", "")
    # What could not be said at first is said at the end.
    assert (received[-1].size_bytes, received[-1].data) == (6, b"")


async def test_an_empty_body_is_one_empty_message(world: World, received: list[Any]) -> None:
    response = await world.http.post(URL, headers=ANN)
    assert response.status_code == 200
    assert [message.data for message in received] == [b""]


@pytest.mark.parametrize(
    ("query", "headers", "status", "field"),
    [
        ("?name=x", {}, 400, "name"),
        ("?size_bytes=x", {}, 400, "size_bytes"),
        ("?size_bytes=4", {}, 400, "size_bytes"),
        ("?data=eA%3D%3D", {}, 400, "data"),
        ("", {"digest": "sha-256=short"}, 400, "digest"),
        ("", {"content-type": "multipart/form-data; boundary=x"}, 415, "content-type"),
        ("", {"content-type": "application/x-www-form-urlencoded"}, 415, "content-type"),
    ],
)
async def test_what_is_announced_wrongly_is_named(
    world: World, received: list[Any], query: str, headers: dict[str, str], status: int, field: str
) -> None:
    response = await world.http.post(URL + query, content=b"abc", headers={**ANN, **headers})
    assert response.status_code == status
    assert response.json()["error"]["fields"][0]["field"] == field
    assert received == []


async def test_the_services_refusal_of_a_file_is_passed_on(world: World) -> None:
    async def refuse(requests: AsyncIterator[Any], context: Any) -> Any:
        # It hears the client out, as the asset service does: one that still sends would not see why it was refused.
        got = [len(message.data) async for message in requests]
        if sum(got) > 1 << 20:
            raise ResourceExhausted("The file is larger than 1 MiB.", ErrorReason.BODY_TOO_LARGE)
        raise InvalidArgument("too short for this test")

    world.behaviour.uploads["CreateUpload"] = refuse
    response = await world.http.post(URL, content=b"x" * (6 << 20), headers=ANN)
    assert response.status_code == 413
    assert response.json()["error"]["reason"] == "body_too_large"


@pytest.fixture
async def fate(world: World) -> tuple[asyncio.Event, asyncio.Future[str]]:
    """Say when the first message has come, and how the upload ended for a service that compares sizes."""
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    began = asyncio.Event()

    async def take(requests: AsyncIterator[Any], context: Any) -> Any:
        announced = got = 0
        try:
            async for message in requests:
                announced, got = announced or message.size_bytes, got + len(message.data)
                began.set()
            ended.set_result("whole" if announced and announced == got else "incomplete")
        except asyncio.CancelledError:
            ended.set_result("cancelled")
            raise
        return upload_service_pb2.CreateUploadResponse()

    world.behaviour.uploads["CreateUpload"] = take
    return began, ended


@pytest.mark.parametrize("length", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("rest", [None, b"this is no chunk\r\n"])
async def test_a_file_that_breaks_off_is_never_whole(
    world: World, fate: tuple[asyncio.Event, asyncio.Future[str]], length: str, rest: bytes | None
) -> None:
    began, ended = fate
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(f"POST {URL} HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: atl_ann\r\n{length}\r\n\r\n".encode())
    writer.write(b"3\r\nabc\r\n")
    await asyncio.wait_for(began.wait(), 5)
    if rest is not None and "chunked" in length:
        writer.write(rest)
        answer = await asyncio.wait_for(reader.read(), 5)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b'"reason": "malformed_request"' in answer
    writer.close()
    await writer.wait_closed()
    assert await asyncio.wait_for(ended, 5) in ("incomplete", "cancelled")


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_file_that_arrives_is_whole(
    world: World, fate: tuple[asyncio.Event, asyncio.Future[str]], chunked: bool
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"abc"

    response = await world.http.post(URL, content=chunks() if chunked else b"abc", headers=ANN)
    assert response.status_code == 200
    assert await fate[1] == "whole"


async def test_without_an_identity_nothing_is_read(world: World, received: list[Any]) -> None:
    response = await world.http.post(URL, content=b"abc")
    assert response.status_code == 401
    assert "CreateUpload" not in world.behaviour.seen
