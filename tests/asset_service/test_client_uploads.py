"""Files of clients: an asset, or nothing at all."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from asset_service import upload_servicer
from asset_service.domain import Upload, UploadState
from atelier.asset.v1 import asset_pb2, upload_service_pb2
from atelier.type.v1 import generation_pb2
from service_kit.clock import ManualClock
from service_kit.errors import ErrorReason, InvalidArgument, ResourceExhausted, Unauthenticated
from service_kit.identity import Owner
from service_kit.ids import new_id
from tests.asset_service.harness import ANN, BOB, Harness, eventually, refusal, running
from tests.asset_service.pictures import encoded, mp4, png


async def nothing_is_left(harness: Harness) -> bool:
    async with harness.service.storage.read() as tx:
        uploads = await tx.uploads.deleting("", 10)
    spool = await harness.service.spool.names()
    return not uploads and not spool and not await harness.blobs() and not await harness.listed()


async def test_a_file_becomes_an_asset(harness: Harness) -> None:
    data = encoded("JPEG", 60, 40)
    asset = await harness.bring(data, filename="ünïcode 提灯.jpg", size_bytes=len(data))
    assert asset.source == asset_pb2.ASSET_SOURCE_UPLOAD
    assert asset.format == generation_pb2.FORMAT_IMAGE
    assert (asset.media.content_type, asset.media.width, asset.media.height) == ("image/jpeg", 60, 40)
    assert asset.media.sha256 == hashlib.sha256(data).hexdigest()
    assert asset.filename == "ünïcode 提灯.jpg"
    assert asset.job_id == ""
    assert await harness.listed() == [asset]
    bucket, key, generation = harness.fetch(asset.url)
    assert key.startswith("default/ann/uploads/")
    stored = b"".join([chunk async for chunk in harness.service.store.open_range(bucket, key, generation=generation)])
    assert stored == data
    assert await harness.service.spool.names() == []


async def test_each_upload_is_an_asset_of_its_own(harness: Harness) -> None:
    first, second = await harness.bring(png()), await harness.bring(png())
    assert first.asset_id != second.asset_id
    assert [asset.asset_id for asset in await harness.listed()] == [second.asset_id, first.asset_id]


async def test_a_video_is_taken(harness: Harness, tmp_path: Path) -> None:
    asset = await harness.bring(mp4(tmp_path))
    assert asset.format == generation_pb2.FORMAT_VIDEO
    assert asset.media.duration_ms == 1500


async def test_the_bytes_tell_the_type(harness: Harness) -> None:
    for believed in ("", "image/png", "IMAGE/PNG; charset=binary", "application/octet-stream", "image/x-png"):
        asset = await harness.bring(png(), content_type=believed, filename="picture.svg")
        assert asset.media.content_type == "image/png", believed


async def test_what_is_announced_is_checked(harness: Harness) -> None:
    wrong: list[tuple[dict[str, Any], ErrorReason]] = [
        ({"content_type": "image/jpeg"}, ErrorReason.MEDIA_DISGUISED),
        ({"content_type": "text/plain"}, ErrorReason.MEDIA_DISGUISED),
        ({"size_bytes": 100_000}, ErrorReason.INCOMPLETE_UPLOAD),
        ({"size_bytes": 1}, ErrorReason.INCOMPLETE_UPLOAD),
        ({"sha256": "0" * 64}, ErrorReason.DIGEST_MISMATCH),
        ({"sha256": "short"}, ErrorReason.INVALID_VALUE),
        ({"filename": "a\nb"}, ErrorReason.INVALID_VALUE),
        ({"filename": "x" * 256}, ErrorReason.OUT_OF_RANGE),
    ]
    for announced, reason in wrong:
        error = await refusal(harness.bring(png(), **announced))
        assert isinstance(error, InvalidArgument), announced
        assert error.reason is reason, announced
        assert await nothing_is_left(harness), announced


@pytest.mark.parametrize("index", ["first", "last"])
async def test_a_truncated_video_is_refused(harness: Harness, tmp_path: Path, index: str) -> None:
    whole = mp4(tmp_path, 128, 128, frames=40, index=index)
    for length in (40, len(whole) // 2, len(whole) - 200):
        error = await refusal(harness.bring(whole[:length]))
        assert error.reason is ErrorReason.MEDIA_DAMAGED
    assert await nothing_is_left(harness)


async def test_too_large_a_file_is_refused(tmp_path: Path, clock: ManualClock) -> None:
    async with running(tmp_path, clock, asset__max_upload_bytes=100_000) as harness:
        for announced_bytes in (0, 100_001):
            error = await refusal(harness.bring(bytes(5_000_000), size_bytes=announced_bytes))
            assert isinstance(error, ResourceExhausted)
            assert error.reason is ErrorReason.BODY_TOO_LARGE
            assert await nothing_is_left(harness)


async def test_too_large_a_file_is_refused_while_it_still_arrives(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_servicer, "PATIENCE", timedelta(milliseconds=10))
    async with running(tmp_path, clock, asset__max_upload_bytes=100_000) as harness:
        never = asyncio.Event()

        async def without_end() -> AsyncIterator[upload_service_pb2.CreateUploadRequest]:
            for _ in range(3):
                yield upload_service_pb2.CreateUploadRequest(data=bytes(50_000))
            await never.wait()

        error = await refusal(harness.uploads.CreateUpload(without_end(), metadata=harness.as_user(ANN)))
        assert error.reason is ErrorReason.BODY_TOO_LARGE
        assert await nothing_is_left(harness)


async def test_a_stream_that_ends_without_ever_saying_its_size_may_have_been_cut(harness: Harness) -> None:
    async def messages(*sizes: int) -> AsyncIterator[upload_service_pb2.CreateUploadRequest]:
        yield upload_service_pb2.CreateUploadRequest(data=png(), size_bytes=sizes[0])
        yield upload_service_pb2.CreateUploadRequest(size_bytes=sizes[1])

    error = await refusal(harness.uploads.CreateUpload(messages(0, 0), metadata=harness.as_user(ANN)))
    assert error.reason is ErrorReason.INCOMPLETE_UPLOAD
    assert await nothing_is_left(harness)
    reply = await harness.uploads.CreateUpload(messages(0, len(png())), metadata=harness.as_user(ANN))
    assert reply.asset.media.size_bytes == len(png())


async def test_a_broken_stream_leaves_nothing(harness: Harness) -> None:
    began, broken = asyncio.Event(), asyncio.Event()

    async def half() -> AsyncIterator[upload_service_pb2.CreateUploadRequest]:
        yield upload_service_pb2.CreateUploadRequest(data=png()[:500])
        began.set()
        await broken.wait()

    call = asyncio.ensure_future(harness.uploads.CreateUpload(half(), metadata=harness.as_user(ANN)))
    await began.wait()
    await eventually(harness.service.spool.names)
    call.cancel()
    broken.set()
    await eventually(lambda: nothing_is_left(harness))


async def test_an_upload_that_was_left_behind_goes_after_its_deadline(tmp_path: Path, clock: ManualClock) -> None:
    """As after a crash in the middle: the row and the file are there, and nobody sends."""
    async with running(tmp_path, clock) as harness:
        upload = await _left_behind(harness)
        await harness.service.expiry.look()
        assert await harness.service.spool.names() == [upload]
        clock.advance(timedelta(hours=1, seconds=1))
        await harness.service.expiry.look()
        assert await nothing_is_left(harness)
        async with harness.service.storage.read() as tx:
            assert await tx.uploads.find(upload) is None


async def _left_behind(harness: Harness) -> str:
    upload_id = new_id()
    async with harness.service.storage.write() as tx:
        await tx.uploads.add(
            Upload(
                upload_id=upload_id,
                asset_id=new_id(),
                owner=ANN,
                job_id=None,
                stage=0,
                fence=0,
                asset_index=0,
                rendition=None,
                key=f"default/ann/uploads/{upload_id}",
                size_bytes=0,
                sha256="",
                state=UploadState.OPEN,
                deadline_at=await tx.now() + timedelta(hours=1),
            )
        )
    await harness.service.spool.open(upload_id)
    return upload_id


async def test_any_owner_has_a_place_for_his_bytes(harness: Harness) -> None:
    for owner_id in ("a/b/../c", "..", "名" * 100, "a b%2F", ".hidden.blob"):
        owner = Owner("default", owner_id)
        asset = await harness.bring(png(), owner)
        assert await harness.listed(owner) == [asset], owner_id
        bucket, key, generation = harness.fetch(asset.url)
        stored = await harness.service.store.stat(bucket, key)
        assert stored is not None, owner_id
        assert stored.generation == generation, owner_id


async def test_uploading_needs_an_identity_and_the_asset_is_its_owners(harness: Harness) -> None:
    request = upload_service_pb2.CreateUploadRequest(data=png())

    async def one() -> AsyncIterator[upload_service_pb2.CreateUploadRequest]:
        yield request

    assert isinstance(await refusal(harness.uploads.CreateUpload(one())), Unauthenticated)
    asset = await harness.bring(png(), owner=BOB)
    assert await harness.listed(ANN) == []
    assert [found.asset_id for found in await harness.listed(BOB)] == [asset.asset_id]
