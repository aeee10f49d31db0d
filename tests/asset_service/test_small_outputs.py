"""Outputs that come whole in one message: as safe as those that come in pieces."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from asset_service.small_outputs import MAX_BYTES, MAX_UNDER_WAY_BYTES, SmallFile, SmallOutput
from atelier.asset.v1 import upload_service_pb2 as pb
from atelier.type.v1 import media_pb2
from atelier_worker.whole_outputs import WHOLE_BYTES
from service_kit.blobs import BlobInfo, NewBlob
from service_kit.capabilities import LeaseClaims
from service_kit.errors import (
    AlreadyExists,
    ErrorReason,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from service_kit.ids import asset_id, new_id
from tests.asset_service.harness import BOB, Harness, refusal
from tests.asset_service.pictures import encoded, png

THUMB = media_pb2.RENDITION_KIND_THUMB_256


def file(data: bytes, rendition: media_pb2.RenditionKind.ValueType = 0, **changes: Any) -> pb.OutputFile:  # type: ignore[assignment]
    """Return a file as a message carries it."""
    values: dict[str, Any] = {"data": data, "sha256": hashlib.sha256(data).hexdigest(), "rendition": rendition}
    return pb.OutputFile(**values | changes)


async def upload(
    harness: Harness, lease: LeaseClaims, *files: pb.OutputFile, index: int = 0
) -> pb.UploadOutputResponse:
    """Upload an output whole."""
    request = pb.UploadOutputRequest(asset_index=index, files=files)
    return await harness.uploads.UploadOutput(request, metadata=harness.as_worker(lease))


async def test_an_output_with_a_rendition_is_staged_measured_and_published(harness: Harness) -> None:
    job_id, picture, thumb = new_id(), png(40, 30), encoded("WEBP")
    lease = harness.lease(job_id)
    # In whatever order the files come.
    reply = await upload(harness, lease, file(thumb, THUMB), file(picture))
    assert (reply.media.width, reply.media.height, reply.media.content_type) == (40, 30, "image/png")
    assert reply.media.sha256 == hashlib.sha256(picture).hexdigest()
    assert await harness.listed() == []
    assert list((await harness.settle(job_id, {0: reply.receipt})).published) == [0]
    [asset] = await harness.listed()
    assert [rendition.kind for rendition in asset.renditions] == [THUMB]
    assert await harness.service.spool.names() == []
    await harness.service.expiry.look()
    assert {blob.sha256 for blob in await harness.blobs()} == {
        hashlib.sha256(one).hexdigest() for one in (picture, thumb)
    }


async def test_a_repeat_gets_the_same_receipt_however_it_comes(harness: Harness) -> None:
    lease, data = harness.lease(new_id()), png()
    first = await upload(harness, lease, file(data))
    again = await asyncio.gather(*(upload(harness, lease, file(data)) for _ in range(4)))
    in_steps = await harness.deliver(lease, data)
    assert {reply.receipt for reply in again} == {first.receipt} == {in_steps.receipt}
    assert len(await harness.blobs()) == 1


async def test_equal_outputs_at_once_are_one(harness: Harness) -> None:
    lease, data = harness.lease(new_id()), png()
    replies = await asyncio.gather(*(upload(harness, lease, file(data)) for _ in range(6)))
    assert len({reply.receipt for reply in replies}) == 1
    assert len(await harness.blobs()) == 1


async def test_what_was_begun_in_steps_can_be_sent_whole(harness: Harness) -> None:
    lease, data = harness.lease(new_id()), png()
    begun = await harness.start(lease, data)
    await harness.write(lease, begun.upload_id, data[:10])
    reply = await upload(harness, lease, file(data))
    assert harness.capabilities.verify_receipt(reply.receipt).upload_id == begun.upload_id
    assert await harness.service.spool.names() == []


async def test_what_came_in_steps_stays_when_the_whole_cannot_be_written(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease, data = harness.lease(new_id()), png()
    begun = await harness.start(lease, data)
    await harness.write(lease, begun.upload_id, data[:10])

    async def full(bucket: str, blobs: Sequence[NewBlob], **_: object) -> Sequence[BlobInfo | Exception]:
        return [Unavailable("Not now.")] * len(blobs)

    with monkeypatch.context() as patched:
        patched.setattr(harness.service.store, "put_many", full)
        assert isinstance(await refusal(upload(harness, lease, file(data))), Unavailable)
    assert (await harness.start(lease, data)).received_bytes == 10


async def test_what_a_cut_try_left_torn_is_removed_and_a_repeat_succeeds(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease, data, store = harness.lease(new_id()), png(), harness.service.store

    async def torn(bucket: str, blobs: Sequence[NewBlob], **_: object) -> Sequence[BlobInfo | Exception]:
        for blob in blobs:
            await store.put_bytes(bucket, blob.key, blob.data, content_type=blob.content_type)
            path = harness.service.settings.blobs_dir / bucket / f"{blob.key}.blob"
            os.truncate(path, path.stat().st_size - 3)
        return [AlreadyExists("The key is taken.")] * len(blobs)

    with monkeypatch.context() as patched:
        patched.setattr(store, "put_many", torn)
        assert isinstance(await refusal(upload(harness, lease, file(data))), Unavailable)
    assert list(harness.service.settings.blobs_dir.rglob("*.blob")) == []
    assert (await upload(harness, lease, file(data))).receipt


async def test_many_at_once_each_get_their_own_receipt_and_a_bad_one_harms_no_other(harness: Harness) -> None:
    leases = [harness.lease(new_id()) for _ in range(12)]
    calls = [upload(harness, lease, file(png(seed=seed))) for seed, lease in enumerate(leases)]
    bad = upload(harness, harness.lease(new_id()), file(b"\x89PNG\r\n\x1a\n and no more"))
    replies, refused = await asyncio.gather(asyncio.gather(*calls), refusal(bad))
    assert isinstance(refused, InvalidArgument)
    assert refused.reason is ErrorReason.MEDIA_DAMAGED
    for seed, (lease, reply) in enumerate(zip(leases, replies, strict=True)):
        receipt = harness.capabilities.verify_receipt(reply.receipt)
        assert (receipt.job_id, receipt.sha256) == (lease.job_id, hashlib.sha256(png(seed=seed)).hexdigest())


async def test_a_settled_job_takes_nothing_more_and_keeps_nothing(harness: Harness) -> None:
    job_id = new_id()
    await upload(harness, harness.lease(job_id), file(png()))
    await harness.settle(job_id, {})
    for lease in (harness.lease(job_id), harness.lease(job_id, fence=2)):
        error = await refusal(upload(harness, lease, file(png())))
        assert isinstance(error, FailedPrecondition)
        assert error.reason is ErrorReason.ALREADY_SETTLED
    await harness.service.expiry.look()
    assert await harness.blobs() == []
    async with harness.service.storage.read() as tx:
        assert await tx.uploads.of_outputs([asset_id(job_id, 0)]) == []


async def test_what_is_wrong_is_refused(harness: Harness) -> None:
    wrong: list[tuple[list[pb.OutputFile], ErrorReason | None]] = [
        ([file(png(), sha256="0" * 64)], ErrorReason.DIGEST_MISMATCH),
        ([file(png(), sha256="nonsense")], None),
        ([file(b"no picture")], ErrorReason.UNSUPPORTED_MEDIA),
        ([file(b"\x89PNG\r\n\x1a\n and no more")], ErrorReason.MEDIA_DAMAGED),
        ([file(png(300, 300), sha256="0" * 64)], ErrorReason.DIGEST_MISMATCH),
        ([file(png(), THUMB)], None),
        ([file(png()), file(png(seed=1))], None),
        ([file(png()), file(png(), THUMB), file(png(), THUMB)], None),
        ([], ErrorReason.MISSING_FIELD),
    ]
    for number, (files, reason) in enumerate(wrong):
        error = await refusal(upload(harness, harness.lease(new_id()), *files))
        assert isinstance(error, InvalidArgument), number
        assert reason in (None, error.reason), number
        assert await harness.blobs() == [], number


async def test_what_could_not_be_checked_is_not_taken(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise MemoryError

    lease = harness.lease(new_id())
    with monkeypatch.context() as patched:
        patched.setattr("asset_service.small_outputs._check_each", broken)
        assert isinstance(await refusal(upload(harness, lease, file(png()))), Internal)
    assert await harness.blobs() == []
    await upload(harness, lease, file(png()))


async def test_what_is_broken_off_keeps_its_locks_until_nothing_reads_its_bytes(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_outputs, begun, goes_on = harness.service.small_outputs, asyncio.Event(), asyncio.Event()
    ended: list[str] = []
    begin = small_outputs._batches.begin

    async def check(_: object) -> None:
        await goes_on.wait()
        ended.append("check")

    async def then_told(outputs: Any) -> Any:
        try:
            return await begin(outputs)
        finally:
            begun.set()

    @asynccontextmanager
    async def nothing(_: object) -> AsyncIterator[None]:
        yield
        raise AssertionError("it went on")

    @asynccontextmanager
    async def hold_all(_: object) -> AsyncIterator[None]:
        try:
            yield
        finally:
            ended.append("locks")

    monkeypatch.setattr("asset_service.small_outputs._check_digests", check)
    monkeypatch.setattr(small_outputs._batches, "begin", then_told)
    monkeypatch.setattr(small_outputs._intake, "begin_all", nothing)
    monkeypatch.setattr(small_outputs._locks, "hold_all", hold_all)
    picture = png()
    one = SmallOutput(harness.lease(new_id()), 0, [SmallFile(None, hashlib.sha256(picture).hexdigest(), picture)])
    taking = asyncio.create_task(small_outputs.take([one]))
    await begun.wait()
    [storing] = harness.service.unbroken._tasks
    # As a service does that has waited long enough: again and again.
    for _ in range(3):
        storing.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
    goes_on.set()
    await asyncio.wait({storing, taking})
    assert storing.cancelled()
    assert ended == ["check", "locks"]


async def test_the_index_and_the_size_are_those_of_the_lease(harness: Harness) -> None:
    lease = harness.lease(new_id(), max_outputs=1, max_bytes=100)
    assert isinstance(await refusal(upload(harness, lease, file(png(4, 4)), index=1)), InvalidArgument)
    assert isinstance(await refusal(upload(harness, lease, file(png(60, 60)))), InvalidArgument)


async def test_an_output_is_not_answered_with_other_renditions(harness: Harness) -> None:
    lease = harness.lease(new_id())
    await upload(harness, lease, file(png()), file(encoded("WEBP"), THUMB))
    error = await refusal(upload(harness, lease, file(png())))
    assert error.reason is ErrorReason.CONFLICTING_FIELDS


async def test_an_output_of_another_owner_under_the_same_fence_is_not_found(harness: Harness) -> None:
    job_id = new_id()
    await upload(harness, harness.lease(job_id), file(png()))
    assert isinstance(await refusal(upload(harness, harness.lease(job_id, owner=BOB), file(png()))), NotFound)


async def test_one_lease_has_a_bounded_number_of_uploads_of_one_file(harness: Harness) -> None:
    lease = harness.lease(new_id())
    for seed in range(8):
        await upload(harness, lease, file(png(seed=seed)))
    assert isinstance(await refusal(upload(harness, lease, file(png(seed=8)))), ResourceExhausted)
    await upload(harness, lease, file(png(seed=7)))


async def test_what_waits_to_be_written_is_bounded(harness: Harness) -> None:
    small_outputs = harness.service.small_outputs
    with small_outputs._room_for(1 << 20):
        small_outputs._under_way_bytes += MAX_UNDER_WAY_BYTES - (1 << 20)
        error = await refusal(upload(harness, harness.lease(new_id()), file(png())))
        small_outputs._under_way_bytes -= MAX_UNDER_WAY_BYTES - (1 << 20)
    assert isinstance(error, ResourceExhausted)
    assert error.retry_after is not None
    await upload(harness, harness.lease(new_id()), file(png()))


async def test_what_nobody_waits_for_any_more_counts_while_it_is_written(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_outputs, writing, goes_on = harness.service.small_outputs, asyncio.Event(), asyncio.Event()
    put = harness.service.store.put_many

    async def slow(bucket: str, blobs: Sequence[NewBlob], **options: Any) -> Sequence[BlobInfo | Exception]:
        writing.set()
        await goes_on.wait()
        return await put(bucket, blobs, **options)

    monkeypatch.setattr(harness.service.store, "put_many", slow)
    picture = png()
    one = SmallOutput(harness.lease(new_id()), 0, [SmallFile(None, hashlib.sha256(picture).hexdigest(), picture)])
    taking = asyncio.create_task(small_outputs.take([one]))
    await writing.wait()
    taking.cancel()
    await asyncio.wait({taking})
    assert small_outputs._under_way_bytes == len(picture)
    goes_on.set()
    await harness.service.unbroken.close()
    assert not small_outputs._under_way_bytes


def test_what_a_worker_sends_whole_is_taken_whole() -> None:
    assert WHOLE_BYTES <= MAX_BYTES


async def test_more_than_one_message_may_carry_is_refused(harness: Harness) -> None:
    lease = harness.lease(new_id(), max_bytes=1 << 30)
    too_large = file(b"x" * ((4 << 20) + 1))
    assert isinstance(await refusal(upload(harness, lease, too_large)), InvalidArgument)
    rest = [file(bytes([kind]) * (3 << 20), kind) for kind in (0, 1, 2)]  # type: ignore[arg-type]
    error = await refusal(upload(harness, lease, *rest))
    assert "StartUpload" in error.message


async def test_an_output_has_failed_only_when_nothing_of_it_is_being_written_any_more(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, writing, goes_on, written = harness.service.store, asyncio.Event(), asyncio.Event(), asyncio.Event()
    put = store.put_many

    async def slow(
        bucket: str, blobs: Sequence[NewBlob], *, chosen: asyncio.Future[Sequence[int]]
    ) -> Sequence[BlobInfo | Exception]:
        # The thumbnail fails; the picture is on its way, and so its row has to stay.
        assert list(await chosen) == [0, 1]
        writing.set()
        await goes_on.wait()
        [picture] = await put(bucket, [blob for blob in blobs if blob.content_type == "image/png"])
        written.set()
        return [picture, Unavailable("The thumbnail cannot be written.")]

    monkeypatch.setattr(store, "put_many", slow)
    job_id = new_id()
    files = (file(png()), file(encoded("WEBP"), THUMB))
    failing = asyncio.create_task(refusal(upload(harness, harness.lease(job_id), *files)))
    await writing.wait()
    await harness.settle(job_id, {})
    looking = asyncio.create_task(harness.service.expiry.look())
    await asyncio.wait({looking}, timeout=0.5)
    goes_on.set()
    async with asyncio.timeout(10):
        await written.wait()
        assert isinstance(await failing, Unavailable)
        await looking
    await harness.service.expiry.look()
    assert await harness.blobs() == []
