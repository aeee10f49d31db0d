"""What those who watch a workspace are told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from atelier.asset.v1 import asset_pb2, asset_service_pb2
from service_kit.events import encode_cursor
from service_kit.events.watching import ONCE, WATCH
from service_kit.identity import Owner
from service_kit.ids import asset_id, new_id
from tests.asset_service.harness import ANN, BOB, Harness
from tests.asset_service.pictures import png


@asynccontextmanager
async def watching(harness: Harness, owner: Owner = ANN, after: str = "") -> AsyncIterator[Any]:
    call = harness.assets.WatchAssets(
        asset_service_pb2.WatchAssetsRequest(after=after), metadata=harness.as_user(owner), timeout=20
    )
    try:
        yield call
    finally:
        call.cancel()


async def test_a_watcher_begins_with_a_snapshot_and_hears_the_rest_in_order(harness: Harness) -> None:
    [old] = await harness.publish()
    async with watching(harness) as call:
        assert ("atelier-stream", "open") in tuple(await call.initial_metadata())
        first = await call.read()
        assert [asset.asset_id for asset in first.snapshot.assets] == [old.asset_id]

        [new] = await harness.publish()
        published = await call.read()
        assert published.published == new
        await harness.mark_saved(new.asset_id, "item-1", 1)
        assert (await call.read()).changed.saved_item_id == "item-1"
        await harness.discard(new.asset_id)
        removed = (await call.read()).removed
        assert (removed.asset_id, removed.state) == (new.asset_id, asset_pb2.ASSET_STATE_REMOVED)
        assert (removed.url, removed.provenance.prompt) == ("", "")


async def test_a_watcher_resumes_after_its_cursor(harness: Harness) -> None:
    async with watching(harness) as call:
        cursor = (await call.read()).cursor
    assets = [(await harness.publish())[0] for _ in range(3)]
    async with watching(harness, after=cursor) as call:
        messages = [await call.read() for _ in assets]
    assert [message.published.asset_id for message in messages] == [asset.asset_id for asset in assets]
    async with watching(harness, after=messages[1].cursor) as call:
        assert (await call.read()).published.asset_id == assets[2].asset_id


async def test_an_unknown_cursor_gives_a_snapshot(harness: Harness) -> None:
    [asset] = await harness.publish()
    for cursor in ("nonsense", encode_cursor("anotherdatabase", 1), "é" * 10):
        async with watching(harness, after=cursor) as call:
            seen = [found.asset_id for found in (await call.read()).snapshot.assets]
            assert seen == [asset.asset_id], cursor


async def test_a_cursor_older_than_what_is_kept_gives_a_snapshot(harness: Harness) -> None:
    async with watching(harness) as call:
        cursor = (await call.read()).cursor
    await harness.publish()
    harness.clock.advance(timedelta(days=4))
    await harness.service.expiry.look()
    async with watching(harness, after=cursor) as call:
        assert (await call.read()).HasField("snapshot")


async def test_a_watcher_hears_nothing_of_others_nor_of_what_is_staged(harness: Harness) -> None:
    async with watching(harness) as call:
        cursor = (await call.read()).cursor
        job_id = new_id()
        await harness.deliver(harness.lease(job_id), png())
        await harness.publish(BOB)
        await harness.bring(png(), BOB)
        [mine] = await harness.publish(ANN)
        assert (await call.read()).published.asset_id == mine.asset_id
    async with watching(harness, BOB, after=cursor) as call:
        assert (await call.read()).published.asset_id not in (mine.asset_id, asset_id(job_id, 0))


async def test_what_was_removed_meanwhile_is_told_once_as_removed(harness: Harness) -> None:
    async with watching(harness) as call:
        cursor = (await call.read()).cursor
    [gone, kept] = await harness.publish(quantity=2)
    await harness.discard(gone.asset_id)
    async with watching(harness, after=cursor) as call:
        first, second = await call.read(), await call.read()
    assert first.published.asset_id == kept.asset_id
    assert second.removed.asset_id == gone.asset_id


async def test_an_expired_asset_is_told_as_removed(harness: Harness) -> None:
    [asset] = await harness.publish()
    async with watching(harness) as call:
        cursor = (await call.read()).cursor
    harness.clock.advance(timedelta(days=7))
    await harness.service.expiry.look()
    async with watching(harness, after=cursor) as call:
        told = await call.read()
    # Events are kept for three days, so whoever was away for a week begins anew.
    assert told.snapshot.assets == [] if told.HasField("snapshot") else told.removed.asset_id == asset.asset_id


async def test_a_watch_that_is_asked_to_ends_when_it_has_told_what_there_is(harness: Harness) -> None:
    [asset] = await harness.publish()
    request = asset_service_pb2.WatchAssetsRequest()
    metadata = (*harness.as_user(ANN), (WATCH, ONCE))
    first = [message async for message in harness.assets.WatchAssets(request, metadata=metadata, timeout=20)]
    assert [message.WhichOneof("event") for message in first] == ["snapshot"]
    await harness.discard(asset.asset_id)
    request.after = first[0].cursor
    [removed] = [message async for message in harness.assets.WatchAssets(request, metadata=metadata, timeout=20)]
    assert removed.removed.asset_id == asset.asset_id
    request.after = removed.cursor
    assert [message async for message in harness.assets.WatchAssets(request, metadata=metadata, timeout=20)] == []
