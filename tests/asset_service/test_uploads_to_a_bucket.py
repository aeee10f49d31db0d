"""Outputs on their way into a bucket, where bytes travel while they are measured, and nobody sees them before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from asset_service.intake import Intake
from asset_service.receipts import Receipts
from asset_service.shape_domain import Shape
from service_kit.blobs import gcs_objects
from service_kit.blobs.gcs_objects import Upload
from service_kit.clock import ManualClock
from service_kit.errors import AtelierError, ErrorReason, InvalidArgument, Unavailable
from service_kit.ids import new_id
from tests.asset_service.harness import Harness, refusal, running
from tests.asset_service.pictures import encoded, png
from tests.asset_service.test_resumable_uploads import append, begin, complete

LARGE = png(500, 400)
PART_BYTES = 256 << 10


@pytest.fixture
async def harness(
    tmp_path: Path, clock: ManualClock, gcs_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Harness]:
    monkeypatch.setattr(gcs_objects, "PART_BYTES", PART_BYTES)
    async with running(tmp_path, clock, blobs__url=gcs_url) as harness:
        yield harness


async def by_worker(harness: Harness, data: bytes) -> str:
    """Deliver a picture as a worker does. Returns its digest."""
    done = await harness.deliver(harness.lease(new_id()), data)
    return str(done.media.sha256)


async def by_client(harness: Harness, data: bytes) -> str:
    """Bring a picture as a client does. Returns its digest."""
    return str((await harness.bring(data)).media.sha256)


async def in_pieces(harness: Harness, data: bytes) -> str:
    """Bring a picture in pieces. Returns its digest."""
    upload_id = (await begin(harness, data)).upload_id
    await append(harness, upload_id, data)
    return str((await complete(harness, upload_id)).media.sha256)


EVERY_WAY = pytest.mark.parametrize("bring", [by_worker, by_client, in_pieces])


@EVERY_WAY
async def test_bytes_travel_while_they_are_measured_and_make_a_blob_after_it(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, bring: Callable[[Harness, bytes], Awaitable[str]]
) -> None:
    loop, all_sent, blobs_before = asyncio.get_running_loop(), asyncio.Event(), []
    write, measure = Upload.write, Intake._measured

    def noted(upload: Upload, part: bytes) -> None:
        write(upload, part)
        if not part:
            loop.call_soon_threadsafe(all_sent.set)

    async def late(intake: Intake, upload_id: str) -> Shape | AtelierError:
        async with asyncio.timeout(10):
            await all_sent.wait()
        blobs_before.extend(await harness.blobs())
        return await measure(intake, upload_id)

    monkeypatch.setattr(Upload, "write", noted)
    monkeypatch.setattr(Intake, "_measured", late)
    assert len(LARGE) > 2 * PART_BYTES
    sha256 = await bring(harness, LARGE)
    assert blobs_before == []
    [blob] = await harness.blobs()
    assert (blob.size_bytes, blob.sha256, blob.content_type) == (len(LARGE), sha256, "image/png")


async def test_what_is_refused_is_never_a_blob(harness: Harness) -> None:
    for data in (LARGE[:-1000], b"\x89PNG\r\n\x1a\n" + bytes(3 * PART_BYTES), b"no picture" * 60_000):
        lease = harness.lease(new_id())
        error = await refusal(harness.finish(lease, await harness.send(lease, data)))
        assert isinstance(error, InvalidArgument)
        assert error.reason in (ErrorReason.MEDIA_DAMAGED, ErrorReason.UNSUPPORTED_MEDIA)
        assert await harness.blobs() == []


@pytest.mark.parametrize("bring", [by_client, in_pieces])
async def test_what_a_client_is_refused_is_never_a_blob(
    harness: Harness, bring: Callable[[Harness, bytes], Awaitable[str]]
) -> None:
    for data in (LARGE[:-1000], b"no picture" * 60_000):
        error = await refusal(bring(harness, data))
        assert isinstance(error, InvalidArgument)
        assert error.reason in (ErrorReason.MEDIA_DAMAGED, ErrorReason.UNSUPPORTED_MEDIA)
        assert await harness.blobs() == []
    # The bytes are a picture, of another type than was said.
    disguised = await refusal(harness.bring(LARGE, content_type="image/webp"))
    assert disguised.reason is ErrorReason.MEDIA_DISGUISED
    await harness.service.expiry.look()
    assert (await harness.blobs(), await harness.service.spool.names()) == ([], [])


async def test_no_part_of_an_output_is_a_blob_when_another_is_refused(harness: Harness) -> None:
    lease = harness.lease(new_id())
    output = await harness.send(lease, LARGE)
    preview = await harness.send(lease, encoded("WEBP")[:-30], rendition=1)
    error = await refusal(harness.finish(lease, output, [preview]))
    assert isinstance(error, InvalidArgument)
    assert await harness.blobs() == []
    assert (await harness.finish(lease, output)).receipt
    assert len(await harness.blobs()) == 1


async def test_bytes_that_were_changed_on_the_way_are_sent_again(harness: Harness) -> None:
    lease = harness.lease(new_id())
    upload_id = (await harness.start(lease, LARGE)).upload_id
    await harness.write(lease, upload_id, LARGE[:-1] + bytes([LARGE[-1] ^ 1]))
    error = await refusal(harness.finish(lease, upload_id))
    assert error.reason is ErrorReason.DIGEST_MISMATCH
    assert await harness.blobs() == []
    await harness.write(lease, upload_id, LARGE)
    assert (await harness.finish(lease, upload_id)).receipt


async def test_a_try_that_was_cut_after_the_blob_is_found_again(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = harness.lease(new_id())
    upload_id = await harness.send(lease, LARGE)
    with monkeypatch.context() as cut:
        cut.setattr(Receipts, "sign", lambda *_: 1 / 0)
        await refusal(harness.finish(lease, upload_id))
    [blob] = await harness.blobs()
    assert (await harness.finish(lease, upload_id)).receipt
    assert await harness.blobs() == [blob]


async def test_a_key_that_has_other_bytes_is_free_for_the_next_try(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = harness.lease(new_id())
    upload_id = await harness.send(lease, LARGE)
    with monkeypatch.context() as cut:
        cut.setattr(Receipts, "sign", lambda *_: 1 / 0)
        await refusal(harness.finish(lease, upload_id))
    [blob] = await harness.blobs()
    store = harness.service.store
    await store.delete(blob.bucket, blob.key, blob.generation)
    await store.put_bytes(blob.bucket, blob.key, b"other", content_type="image/png")
    assert isinstance(await refusal(harness.finish(lease, upload_id)), Unavailable)
    assert await harness.blobs() == []
    assert (await harness.finish(lease, upload_id)).receipt
