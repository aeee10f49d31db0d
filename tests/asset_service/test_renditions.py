"""Renditions that the asset service makes: whole sets, made once, gone with their asset, given up with a reason."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from asset_service import renditions as module
from asset_service.probing import Made, Probe
from asset_service.renditions import MAX_ATTEMPTS, Renditions
from atelier.asset.v1 import asset_pb2
from atelier.type.v1 import media_pb2
from service_kit.clock import ManualClock
from service_kit.errors import Unavailable
from service_kit.ids import new_id
from tests.asset_service.harness import ANN, Harness, eventually, on_both_databases
from tests.asset_service.harness import running as harnesses
from tests.asset_service.pictures import encoded, mp4, png

KINDS = media_pb2.RenditionKind


def kinds(asset: asset_pb2.Asset) -> list[str]:
    return sorted(KINDS.Name(one.kind).removeprefix("RENDITION_KIND_").lower() for one in asset.renditions)


async def bytes_of(harness: Harness, url: str) -> bytes:
    bucket, key, generation = harness.fetch(url)
    return b"".join([chunk async for chunk in harness.service.store.open_range(bucket, key, generation=generation)])


async def tasks_left(harness: Harness) -> int:
    async with harness.service.storage.read() as tx:
        return await tx.renditions.count()


async def test_a_picture_of_a_client_gets_thumbnails(harness: Harness) -> None:
    from PIL import Image

    asset = await harness.bring(png(1500, 600))
    assert asset.rendition_state == asset_pb2.RENDITION_STATE_PENDING
    assert not asset.renditions
    assert await harness.service.renditions.work() == 1
    asset = await harness.get(asset.asset_id)
    assert asset.rendition_state == asset_pb2.RENDITION_STATE_READY
    assert kinds(asset) == ["thumb_1024", "thumb_256"]
    for one, size in zip(sorted(asset.renditions, key=lambda one: one.kind), ((256, 102), (1024, 410)), strict=True):
        data = await bytes_of(harness, one.url)
        assert (one.media.content_type, one.media.size_bytes) == ("image/webp", len(data))
        assert (one.media.width, one.media.height) == size
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.size == size
    assert await tasks_left(harness) == 0
    assert await harness.service.renditions.work() == 0


async def test_a_video_gets_a_poster_and_a_clip_that_loops(harness: Harness, tmp_path: Path) -> None:
    from PIL import Image

    asset = await harness.bring(mp4(tmp_path, 640, 360, frames=40, rate=8))
    await harness.service.renditions.work()
    asset = await harness.get(asset.asset_id)
    assert kinds(asset) == ["clip", "poster", "thumb_1024", "thumb_256"]
    by_kind = {one.kind: one for one in asset.renditions}
    assert (by_kind[KINDS.RENDITION_KIND_POSTER].media.width, asset.media.duration_ms) == (640, 5000)
    with Image.open(io.BytesIO(await bytes_of(harness, by_kind[KINDS.RENDITION_KIND_CLIP].url))) as clip:
        assert (clip.format, clip.size) == ("WEBP", (320, 180))
        assert (getattr(clip, "n_frames", 1), clip.info["loop"]) == (24, 0)


async def test_what_the_worker_made_is_not_made_again(harness: Harness) -> None:
    job_id = new_id()
    lease = harness.lease(job_id)
    thumb = await harness.send(lease, encoded("WEBP", 16, 12), rendition=KINDS.RENDITION_KIND_THUMB_256)
    receipt = (await harness.finish(lease, await harness.send(lease, png()), [thumb])).receipt
    await harness.settle(job_id, {0: receipt})
    (before,) = await harness.listed()
    assert kinds(before) == ["thumb_256"]
    await harness.service.renditions.work()
    (after,) = await harness.listed()
    assert kinds(after) == ["thumb_1024", "thumb_256"]
    assert before.renditions[0].media.sha256 in {one.media.sha256 for one in after.renditions}


@on_both_databases
async def test_renditions_go_with_their_asset(harness: Harness) -> None:
    asset = await harness.bring(png())
    await harness.service.renditions.work()
    assert len(await harness.blobs()) == 3
    await harness.discard(asset.asset_id)
    await harness.service.expiry.look()
    assert await harness.blobs() == []


class Meddling(Probe):
    """A child in whose time something else happens."""

    def __init__(self, happens: Any) -> None:
        super().__init__()
        self._happens = happens

    async def render(self, path: Path, kinds: Sequence[str], *, content_type: str) -> list[Made]:
        made = await super().render(path, kinds, content_type=content_type)
        await self._happens()
        return made


def renditions(harness: Harness, probe: Probe) -> Renditions:
    service = harness.service
    return Renditions(
        service.storage, service.store, service.spool, service.locks, service.removal, service.watchers, probe
    )


async def test_an_asset_that_is_discarded_meanwhile_leaves_nothing(harness: Harness) -> None:
    asset = await harness.bring(png())
    probe = Meddling(lambda: harness.discard(asset.asset_id))
    try:
        assert await renditions(harness, probe).work() == 1
    finally:
        await probe.close()
    await harness.service.expiry.look()
    assert await harness.blobs() == []
    assert await harness.service.spool.names() == []
    assert await tasks_left(harness) == 0


@on_both_databases
async def test_two_replicas_make_them_once(harness: Harness) -> None:
    for seed in range(6):
        await harness.bring(png(seed=seed))
    other = Probe()
    try:
        counts = await asyncio.gather(harness.service.renditions.work(), renditions(harness, other).work())
    finally:
        await other.close()
    assert sum(counts) == 6
    assert {tuple(kinds(asset)) for asset in await harness.listed()} == {("thumb_1024", "thumb_256")}
    assert len(await harness.blobs()) == 18


@on_both_databases
async def test_what_an_earlier_release_published_gets_its_renditions(harness: Harness) -> None:
    asset = await harness.bring(png())
    async with harness.service.storage.write() as tx:
        await tx.renditions.end([asset.asset_id])
    assert await harness.service.renditions.work() == 0
    assert await harness.service.renditions.queue_missed() == 1
    assert await harness.service.renditions.queue_missed() == 0
    assert await harness.service.renditions.work() == 1
    assert [tuple(kinds(asset)) for asset in await harness.listed()] == [("thumb_1024", "thumb_256")]
    assert await harness.service.renditions.queue_missed() == 0


async def test_whoever_hurries_is_woken_when_they_are_made(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    # Only a signal can end the wait.
    monkeypatch.setattr(module, "_LOOK_S", 60.0)
    monkeypatch.setattr(module, "_HURRY_S", 30.0)
    asset = await harness.bring(png())
    loop = asyncio.create_task(harness.service.renditions.run())
    try:
        async with harness.service.storage.read() as tx:
            before = await tx.assets.find_many([asset.asset_id], ANN)
        async with asyncio.timeout(20):
            [known] = await harness.service.renditions.hurry(ANN, list(before.values()))
        assert known.lacking_renditions == ()
    finally:
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)


class Refusing(Probe):
    """A child that cannot be started."""

    async def render(self, path: Path, kinds: Sequence[str], *, content_type: str) -> list[Made]:
        raise Unavailable("The process that measures files could not be started; repeat.")


@on_both_databases
async def test_a_task_is_tried_again_later_and_at_last_given_up_with_a_reason(
    harness: Harness, clock: ManualClock
) -> None:
    asset = await harness.bring(png())
    failing = renditions(harness, Refusing())
    for attempt in range(MAX_ATTEMPTS):
        assert await failing.work() == 1, attempt
        assert await failing.work() == 0, "it is tried again at once"
        clock.advance(timedelta(minutes=30))
    asset = await harness.get(asset.asset_id)
    assert asset.rendition_state == asset_pb2.RENDITION_STATE_FAILED
    assert "5 attempts" in asset.rendition_error
    assert await tasks_left(harness) == 0
    await harness.service.expiry.look()
    assert len(await harness.blobs()) == 1


@on_both_databases
async def test_what_a_dead_replica_took_is_taken_again(harness: Harness, clock: ManualClock) -> None:
    await harness.bring(png())
    async with harness.service.storage.write() as tx:
        assert len(await tx.renditions.claim(9, timedelta(minutes=10))) == 1
    assert await harness.service.renditions.work() == 0
    clock.advance(timedelta(minutes=11))
    assert await harness.service.renditions.work() == 1
    (asset,) = await harness.listed()
    assert asset.rendition_state == asset_pb2.RENDITION_STATE_READY


async def test_they_are_made_while_the_service_runs(harness: Harness) -> None:
    running = asyncio.create_task(harness.service.renditions.run())
    try:
        asset = await harness.bring(png())
        harness.service.renditions.nudge()

        async def ready() -> bool:
            return (await harness.get(asset.asset_id)).rendition_state == asset_pb2.RENDITION_STATE_READY

        await eventually(ready)
    finally:
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_whoever_is_about_to_copy_an_asset_gets_its_renditions_with_it(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As long as a busy machine takes for one of them.
    monkeypatch.setattr(module, "_HURRY_S", 60.0)
    async with harnesses(tmp_path, clock, asset__fill_renditions=True) as harness:
        assets = [await harness.bring(png(seed=seed)) for seed in range(20)]
        last = assets[-1].asset_id
        (held,) = (await harness.hold("save:1", last)).held
        assert kinds(held.asset) == ["thumb_1024", "thumb_256"]
        assert len(held.rendition_blobs) == 2


async def test_nobody_waits_for_renditions_that_nobody_makes(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HURRY_S", 60.0)
    asset = await harness.bring(png())
    async with asyncio.timeout(20):
        (held,) = (await harness.hold("save:1", asset.asset_id)).held
    assert kinds(held.asset) == []
