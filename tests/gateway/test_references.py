"""Files that requests name: fetched under the policy, brought in as the caller's uploads, bounded."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf.message import Message

from atelier.asset.v1 import asset_pb2, upload_service_pb2
from gateway.backends import Metadata, metadata
from gateway.references import References
from service_kit.clock import SystemClock
from service_kit.errors import AtelierError, ErrorReason, InvalidArgument, ResourceExhausted, Unauthenticated
from service_kit.identity import KeyKind, Owner
from service_kit.keyring import Keyrings
from tests.gateway.conftest import MakeWorld, World
from tests.service_kit.test_outgoing import Open, open_site, says

__all__ = ["open_site"]

PNG = b"\x89PNG\r\n\x1a\n" + b"picture" * 100_000


class Taken:
    """What the asset service got."""

    def __init__(self) -> None:
        self.files: list[tuple[upload_service_pb2.CreateUploadRequest, bytes, int]] = []

    async def create(self, messages: AsyncIterator[Any], context: Any) -> Message:
        first, data, told = None, b"", 0
        async for message in messages:
            first = first or message
            data += message.data
            told = message.size_bytes or told
        assert first is not None
        self.files.append((first, data, told))
        return upload_service_pb2.CreateUploadResponse(asset=asset_pb2.Asset(asset_id="new-asset"))


def entries(world: World, owner: str = "ann") -> Metadata:
    signer = Keyrings(world.settings.keys_dir).identity_signer(SystemClock())
    token = signer.issue(owner=Owner("default", owner), kind=KeyKind.USER, key_id="k").token.reveal()
    return metadata("request-1", token)


async def made(make_world: MakeWorld, taken: Taken, **changes: Any) -> tuple[World, References]:
    world = await make_world(outgoing__allow=("127.0.0.1/32",), outgoing__max_fetch_bytes=len(PNG), **changes)
    world.behaviour.uploads["CreateUpload"] = taken.create
    return world, world.gateway.context.references


async def test_a_url_becomes_an_asset_of_the_caller(make_world: MakeWorld, open_site: Open) -> None:
    taken = Taken()
    world, references = await made(make_world, taken)
    site = await open_site(says("200 OK", PNG, "content-type: image/png"))
    url = f"http://127.0.0.1:{site.port}/a.png"
    assert await references.from_text(url, entries(world), field="image") == "new-asset"
    _first, data, told = taken.files[0]
    assert data == PNG
    assert told == len(PNG)
    assert world.behaviour.last("CreateUpload").metadata["authorization"].startswith("Bearer ey")


async def test_a_data_uri_and_bytes_become_assets(make_world: MakeWorld) -> None:
    taken = Taken()
    world, references = await made(make_world, taken)
    uri = "data:image/png;base64," + base64.b64encode(PNG).decode()
    assert await references.from_text(uri, entries(world), field="image") == "new-asset"
    await references.from_data_uri("data:,a%20b", entries(world), field="image")
    await references.from_bytes(b"x", entries(world), field="image", content_type="image/webp", filename="a.webp")
    assert [(data, told) for _, data, told in taken.files] == [(PNG, len(PNG)), (b"a b", 3), (b"x", 1)]
    assert [first.content_type for first, _, _ in taken.files] == ["image/png", "", "image/webp"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("http://192.168.0.1/a.png", "leads to an address that is not public"),
        ("a.png", "must be an absolute https URL"),
        ("data:image/png;base64,%%%", "base64 is damaged"),
        ("data:image/png;base64", "is no data URI"),
        ("data:image/png;base64,", "must be a file of 1"),
        ("data:image/png" + ";" * 500 + "base64,AAAA", "at too great a length"),
        ("data:image/png," + "%" * 500_001, "at too great a length"),
        ("data:," + "x" * (len(PNG) + 1), "must be a file of 1"),
    ],
)
async def test_what_cannot_be_brought_in_names_the_field(make_world: MakeWorld, text: str, complaint: str) -> None:
    taken = Taken()
    world, references = await made(make_world, taken)
    with pytest.raises(InvalidArgument, match=complaint) as caught:
        await references.from_text(text, entries(world), field="input.image")
    assert caught.value.fields[0].field == "input.image"
    assert taken.files == []


@pytest.mark.parametrize(
    ("status", "body", "header", "complaint"),
    [
        ("200 OK", b"<html>", "content-type: text/html; charset=utf-8", "answered as text/html"),
        ("200 OK", PNG + b"x", "content-type: image/png", "larger than"),
        ("404 Not Found", b"", "content-type: image/png", "answered 404"),
        ("200 OK", b"x", "content-encoding: gzip", "compressed"),
    ],
)
async def test_what_a_server_answers_is_judged(
    make_world: MakeWorld, open_site: Open, status: str, body: bytes, header: str, complaint: str
) -> None:
    taken = Taken()
    world, references = await made(make_world, taken)
    site = await open_site(says(status, body, header))
    with pytest.raises(InvalidArgument, match=complaint) as caught:
        await references.from_url(f"http://127.0.0.1:{site.port}/", entries(world), field="image")
    assert caught.value.reason is ErrorReason.REFERENCE_UNREADABLE
    assert taken.files == []


async def test_a_file_that_breaks_off_leaves_no_upload(make_world: MakeWorld, open_site: Open) -> None:
    taken = Taken()
    world, references = await made(make_world, taken)

    async def half(_head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n" + b"x" * 50000)

    site = await open_site(half)
    with pytest.raises(InvalidArgument, match="could not be fetched"):
        await references.from_url(f"http://127.0.0.1:{site.port}/", entries(world), field="image")
    assert taken.files == []


async def test_the_asset_service_has_the_last_word(make_world: MakeWorld, open_site: Open) -> None:
    async def refuse(messages: AsyncIterator[Any], context: Any) -> Message:
        raise InvalidArgument("This is no picture.", ErrorReason.UNSUPPORTED_MEDIA)

    world, references = await made(make_world, Taken())
    world.behaviour.uploads["CreateUpload"] = refuse
    site = await open_site(says("200 OK", PNG, "content-type: image/png"))
    with pytest.raises(AtelierError, match="no picture") as caught:
        await references.from_url(f"http://127.0.0.1:{site.port}/", entries(world), field="image")
    assert caught.value.reason is ErrorReason.UNSUPPORTED_MEDIA


async def test_nothing_is_fetched_for_a_token_that_is_not_ours(make_world: MakeWorld, open_site: Open) -> None:
    _, references = await made(make_world, Taken())
    site = await open_site(says("200 OK", PNG))
    for token in (None, "ey.made.up"):
        with pytest.raises(Unauthenticated):
            await references.from_url(f"http://127.0.0.1:{site.port}/", metadata("r", token), field="image")
    assert site.asked == []


async def test_a_flood_is_refused_by_name_and_leaves_room_for_others(make_world: MakeWorld, open_site: Open) -> None:
    world, references = await made(make_world, Taken(), outgoing__fetches=3)
    release = asyncio.Event()

    async def later(_head: bytes, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        await says("200 OK", PNG)(_head, writer)

    site = await open_site(later)

    def fetch(owner: str) -> asyncio.Task[str]:
        url = f"http://127.0.0.1:{site.port}/"
        return asyncio.create_task(references.from_url(url, entries(world, owner), field="image"))

    going = [fetch("ann"), fetch("bob")]
    with pytest.raises(ResourceExhausted, match="Too many"):
        await fetch("ann")
    going.append(fetch("cat"))
    with pytest.raises(ResourceExhausted, match="Too many"):
        await fetch("dan")
    release.set()
    assert await asyncio.gather(*going) == ["new-asset"] * 3
    assert await fetch("ann") == "new-asset"


async def test_our_own_media_may_be_named(make_world: MakeWorld, open_site: Open) -> None:
    site = await open_site(says("200 OK", PNG, "content-type: image/png"))
    public = f"http://127.0.0.1:{site.port}"
    world = await make_world(core__public_url=public)
    taken = Taken()
    world.behaviour.uploads["CreateUpload"] = taken.create
    references = world.gateway.context.references
    assert await references.from_url(f"{public}/media/b/k?signature=x", entries(world), field="image") == "new-asset"
    with pytest.raises(InvalidArgument):
        await references.from_url(f"{public}/v1/jobs", entries(world), field="image")
