"""Files that become blobs while they are being checked: nobody sees one before its checks have succeeded."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from service_kit.blobs import BlobInfo, BlobStore, gcs_objects, open_store
from service_kit.blobs.gcs_objects import Upload
from service_kit.blobs.local import LocalBlobStore
from service_kit.errors import AlreadyExists, InvalidArgument
from service_kit.settings import for_tests

BUCKET, KEY = "workspace-temp", "default/ann/file"
PART_BYTES = 256 << 10
LARGE = bytes(range(256)) * (PART_BYTES // 128)
"""Two whole parts: the request that makes the object has no bytes of it."""


@pytest.fixture(params=["", "gcs_url"], ids=["local", "gcs"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BlobStore]:
    url = request.getfixturevalue(request.param) if request.param else ""
    opened = open_store(for_tests(tmp_path / "data", blobs__url=url))
    yield opened
    await opened.close()


class Parts:
    """The sizes of what a bucket was sent of files, and whether that was all."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.all = asyncio.Event()


@pytest.fixture(autouse=True)
async def parts(monkeypatch: pytest.MonkeyPatch) -> Parts:
    sent, loop = Parts(), asyncio.get_running_loop()
    write: Callable[[Upload, bytes], int] = Upload.write

    def noted(upload: Upload, part: bytes) -> int:
        result = write(upload, part)
        sent.sizes.append(len(part))
        if not part:
            loop.call_soon_threadsafe(sent.all.set)
        return result

    monkeypatch.setattr(gcs_objects, "PART_BYTES", PART_BYTES)
    monkeypatch.setattr(Upload, "write", noted)
    return sent


def begin(store: BlobStore, path: Path, content: bytes, checked: asyncio.Future[Any]) -> asyncio.Task[BlobInfo]:
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return asyncio.create_task(
        store.put_file(BUCKET, KEY, path, content_type="video/mp4", sha256=digest, checked=checked)
    )


async def all_sent(store: BlobStore, parts: Parts) -> None:
    """Wait until a bucket has all bytes of a file; a folder has nothing to wait for."""
    if not isinstance(store, LocalBlobStore):
        async with asyncio.timeout(10):
            await parts.all.wait()


@pytest.mark.parametrize("content", [b"small", LARGE], ids=["small", "large"])
async def test_a_file_is_a_blob_only_when_it_is_checked(
    store: BlobStore, tmp_path: Path, parts: Parts, content: bytes
) -> None:
    checked = asyncio.get_running_loop().create_future()
    writing = begin(store, tmp_path / "file", content, checked)
    await all_sent(store, parts)
    assert await store.stat(BUCKET, KEY) is None
    assert not writing.done()
    checked.set_result(None)
    info = await writing
    assert (info.size_bytes, info.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert await store.stat(BUCKET, KEY) == info
    assert b"".join([piece async for piece in store.open_range(BUCKET, KEY, generation=info.generation)]) == content


@pytest.mark.parametrize("early", [True, False])
async def test_a_file_that_is_refused_is_never_a_blob(
    store: BlobStore, tmp_path: Path, parts: Parts, early: bool
) -> None:
    checked = asyncio.get_running_loop().create_future()
    refusal = InvalidArgument("It is no video.")
    if early:
        checked.set_exception(refusal)
    writing = begin(store, tmp_path / "file", LARGE, checked)
    if not early:
        await all_sent(store, parts)
        checked.set_exception(refusal)
    with pytest.raises(InvalidArgument, match="no video"):
        await writing
    assert len(parts.sizes) <= (1 if early else 3)
    assert await store.stat(BUCKET, KEY) is None
    # The key is free: what is right may come under it.
    checked = asyncio.get_running_loop().create_future()
    checked.set_result(None)
    assert (await begin(store, tmp_path / "file", LARGE, checked)).size_bytes == len(LARGE)


async def test_whoever_goes_leaves_the_checks_and_no_blob(store: BlobStore, tmp_path: Path, parts: Parts) -> None:
    checked = asyncio.get_running_loop().create_future()
    writing = begin(store, tmp_path / "file", LARGE, checked)
    await all_sent(store, parts)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert not checked.cancelled()
    checked.set_result(None)
    assert await store.stat(BUCKET, KEY) is None


async def test_a_key_that_is_taken_stays_as_it_was(store: BlobStore, tmp_path: Path) -> None:
    first = await store.put_bytes(BUCKET, KEY, b"first", content_type="image/png")
    checked = asyncio.get_running_loop().create_future()
    writing = begin(store, tmp_path / "file", LARGE, checked)
    await asyncio.sleep(0)
    checked.set_result(None)
    with pytest.raises(AlreadyExists):
        await writing
    assert await store.stat(BUCKET, KEY) == first


async def test_a_digest_that_is_known_is_not_computed_again(store: BlobStore) -> None:
    told = "0" * 64
    info = await store.put_bytes(BUCKET, KEY, b"small", content_type="image/png", sha256=told)
    assert info.sha256 == told
    assert await store.stat(BUCKET, KEY) == info
