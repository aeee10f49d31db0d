"""Items as one archive: whole, by their names, page by page, and never more of it in memory than a piece."""

from __future__ import annotations

import asyncio
import io
import os
import tracemalloc
import zipfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from atelier.library.v1 import library_service_pb2 as pb
from gateway.downloads import Names
from service_kit.blobs import LIBRARY_BUCKET, BlobInfo, open_store
from service_kit.blobs.local import LocalBlobStore
from service_kit.clock import SystemClock
from service_kit.keyring import Keyrings
from tests.gateway.conftest import World
from tests.gateway.fakes import ANN

URL = "/v1/items.zip"
MOMENT = datetime(2026, 5, 4, 3, 2, 2, tzinfo=UTC)


async def _chunks(content: bytes, size: int = 1 << 16) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def _item(world: World, key: str, content: bytes, **said: Any) -> pb.Item:
    """Put bytes into the store and return an item that has them."""
    info = await open_store(world.settings).put(LIBRARY_BUCKET, key, _chunks(content), content_type="image/png")
    signer = Keyrings(world.settings.keys_dir).media_signer("library", SystemClock(), base_url="http://x")
    item = pb.Item(item_id=key, url=signer.sign(LIBRARY_BUCKET, key, info.generation, timedelta(hours=1)).url, **said)
    item.media.content_type, item.media.size_bytes = "image/png", len(content)
    item.created_at.FromDatetime(MOMENT)
    return item


def _lists(world: World, *pages: list[pb.Item], is_bound: bool = False) -> list[pb.ListItemsRequest]:
    """Have the library answer with these pages. Returns what it is asked, as it comes."""
    asked: list[pb.ListItemsRequest] = []

    async def list_items(request: pb.ListItemsRequest, context: Any) -> pb.ListItemsResponse:
        number = int(request.page_token or 0)
        copy = pb.ListItemsRequest()
        copy.CopyFrom(request)
        asked.append(copy)
        token = str(number + 1) if number + 1 < len(pages) else ""
        return pb.ListItemsResponse(items=pages[number], next_page_token=token)

    async def count_items(request: pb.CountItemsRequest, context: Any) -> pb.CountItemsResponse:
        return pb.CountItemsResponse(total=10_000, is_bound=is_bound)

    world.behaviour.unary |= {"ListItems": list_items, "CountItems": count_items}
    return asked


async def test_the_archive_has_every_file_under_its_title(world: World) -> None:
    contents = {"k1": b"1" * 300_000, "k2": b"2", "k3": b"3" * 70_000}
    items = [await _item(world, key, content, title="Tür: 提灯/1") for key, content in contents.items()]
    asked = _lists(world, items[:2], items[2:])
    answer = await world.http.get(URL, params={"query": "cafe", "tags": ["a", "b"], "seed": 7}, headers=ANN)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zip")
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    assert archive.testzip() is None
    assert archive.namelist() == ["Tür 提灯 1.png", "Tür 提灯 1 (2).png", "Tür 提灯 1 (3).png"]
    assert [archive.read(name) for name in archive.namelist()] == list(contents.values())
    assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
    assert archive.infolist()[0].date_time == (2026, 5, 4, 3, 2, 2)
    assert [(request.query, list(request.tags), request.seed, request.page_token) for request in asked] == [
        ("cafe", ["a", "b"], 7, ""),
        ("cafe", ["a", "b"], 7, "1"),
    ]
    assert world.behaviour.last("CountItems").request.query == "cafe"


async def test_a_body_chooses_and_needs_an_identity(world: World) -> None:
    asked = _lists(world, [await _item(world, "k1", b"1")])
    answer = await world.http.post(URL, json={"item_ids": ["k1"]}, headers=ANN)
    assert zipfile.ZipFile(io.BytesIO(answer.content)).namelist() == ["k1.png"]
    assert list(asked[0].item_ids) == ["k1"]
    for response in (await world.http.post(URL, json={"item_ids": ["k1"]}), await world.http.get(URL)):
        assert response.status_code == 401
    assert (await world.http.delete(URL, headers=ANN)).status_code == 405


@pytest.mark.parametrize(
    ("query", "status", "word"),
    [
        ({"page_size": 3}, 400, "page_size"),
        ({"page_token": "x"}, 400, "page_token"),
        ({"colour": "red"}, 400, "colour"),
    ],
)
async def test_what_has_no_meaning_is_refused_by_field(
    world: World, query: dict[str, Any], status: int, word: str
) -> None:
    _lists(world, [await _item(world, "k1", b"1")])
    answer = await world.http.get(URL, params=query, headers=ANN)
    assert (answer.status_code, word in answer.text) == (status, True)


async def test_nothing_and_too_much_are_said_before_the_first_byte(world: World) -> None:
    _lists(world, [])
    assert (await world.http.get(URL, headers=ANN)).json()["error"]["reason"] == "not_found"
    one = await _item(world, "k1", b"1")
    _lists(world, [one], [one], is_bound=True)
    answer = await world.http.get(URL, headers=ANN)
    assert (answer.status_code, answer.json()["error"]["reason"]) == (409, "out_of_range")


async def test_a_file_that_went_meanwhile_is_named(world: World) -> None:
    store = open_store(world.settings)
    kept, gone = await _item(world, "k1", b"1"), await _item(world, "k2", b"2", title="gone")
    found = await store.stat(LIBRARY_BUCKET, "k2")
    assert found is not None
    await store.delete(LIBRARY_BUCKET, "k2", found.generation)
    _lists(world, [gone, kept])
    archive = zipfile.ZipFile(io.BytesIO((await world.http.get(URL, headers=ANN)).content))
    assert archive.namelist() == ["k1.png", "missing.txt"]
    assert b"gone.png" in archive.read("missing.txt")


async def test_much_is_sent_with_little_memory_and_a_client_that_goes_ends_it(world: World) -> None:
    size = 24 << 20
    items = [await _item(world, "k1", bytes(size)), await _item(world, "k2", bytes(size), title="second")]
    asked = _lists(world, items[:1], items[1:], [await _item(world, "k3", b"3")])
    tracemalloc.start()
    try:
        received = 0
        async with world.http.stream("GET", URL, headers=ANN) as answer:
            async for piece in answer.aiter_raw():
                received += len(piece)
                if received > size + (1 << 20):
                    break
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 12 << 20
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(asked) <= 2, "the third page is never asked for"


def test_names_are_such_that_every_system_can_write_them() -> None:
    names = Names()

    def named(title: str, prompt: str = "") -> str:
        item = pb.Item(item_id="0197", title=title)
        item.provenance.prompt = prompt
        item.media.content_type = "video/mp4"
        return names.give(item)

    assert named("../../etc/passwd\x00") == "etc passwd.mp4"
    assert named("CON") == "0197.mp4"
    assert named("", "a heron, taking off") == "a heron, taking off.mp4"
    assert named("A HERON, taking off") == "A HERON, taking off (2).mp4"
    assert named(" . ") == "0197 (2).mp4"
    assert len(named("x" * 500)) == 104
    assert named("missing") == "missing.mp4"
    reversed_ending = named("invoice\u202egnp.exe\x85\u2066")
    assert reversed_ending == "invoice gnp.exe.mp4"
    assert named("نمی‌خواهم") == "نمی‌خواهم.mp4", "a joiner is part of the word"
    assert (named("\u200d\u202e"), named("com¹ .txt")) == ("0197 (3).mp4", "0197 (4).mp4")
    for letter in ("提", "🦉", "é", "w"):
        for _ in range(3):
            name = named(letter * 5000)
            assert len(name.encode()) <= 240 and name.startswith(letter * 50)


async def test_a_file_that_is_torn_is_named_and_the_others_come(world: World) -> None:
    _lists(world, [await _item(world, key, b"123") for key in ("k1", "k2", "k3")])
    os.truncate(world.settings.blobs_dir / LIBRARY_BUCKET / "k2.blob" / "data", 0)
    archive = zipfile.ZipFile(io.BytesIO((await world.http.get(URL, headers=ANN)).content))
    assert archive.testzip() is None
    assert archive.namelist() == ["k1.png", "k3.png", "missing.txt"]
    assert b"k2.png" in archive.read("missing.txt")


async def test_a_file_that_goes_as_it_is_opened_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(world.settings)
    found = LocalBlobStore.stat

    async def stat(self: LocalBlobStore, bucket: str, key: str) -> BlobInfo | None:
        info = await found(self, bucket, key)
        if key == "k2" and info is not None:
            await store.delete(bucket, key, info.generation)
        return info

    _lists(world, [await _item(world, key, b"1") for key in ("k1", "k2", "k3")])
    monkeypatch.setattr(LocalBlobStore, "stat", stat)
    archive = zipfile.ZipFile(io.BytesIO((await world.http.get(URL, headers=ANN)).content))
    assert archive.testzip() is None
    assert archive.namelist() == ["k1.png", "k3.png", "missing.txt"]
