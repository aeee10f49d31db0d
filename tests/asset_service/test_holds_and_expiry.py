"""What keeps bytes, and what ends them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from atelier.asset.v1 import asset_pb2
from service_kit.errors import ErrorReason, FailedPrecondition, InvalidArgument, NotFound
from service_kit.ids import new_id
from tests.asset_service.harness import ANN, Harness, on_both_databases, refusal
from tests.asset_service.pictures import png

MINUTE = timedelta(minutes=1)


async def test_a_hold_answers_the_assets_in_order_and_where_their_bytes_are(harness: Harness) -> None:
    first, second = await harness.publish(quantity=2)
    reply = await harness.hold("save:1", second.asset_id, first.asset_id)
    assert [held.asset for held in reply.held] == [second, first]
    for held in reply.held:
        assert harness.fetch(held.asset.url) == (held.blob.bucket, held.blob.key, held.blob.generation)


async def test_one_asset_that_is_not_there_means_nothing_is_held(harness: Harness) -> None:
    [asset] = await harness.publish()
    unknown = new_id()
    error = await refusal(harness.hold("save:1", asset.asset_id, unknown))
    assert isinstance(error, NotFound)
    assert unknown in error.message
    await harness.discard(asset.asset_id)
    await harness.service.expiry.look()
    assert await harness.blobs() == []


@pytest.mark.parametrize("end", ["discarded", "expired"])
async def test_what_is_held_is_hidden_and_its_bytes_stay_until_the_hold_ends(harness: Harness, end: str) -> None:
    [asset] = await harness.publish()
    await harness.hold("save:1", asset.asset_id)
    if end == "discarded":
        assert (await harness.discard(asset.asset_id)).state == asset_pb2.ASSET_STATE_REMOVED
    else:
        harness.clock.advance(timedelta(days=7) - MINUTE / 2)
        await harness.hold("save:1", asset.asset_id)
        harness.clock.advance(MINUTE / 2)
        await harness.service.expiry.look()
    await harness.service.expiry.look()
    assert isinstance(await refusal(harness.get(asset.asset_id)), NotFound)
    assert await harness.listed() == []
    assert len(await harness.blobs()) == 1

    await harness.release("save:1")
    await harness.service.expiry.look()

    assert await harness.blobs() == []
    assert (await harness.discard(asset.asset_id)).state == asset_pb2.ASSET_STATE_REMOVED


@on_both_databases
async def test_a_hold_ends_by_itself_and_a_repeat_renews_it(harness: Harness) -> None:
    [asset] = await harness.publish()
    await harness.hold("save:1", asset.asset_id, ttl=MINUTE)
    await harness.discard(asset.asset_id)
    harness.clock.advance(MINUTE * 0.9)
    renewed = await harness.hold("save:1", asset.asset_id, ttl=MINUTE)
    assert renewed.held[0].asset.provenance.prompt == "a lighthouse"
    harness.clock.advance(MINUTE * 0.9)
    await harness.service.expiry.look()
    assert len(await harness.blobs()) == 1
    harness.clock.advance(MINUTE * 0.2)
    await harness.service.expiry.look()
    assert await harness.blobs() == []
    assert isinstance(await refusal(harness.hold("save:1", asset.asset_id)), NotFound)


@on_both_databases
async def test_each_holder_has_a_hold_of_its_own(harness: Harness) -> None:
    [asset] = await harness.publish()
    await harness.hold("save:1", asset.asset_id)
    await harness.hold("save:2", asset.asset_id)
    await harness.discard(asset.asset_id)
    await harness.release("save:1")
    await harness.release("save:1")
    await harness.service.expiry.look()
    assert len(await harness.blobs()) == 1
    assert isinstance(await refusal(harness.hold("save:3", asset.asset_id)), NotFound)
    await harness.release("save:2")
    await harness.service.expiry.look()
    assert await harness.blobs() == []


@on_both_databases
async def test_a_confirmed_hold_lasts_until_its_job_is_settled(harness: Harness) -> None:
    reference = await harness.bring(png())
    job_id = new_id()
    await harness.hold(f"job:{job_id}", reference.asset_id, ttl=MINUTE)
    await harness.confirm(f"job:{job_id}", reference.asset_id)
    # A late repeat of the first request must not give it an end again.
    await harness.hold(f"job:{job_id}", reference.asset_id, ttl=MINUTE)
    harness.clock.advance(timedelta(days=30))
    await harness.service.expiry.look()
    assert len(await harness.blobs()) == 1
    await harness.settle(job_id, {})
    await harness.service.expiry.look()
    assert await harness.blobs() == []


async def test_confirming_takes_a_hold_again_that_has_lapsed(harness: Harness) -> None:
    reference = await harness.bring(png())
    holder = f"job:{new_id()}"
    await harness.hold(holder, reference.asset_id, ttl=MINUTE)
    harness.clock.advance(MINUTE * 2)
    await harness.confirm(holder, reference.asset_id)
    await harness.discard(reference.asset_id)
    await harness.service.expiry.look()
    assert len(await harness.blobs()) == 1


async def test_confirming_says_when_the_asset_is_gone(harness: Harness) -> None:
    reference = await harness.bring(png())
    holder = f"job:{new_id()}"
    await harness.hold(holder, reference.asset_id, ttl=MINUTE)
    harness.clock.advance(MINUTE * 2)
    await harness.discard(reference.asset_id)
    assert isinstance(await refusal(harness.confirm(holder, reference.asset_id)), NotFound)


async def test_a_settled_job_gets_no_hold(harness: Harness) -> None:
    reference = await harness.bring(png())
    job_id = new_id()
    await harness.settle(job_id, {})
    for call in (
        harness.hold(f"job:{job_id}", reference.asset_id),
        harness.confirm(f"job:{job_id}", reference.asset_id),
    ):
        error = await refusal(call)
        assert isinstance(error, FailedPrecondition)
        assert error.reason is ErrorReason.ALREADY_SETTLED


async def test_a_hold_is_for_a_time_that_can_be_promised(harness: Harness) -> None:
    [asset] = await harness.publish()
    for ttl in (timedelta(0), timedelta(seconds=-1), timedelta(hours=2)):
        assert isinstance(await refusal(harness.hold("save:1", asset.asset_id, ttl=ttl)), InvalidArgument), ttl


@on_both_databases
async def test_assets_go_after_seven_days_saved_or_not(harness: Harness) -> None:
    [old] = await harness.publish()
    await harness.mark_saved(old.asset_id, "item-1", 1)
    uploaded = await harness.bring(png())
    harness.clock.advance(timedelta(days=6))
    [young] = await harness.publish()
    harness.clock.advance(timedelta(days=1) - timedelta(seconds=1))
    await harness.service.expiry.look()
    assert {asset.asset_id for asset in await harness.listed()} == {old.asset_id, uploaded.asset_id, young.asset_id}

    harness.clock.advance(timedelta(seconds=1))
    await harness.service.expiry.look()

    assert [asset.asset_id for asset in await harness.listed()] == [young.asset_id]
    assert len(await harness.blobs()) == 1
    async with harness.service.storage.read() as tx:
        tombstone = await tx.assets.find(old.asset_id, ANN)
    assert tombstone is not None
    assert (tombstone.provenance, tombstone.blob) == (b"", None)


async def test_one_blob_that_cannot_be_deleted_stops_no_other(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = sorted(await harness.publish(quantity=2), key=lambda asset: asset.asset_id)
    delete = harness.service.store.delete
    stuck = harness.fetch(first.url)[1]

    async def failing(bucket: str, key: str, generation: str) -> bool:
        if key == stuck:
            raise OSError("the disk is read-only")
        return await delete(bucket, key, generation)

    monkeypatch.setattr(harness.service.store, "delete", failing)
    await harness.discard(first.asset_id)
    await harness.discard(second.asset_id)
    await harness.service.expiry.look()
    assert [blob.key for blob in await harness.blobs()] == [stuck]
    monkeypatch.undo()
    await harness.service.expiry.look()
    assert await harness.blobs() == []


async def test_a_file_without_an_open_upload_is_swept(harness: Harness) -> None:
    lease = harness.lease(new_id())
    kept = await harness.send(lease, png())
    finished = await harness.deliver(lease, png(seed=1), 1)
    await harness.service.spool.open(finished.upload_id)
    await harness.service.spool.open(new_id())
    await harness.service.expiry.look()
    assert await harness.service.spool.names() == [kept]
