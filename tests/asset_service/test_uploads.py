"""Outputs on their way in: resumable, checked, staged, and nobody else's business."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

from asset_service.domain import MAX_UPLOADS_PER_FILE
from atelier.asset.v1 import upload_service_pb2
from atelier.type.v1 import media_pb2
from service_kit.clock import ManualClock
from service_kit.errors import (
    ErrorReason,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from service_kit.ids import new_id
from tests.asset_service.harness import ANN, BOB, Harness, eventually, grant, refusal, running
from tests.asset_service.pictures import encoded, mp4, png

THUMB = media_pb2.RENDITION_KIND_THUMB_256


async def test_starting_again_finds_the_same_upload_and_what_it_has(harness: Harness) -> None:
    lease, data = harness.lease(new_id()), png(200, 100)
    first = await harness.start(lease, data)
    assert first.received_bytes == 0
    assert await harness.write(lease, first.upload_id, data[:5000]) == 5000

    again = await harness.start(lease, data)

    assert (again.upload_id, again.received_bytes) == (first.upload_id, 5000)


async def test_other_bytes_another_index_or_another_fence_are_another_upload(harness: Harness) -> None:
    job_id = new_id()
    lease, data = harness.lease(job_id), png()
    ids = {
        (await harness.start(lease, data)).upload_id,
        (await harness.start(lease, png(seed=1))).upload_id,
        (await harness.start(lease, data, index=1)).upload_id,
        (await harness.start(lease, data, rendition=THUMB)).upload_id,
        (await harness.start(harness.lease(job_id, fence=2), data)).upload_id,
    }
    assert len(ids) == 5


async def test_an_upload_goes_on_after_the_stream_was_cut_and_the_service_restarted(
    tmp_path: Path, clock: ManualClock
) -> None:
    lease_of, data = new_id(), png(300, 200)
    async with running(tmp_path, clock) as harness:
        lease = harness.lease(lease_of)
        started = await harness.start(lease, data)
        half = len(data) // 2
        arrived = asyncio.Event()

        async def cut() -> AsyncIterator[upload_service_pb2.WriteUploadRequest]:
            yield upload_service_pb2.WriteUploadRequest(upload_id=started.upload_id, data=data[:half])
            await arrived.wait()

        call = asyncio.ensure_future(harness.uploads.WriteUpload(cut(), metadata=harness.as_worker(lease)))

        async def half_arrived() -> bool:
            return (await harness.start(lease, data)).received_bytes == half

        await eventually(half_arrived)
        call.cancel()
        arrived.set()
    async with running(tmp_path, clock) as harness:
        lease = harness.lease(lease_of)
        again = await harness.start(lease, data)
        assert (again.upload_id, again.received_bytes) == (started.upload_id, half)
        assert await harness.write(lease, again.upload_id, data[half:], half) == len(data)
        finished = await harness.finish(lease, again.upload_id)
        assert finished.media.sha256 == hashlib.sha256(data).hexdigest()


async def test_bytes_at_another_offset_are_refused_and_told_the_right_one(harness: Harness) -> None:
    lease, data = harness.lease(new_id()), png(100, 100)
    upload_id = (await harness.start(lease, data)).upload_id
    await harness.write(lease, upload_id, data[:1000])
    for offset in (0, 999, 1001):
        error = await refusal(harness.write(lease, upload_id, data[1000:1200], offset))
        assert isinstance(error, FailedPrecondition)
        assert error.reason is ErrorReason.INCOMPLETE_UPLOAD
        assert "1000" in error.message
    assert (await harness.start(lease, data)).received_bytes == 1000


async def test_more_bytes_than_announced_are_refused(harness: Harness) -> None:
    lease, data = harness.lease(new_id()), png()
    upload_id = (await harness.start(lease, data)).upload_id
    error = await refusal(harness.write(lease, upload_id, data + b"x"))
    assert isinstance(error, ResourceExhausted)
    assert (await harness.start(lease, data)).received_bytes == 0


async def test_finishing_too_early_says_what_is_missing(harness: Harness) -> None:
    lease, data = harness.lease(new_id()), png()
    upload_id = (await harness.start(lease, data)).upload_id
    await harness.write(lease, upload_id, data[:100])
    error = await refusal(harness.finish(lease, upload_id))
    assert isinstance(error, FailedPrecondition)
    assert error.reason is ErrorReason.INCOMPLETE_UPLOAD
    assert f"100 of {len(data)}" in error.message


async def test_finishing_again_gives_the_same_receipt(harness: Harness) -> None:
    lease, thumb = harness.lease(new_id()), encoded("WEBP")
    output = await harness.send(lease, png())
    rendition = await harness.send(lease, thumb, rendition=THUMB)
    first, second = await asyncio.gather(
        harness.finish(lease, output, [rendition]), harness.finish(lease, output, [rendition])
    )
    third = await harness.finish(lease, output, [rendition])
    assert first == second == third
    assert len(await harness.blobs()) == 2
    assert await harness.service.spool.names() == []


async def test_the_receipt_says_what_was_measured(harness: Harness) -> None:
    job_id = new_id()
    lease, data, thumb = harness.lease(job_id, fence=7, stage=1), png(50, 40), encoded("WEBP", 10, 8)
    output = await harness.send(lease, data, 2)
    rendition = await harness.send(lease, thumb, 2, THUMB)
    receipt = harness.capabilities.verify_receipt((await harness.finish(lease, output, [rendition])).receipt)
    assert (receipt.job_id, receipt.stage, receipt.fence, receipt.asset_index) == (job_id, 1, 7, 2)
    assert receipt.sha256 == hashlib.sha256(data).hexdigest()
    assert (receipt.size_bytes, receipt.content_type) == (len(data), "image/png")
    assert (receipt.width, receipt.height, receipt.duration_ms) == (50, 40, None)
    [found] = receipt.renditions
    assert (found.kind, found.width, found.height) == ("thumb_256", 10, 8)
    stored = await harness.service.store.stat(receipt.bucket, receipt.key)
    assert stored is not None
    assert stored.generation == receipt.generation


async def test_a_key_names_owner_job_fence_index_and_upload(harness: Harness) -> None:
    job_id = new_id()
    finished = await harness.deliver(harness.lease(job_id, fence=3), png(), 1)
    [blob] = await harness.blobs()
    assert blob.key == f"default/ann/jobs/{job_id}.3.1.{finished.upload_id}"


async def test_a_video_is_measured(harness: Harness, tmp_path: Path) -> None:
    lease = harness.lease(new_id(), formats=("video",))
    finished = await harness.deliver(lease, mp4(tmp_path, 64, 48, frames=12, rate=8))
    media = finished.media
    assert (media.content_type, media.width, media.height, media.duration_ms) == ("video/mp4", 64, 48, 1500)


async def test_bytes_that_were_changed_on_the_way_are_sent_again(harness: Harness) -> None:
    lease, data = harness.lease(new_id()), png()
    upload_id = (await harness.start(lease, data)).upload_id
    await harness.write(lease, upload_id, data[:-1] + bytes([data[-1] ^ 1]))
    error = await refusal(harness.finish(lease, upload_id))
    assert isinstance(error, InvalidArgument)
    assert error.reason is ErrorReason.DIGEST_MISMATCH
    assert await harness.blobs() == []
    again = await harness.start(lease, data)
    assert (again.upload_id, again.received_bytes) == (upload_id, 0)
    await harness.write(lease, upload_id, data)
    assert (await harness.finish(lease, upload_id)).receipt


async def test_what_is_not_a_whole_picture_gets_no_receipt_and_no_blob(harness: Harness) -> None:
    files = {
        "truncated": png(200, 200)[:-3000],
        "only a signature": b"\x89PNG\r\n\x1a\n" + bytes(200),
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "zip": b"PK\x03\x04" + bytes(100),
        "text": b"plain text",
    }
    for what, data in files.items():
        lease = harness.lease(new_id())
        error = await refusal(harness.finish(lease, await harness.send(lease, data)))
        assert isinstance(error, InvalidArgument), what
        assert error.reason in (ErrorReason.MEDIA_DAMAGED, ErrorReason.UNSUPPORTED_MEDIA), what
        assert await harness.blobs() == [], what


async def test_an_output_of_another_format_than_the_job_makes_is_refused(harness: Harness) -> None:
    lease = harness.lease(new_id(), formats=("video",))
    error = await refusal(harness.finish(lease, await harness.send(lease, png())))
    assert isinstance(error, InvalidArgument)
    assert error.reason is ErrorReason.UNSUPPORTED_MEDIA


async def test_a_thumbnail_must_be_a_picture(harness: Harness, tmp_path: Path) -> None:
    lease = harness.lease(new_id())
    output = await harness.send(lease, png())
    thumb = await harness.send(lease, mp4(tmp_path), rendition=THUMB)
    error = await refusal(harness.finish(lease, output, [thumb]))
    assert isinstance(error, InvalidArgument)


async def test_the_parts_of_an_output_must_belong_together(harness: Harness) -> None:
    lease = harness.lease(new_id())
    output, other = await harness.send(lease, png()), await harness.send(lease, png(seed=1), 1)
    thumb, thumb_2 = [await harness.send(lease, encoded("WEBP", seed=seed), rendition=THUMB) for seed in (1, 2)]
    other_thumb = await harness.send(lease, encoded("WEBP", seed=3), 1, THUMB)
    wrong: list[tuple[str, list[str]]] = [
        (thumb, []),
        (output, [other]),
        (output, [thumb, thumb]),
        (output, [thumb, thumb_2]),
        (output, [other_thumb]),
    ]
    for upload_id, renditions in wrong:
        assert isinstance(await refusal(harness.finish(lease, upload_id, renditions)), InvalidArgument)
    await harness.finish(lease, output, [thumb])
    assert isinstance(await refusal(harness.finish(lease, output, [thumb_2])), InvalidArgument)
    assert isinstance(await refusal(harness.finish(lease, output, [])), InvalidArgument)


async def test_what_the_lease_does_not_grant_is_refused(harness: Harness) -> None:
    for field, value in [
        ("asset_index", 4),
        ("size_bytes", (1 << 20) + 1),
        ("sha256", "A" * 64),
        ("sha256", "0" * 63),
        ("rendition", 99),
        ("asset_index", -1),
        ("size_bytes", 0),
    ]:
        request: dict[str, Any] = {"asset_index": 0, "size_bytes": 10, "sha256": "0" * 64} | {field: value}
        call = harness.uploads.StartUpload(
            upload_service_pb2.StartUploadRequest(**request), metadata=harness.as_worker(harness.lease(new_id()))
        )
        error = await refusal(call)
        assert isinstance(error, InvalidArgument), (field, value)
        assert field in error.message


async def test_another_lease_does_not_find_an_upload(harness: Harness) -> None:
    job_id, data = new_id(), png()
    upload_id = await harness.send(harness.lease(job_id), data)
    for lease in (
        harness.lease(new_id()),
        harness.lease(job_id, fence=2),
        harness.lease(job_id, stage=1),
        harness.lease(job_id, owner=BOB),
    ):
        assert isinstance(await refusal(harness.write(lease, upload_id, data)), NotFound)
        assert isinstance(await refusal(harness.finish(lease, upload_id)), NotFound)


async def test_one_lease_cannot_start_uploads_without_end(harness: Harness) -> None:
    lease = harness.lease(new_id())
    for seed in range(MAX_UPLOADS_PER_FILE):
        await harness.start(lease, b"%d" % seed)
    assert isinstance(await refusal(harness.start(lease, b"one more")), ResourceExhausted)
    assert (await harness.start(lease, b"0")).received_bytes == 0


async def test_only_a_valid_lease_token_uploads(harness: Harness) -> None:
    lease, request = harness.lease(new_id()), upload_service_pb2.StartUploadRequest(size_bytes=1, sha256="0" * 64)
    token = harness.capabilities.sign_lease(lease)
    receipt = (await harness.deliver(lease, png())).receipt
    head, body, signature = token.split(".")
    wrong: list[tuple[tuple[str, str], ...]] = [
        (),
        harness.as_user(ANN),
        (("atelier-lease-token", f"{head}.{body}.{signature[:-4]}AAAA"),),
        (("atelier-lease-token", f"{head}.{body[:-3]}.{signature}"),),
        (("atelier-lease-token", receipt),),
        harness.as_worker(harness.lease(new_id(), expires_at=harness.clock.now() - timedelta(seconds=1))),
    ]
    for metadata in wrong:
        assert isinstance(await refusal(harness.uploads.StartUpload(request, metadata=metadata)), Unauthenticated)


async def test_a_settled_job_takes_no_further_upload(harness: Harness) -> None:
    job_id, data = new_id(), png()
    lease = harness.lease(job_id)
    upload_id = await harness.send(lease, data)
    await harness.settle(job_id, {})
    for call in (
        harness.start(lease, data),
        harness.start(harness.lease(job_id, fence=9), png(seed=9)),
        harness.write(lease, upload_id, b"x", len(data)),
        harness.finish(lease, upload_id),
    ):
        error = await refusal(call)
        assert isinstance(error, FailedPrecondition)
        assert error.reason is ErrorReason.ALREADY_SETTLED
    await harness.service.expiry.look()
    # A row that nobody would ever settle must not be left behind by a refusal.
    with closing(sqlite3.connect(harness.data_dir / "asset" / "asset.sqlite3")) as database:
        assert database.execute("SELECT count(*) FROM uploads").fetchone() == (0,)


async def test_a_finished_upload_takes_no_further_byte(harness: Harness) -> None:
    lease, data = harness.lease(new_id()), png()
    finished = await harness.deliver(lease, data)
    assert isinstance(await refusal(harness.write(lease, finished.upload_id, data)), FailedPrecondition)
    assert (await harness.start(lease, data)).received_bytes == len(data)


async def test_a_full_disk_is_told_as_such_and_nothing_is_taken_for_written(harness: Harness) -> None:
    lease, data = harness.lease(new_id()), png()
    upload_id = (await harness.start(lease, data)).upload_id
    path = harness.service.spool.path(upload_id)
    path.unlink()
    path.symlink_to("/dev/full")
    assert isinstance(await refusal(harness.write(lease, upload_id, data)), Unavailable)
    path.unlink()
    assert (await harness.start(lease, data)).received_bytes == 0


async def test_a_lease_that_lives_longer_than_settlements_are_kept_is_refused(harness: Harness) -> None:
    longest = harness.service.settings.asset.retention_settlements
    longer = harness.lease(new_id(), expires_at=harness.clock.now() + longest + timedelta(seconds=2))
    error = await refusal(harness.start(longer, png()))
    assert isinstance(error, Unauthenticated)
    assert error.reason is ErrorReason.INVALID_LEASE
    await harness.start(harness.lease(new_id(), expires_at=harness.clock.now() + longest), png())


async def test_an_empty_stream_is_refused(harness: Harness) -> None:
    lease = harness.lease(new_id())
    assert isinstance(await refusal(harness.write(lease, "", b"")), InvalidArgument)


async def test_a_reference_is_read_by_whom_the_lease_grants_it(harness: Harness) -> None:
    data = png(300, 300)
    asset = await harness.bring(data)
    held = (await harness.hold("job:" + new_id(), asset.asset_id)).held[0]
    lease = harness.lease(new_id(), references=(grant(held),))
    assert await harness.read_reference(lease, asset.asset_id) == data

    error = await refusal(harness.read_reference(harness.lease(new_id()), asset.asset_id))
    assert isinstance(error, PermissionDenied)
    assert error.reason is ErrorReason.INVALID_LEASE


async def test_a_reference_whose_bytes_are_gone_is_not_found(harness: Harness) -> None:
    asset = await harness.bring(png())
    held = (await harness.hold("save:1", asset.asset_id)).held[0]
    await harness.release("save:1")
    await harness.discard(asset.asset_id)
    await harness.service.expiry.look()
    lease = harness.lease(new_id(), references=(grant(held),))
    assert isinstance(await refusal(harness.read_reference(lease, asset.asset_id)), NotFound)
