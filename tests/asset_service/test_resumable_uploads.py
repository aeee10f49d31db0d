"""Files that clients bring in pieces, through breaks and repeats."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from atelier.asset.v1 import asset_pb2
from atelier.asset.v1 import upload_service_pb2 as pb
from service_kit.clock import ManualClock
from service_kit.errors import ErrorReason, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from service_kit.identity import Owner
from tests.asset_service.harness import ANN, BOB, Harness, on_both_databases, refusal, running
from tests.asset_service.pictures import png

PICTURE = png(200, 200)


async def begin(harness: Harness, data: bytes = PICTURE, owner: Owner = ANN, **changes: Any) -> pb.ResumableUpload:
    fields: dict[str, Any] = {
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "filename": "a.png",
    } | changes
    return (await harness.uploads.BeginUpload(pb.BeginUploadRequest(**fields), metadata=harness.as_user(owner))).upload


async def append(
    harness: Harness, upload_id: str, data: bytes, offset: int = 0, owner: Owner = ANN
) -> pb.ResumableUpload:
    async def requests() -> AsyncIterator[pb.AppendUploadRequest]:
        yield pb.AppendUploadRequest(upload_id=upload_id, offset=offset, data=data[:10_000])
        for place in range(10_000, len(data), 10_000):
            yield pb.AppendUploadRequest(data=data[place : place + 10_000])

    return (await harness.uploads.AppendUpload(requests(), metadata=harness.as_user(owner))).upload


async def get(harness: Harness, upload_id: str, owner: Owner = ANN) -> pb.ResumableUpload:
    request = pb.GetUploadRequest(upload_id=upload_id)
    return (await harness.uploads.GetUpload(request, metadata=harness.as_user(owner))).upload


async def complete(harness: Harness, upload_id: str, owner: Owner = ANN, **said: Any) -> asset_pb2.Asset:
    request = pb.CompleteUploadRequest(upload_id=upload_id, **said)
    return (await harness.uploads.CompleteUpload(request, metadata=harness.as_user(owner))).asset


async def cancel(harness: Harness, upload_id: str, owner: Owner = ANN) -> None:
    await harness.uploads.CancelUpload(pb.CancelUploadRequest(upload_id=upload_id), metadata=harness.as_user(owner))


async def nothing_is_left(harness: Harness) -> bool:
    await harness.service.expiry.look()
    async with harness.service.storage.read() as tx:
        still_open = await tx.uploads.count_open_of_client(ANN)
    return not still_open and not await harness.service.spool.names() and not await harness.blobs()


@on_both_databases
async def test_a_file_in_pieces_becomes_an_asset_of_the_same_id(harness: Harness) -> None:
    begun = await begin(harness)
    assert (begun.size_bytes, begun.received_bytes) == (len(PICTURE), 0)
    reached = await append(harness, begun.upload_id, PICTURE[:30_000])
    assert reached.received_bytes == 30_000
    assert (await get(harness, begun.upload_id)).received_bytes == 30_000
    early = await refusal(complete(harness, begun.upload_id))
    assert (type(early), early.reason) == (FailedPrecondition, ErrorReason.INCOMPLETE_UPLOAD)
    await append(harness, begun.upload_id, PICTURE[30_000:], 30_000)
    asset = await complete(harness, begun.upload_id)
    assert (asset.asset_id, asset.filename) == (begun.upload_id, "a.png")
    assert asset.media.sha256 == hashlib.sha256(PICTURE).hexdigest()
    assert await complete(harness, begun.upload_id) == asset
    assert isinstance(await refusal(get(harness, begun.upload_id)), NotFound)
    assert await harness.service.spool.names() == []


async def test_it_goes_on_only_where_it_ends(harness: Harness) -> None:
    begun = await begin(harness)
    await append(harness, begun.upload_id, PICTURE[:100])
    for offset in (0, 99, 101):
        error = await refusal(append(harness, begun.upload_id, b"x", offset))
        assert error.reason is ErrorReason.INCOMPLETE_UPLOAD
        assert "must be 100" in error.message
    error = await refusal(append(harness, begun.upload_id, bytes(len(PICTURE)), 100))
    assert (type(error), error.reason) == (ResourceExhausted, ErrorReason.BODY_TOO_LARGE)


async def test_who_asks_how_far_it_is_waits_for_no_writer(harness: Harness, clock: ManualClock) -> None:
    begun = await begin(harness)
    added = await append(harness, begun.upload_id, PICTURE[:10])
    clock.advance(timedelta(minutes=5))
    async with harness.service.storage.write():
        async with asyncio.timeout(5):
            assert await get(harness, begun.upload_id) == added
    longer = await append(harness, begun.upload_id, PICTURE[10:20], 10)
    assert longer.expires_at.ToDatetime() - added.expires_at.ToDatetime() == timedelta(minutes=5)


async def test_somebody_else_learns_nothing(harness: Harness) -> None:
    begun = await begin(harness)
    for call in (
        append(harness, begun.upload_id, b"x", 0, BOB),
        get(harness, begun.upload_id, BOB),
        complete(harness, begun.upload_id, BOB),
        cancel(harness, begun.upload_id, BOB),
    ):
        assert isinstance(await refusal(call), NotFound)
    await append(harness, begun.upload_id, PICTURE)
    await complete(harness, begun.upload_id)
    assert isinstance(await refusal(complete(harness, begun.upload_id, BOB)), NotFound)


@pytest.mark.parametrize(
    ("data", "changes", "reason"),
    [
        (PICTURE, {"sha256": "0" * 64}, ErrorReason.DIGEST_MISMATCH),
        (PICTURE, {"content_type": "image/jpeg"}, ErrorReason.MEDIA_DISGUISED),
        (b"<html><script>", {}, ErrorReason.UNSUPPORTED_MEDIA),
        (PICTURE[:-100], {}, ErrorReason.MEDIA_DAMAGED),
    ],
)
async def test_a_refused_file_leaves_nothing(
    harness: Harness, data: bytes, changes: dict[str, Any], reason: ErrorReason
) -> None:
    begun = await begin(harness, data, **changes)
    await append(harness, begun.upload_id, data)
    error = await refusal(complete(harness, begun.upload_id))
    assert isinstance(error, InvalidArgument)
    assert error.reason is reason
    assert isinstance(await refusal(get(harness, begun.upload_id)), NotFound)
    assert await nothing_is_left(harness)


async def test_one_that_is_given_up_or_forgotten_leaves_nothing(harness: Harness, clock: ManualClock) -> None:
    given_up, forgotten = await begin(harness), await begin(harness)
    for begun in (given_up, forgotten):
        await append(harness, begun.upload_id, PICTURE[:1000])
    await cancel(harness, given_up.upload_id)
    assert isinstance(await refusal(cancel(harness, given_up.upload_id)), NotFound)
    assert await harness.service.spool.names() == [forgotten.upload_id]
    clock.advance(timedelta(minutes=59))
    await append(harness, forgotten.upload_id, b"x", 1000)
    clock.advance(timedelta(minutes=59))
    await harness.service.expiry.look()
    assert (await get(harness, forgotten.upload_id)).received_bytes == 1001
    clock.advance(timedelta(minutes=2))
    assert await nothing_is_left(harness)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sha256": "short"}, ErrorReason.INVALID_VALUE),
        ({"size_bytes": 0}, ErrorReason.OUT_OF_RANGE),
        ({"sha256": ""}, ErrorReason.MISSING_FIELD),
        ({"open_ended": True}, ErrorReason.CONFLICTING_FIELDS),
        ({"open_ended": True, "size_bytes": 0}, ErrorReason.CONFLICTING_FIELDS),
        ({"filename": "a\nb"}, ErrorReason.INVALID_VALUE),
        ({"size_bytes": 1 << 40}, ErrorReason.BODY_TOO_LARGE),
    ],
)
async def test_what_is_announced_is_checked(harness: Harness, changes: dict[str, Any], reason: ErrorReason) -> None:
    assert (await refusal(begin(harness, **changes))).reason is reason


@on_both_databases
async def test_an_open_ended_one_says_at_its_end_how_long_it_is(harness: Harness) -> None:
    begun = await begin(harness, size_bytes=0, sha256="", open_ended=True)
    assert begun.size_bytes == 0
    await append(harness, begun.upload_id, PICTURE[:30_000])
    # 0 says nothing.
    for said, reason in ((0, ErrorReason.MISSING_FIELD), (len(PICTURE), ErrorReason.INCOMPLETE_UPLOAD)):
        assert (await refusal(complete(harness, begun.upload_id, size_bytes=said))).reason is reason
    await append(harness, begun.upload_id, PICTURE[30_000:], 30_000)
    for _ in range(2):
        asset = await complete(harness, begun.upload_id, size_bytes=len(PICTURE))
        assert (asset.asset_id, asset.media.size_bytes) == (begun.upload_id, len(PICTURE))
    assert asset.media.sha256 == hashlib.sha256(PICTURE).hexdigest()


async def test_an_open_ended_one_has_its_limits_and_its_digest(tmp_path: Path, clock: ManualClock) -> None:
    async with running(tmp_path, clock, asset__max_upload_bytes="40000") as harness:
        begun = await begin(harness, size_bytes=0, sha256="", open_ended=True)
        over = await refusal(append(harness, begun.upload_id, PICTURE[:50_000]))
        assert over.reason is ErrorReason.BODY_TOO_LARGE
        kept = (await get(harness, begun.upload_id)).received_bytes
        assert kept == 40_000
        wrong = await refusal(complete(harness, begun.upload_id, size_bytes=kept, sha256="0" * 64))
        assert wrong.reason is ErrorReason.DIGEST_MISMATCH
        assert await nothing_is_left(harness)


async def test_what_is_said_at_the_end_is_checked_against_the_beginning(harness: Harness) -> None:
    begun = await begin(harness)
    await append(harness, begun.upload_id, PICTURE)
    longer = await refusal(complete(harness, begun.upload_id, size_bytes=len(PICTURE) + 1))
    assert longer.reason is ErrorReason.INCOMPLETE_UPLOAD
    other = await refusal(complete(harness, begun.upload_id, sha256="0" * 64))
    assert other.reason is ErrorReason.INVALID_VALUE
    assert (await complete(harness, begun.upload_id, size_bytes=len(PICTURE))).asset_id == begun.upload_id


async def test_an_owner_has_a_bounded_number_of_them(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asset_service.resumable_uploads.MAX_OPEN", 2)
    await begin(harness)
    await begin(harness)
    assert (await refusal(begin(harness))).reason is ErrorReason.LIMIT_REACHED
    await begin(harness, owner=BOB)


@on_both_databases
async def test_it_goes_on_after_a_restart(tmp_path: Path, clock: ManualClock, database_url: str) -> None:
    async with running(tmp_path, clock, core__database_url=database_url) as first:
        begun = await begin(first)
        await append(first, begun.upload_id, PICTURE[:50_000])
    async with running(tmp_path, clock, core__database_url=database_url) as second:
        await second.service.expiry.look()
        assert (await get(second, begun.upload_id)).received_bytes == 50_000
        await append(second, begun.upload_id, PICTURE[50_000:], 50_000)
        assert (await complete(second, begun.upload_id)).asset_id == begun.upload_id
