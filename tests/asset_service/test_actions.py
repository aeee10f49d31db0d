"""What is done with many assets at once, and what operators do: each by itself, each safe to repeat."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from atelier.asset.v1 import asset_control_service_pb2 as control
from atelier.asset.v1 import asset_pb2
from atelier.asset.v1 import asset_service_pb2 as pb
from atelier.type.v1 import error_pb2, media_pb2
from service_kit.blobs import LIBRARY_BUCKET, WORKSPACE_BUCKET, BlobInfo
from service_kit.erasure import Steps
from service_kit.errors import ErrorReason, FailedPrecondition, Internal, NotFound
from service_kit.identity import KeyKind
from service_kit.ids import new_id
from service_kit.sweeping import Finding, SweepAction, SweepKind, sweep_all
from tests.asset_service.harness import ANN, BOB, Harness, refusal, wire_owner
from tests.asset_service.pictures import png

DAY = timedelta(days=1)


async def discard(harness: Harness, *asset_ids: str) -> list[pb.AssetResult]:
    request = pb.DiscardAssetsRequest(asset_ids=asset_ids)
    return list((await harness.assets.DiscardAssets(request, metadata=harness.as_user(ANN))).results)


async def extend(harness: Harness, *asset_ids: str, days: int | None = None) -> list[pb.AssetResult]:
    request = pb.ExtendExpiryRequest(asset_ids=asset_ids)
    if days is not None:
        request.expires_at.FromDatetime(harness.clock.now() + days * DAY)
    return list((await harness.assets.ExtendExpiry(request, metadata=harness.as_user(ANN))).results)


async def erase(harness: Harness, owner_id: str = "ann") -> pb.EraseOwnerResponse:
    request = pb.EraseOwnerRequest(owner_id=owner_id)
    response: pb.EraseOwnerResponse = await harness.assets.EraseOwner(
        request, metadata=harness.as_user(BOB, KeyKind.ADMIN)
    )
    return response


async def swept(harness: Harness, *, dry_run: bool = False) -> list[Finding]:
    return await sweep_all(harness.service.sweep.page, dry_run=dry_run)


async def test_many_are_discarded_and_each_is_answered(harness: Harness) -> None:
    mine = [asset.asset_id for asset in await harness.publish(quantity=3)]
    [theirs] = await harness.publish(BOB)
    asked = [mine[2], theirs.asset_id, mine[0], mine[2], "no id"]
    for _ in range(2):
        results = await discard(harness, *asked)
        assert [result.asset_id for result in results] == asked
        assert [result.asset.state for result in results if result.HasField("asset")] == [3, 3, 3]
        assert [result.failure.reason for result in results if result.HasField("failure")] == [
            error_pb2.ERROR_REASON_NOT_FOUND
        ] * 2
    await harness.service.expiry.look()
    assert len(await harness.blobs()) == 2
    assert [asset.asset_id for asset in await harness.listed()] == [mine[1]]


async def test_an_owner_prolongs_up_to_a_limit_and_sees_the_end(harness: Harness) -> None:
    [asset] = await harness.publish()
    [theirs] = await harness.publish(BOB)
    made_at = asset.created_at.ToDatetime()
    assert asset.expires_at.ToDatetime() == made_at + 7 * DAY
    harness.clock.advance(2 * DAY)
    for _ in range(2):
        results = await extend(harness, asset.asset_id, theirs.asset_id)
        assert results[0].asset.expires_at.ToDatetime() == made_at + 9 * DAY
        assert results[0].asset.version == 2
        assert results[1].failure.reason == error_pb2.ERROR_REASON_NOT_FOUND
    [shorter] = await extend(harness, asset.asset_id, days=1)
    assert shorter.asset.expires_at.ToDatetime() == made_at + 9 * DAY
    [longest] = await extend(harness, asset.asset_id, days=1000)
    assert longest.asset.expires_at.ToDatetime() == made_at + 90 * DAY
    assert (await harness.get(asset.asset_id)).expires_at == longest.asset.expires_at
    harness.clock.advance(30 * DAY)
    await harness.service.expiry.look()
    assert [listed.asset_id for listed in await harness.listed()] == [asset.asset_id]
    harness.clock.advance(60 * DAY)
    await harness.service.expiry.look()
    assert not await harness.listed()
    assert (await extend(harness, asset.asset_id))[0].HasField("failure")


async def item(harness: Harness, **changes: Any) -> control.CopyItemRequest:
    """Put an item's bytes into the library's bucket, and return what the library says of it."""
    data, item_id = png(seed=5), new_id()
    info = await harness.service.store.put_bytes(
        LIBRARY_BUCKET, f"default/ann/{item_id}", data, content_type="image/png"
    )
    request = control.CopyItemRequest(owner=wire_owner(ANN), item_id=item_id, filename="lighthouse.png")
    request.provenance.prompt = "a lighthouse"
    media = media_pb2.Media(content_type="image/png", size_bytes=len(data), sha256=info.sha256, width=8, height=8)
    for name, value in changes.items():
        setattr(media, name, value)
    request.files.add(
        media=media, blob=media_pb2.BlobRef(bucket=LIBRARY_BUCKET, key=info.key, generation=info.generation)
    )
    return request


async def copied(harness: Harness, request: control.CopyItemRequest) -> asset_pb2.Asset:
    return (await harness.control.CopyItem(request, metadata=harness.as_router)).asset


async def test_an_item_comes_back_as_one_asset_for_as_long_as_it_is_there(harness: Harness) -> None:
    request = await item(harness)
    asset = await copied(harness, request)
    assert (asset.source, asset.source_item_id) == (asset_pb2.ASSET_SOURCE_ITEM, request.item_id)
    assert (asset.provenance.prompt, asset.filename) == ("a lighthouse", "lighthouse.png")
    assert await copied(harness, request) == asset
    assert len(await harness.blobs()) == 1
    assert (await harness.hold("job:x", asset.asset_id)).held[0].asset == asset
    await harness.release("job:x")
    await discard(harness, asset.asset_id)
    again = await copied(harness, request)
    assert again.asset_id != asset.asset_id
    await harness.service.expiry.look()
    assert [blob.key for blob in await harness.blobs()] == [harness.fetch(again.url)[1]]


async def test_a_copy_that_fails_leaves_nothing(harness: Harness) -> None:
    wrong = await item(harness, size_bytes=7)
    assert isinstance(await refusal(copied(harness, wrong)), Internal)
    gone = await item(harness)
    gone.files[0].blob.generation = "another"
    assert isinstance(await refusal(copied(harness, gone)), NotFound)
    assert (await harness.blobs(), await harness.listed()) == ([], [])
    assert await swept(harness) == []


async def test_a_sweep_deletes_what_nobody_can_miss_and_only_tells_of_open_jobs(harness: Harness) -> None:
    store = harness.service.store
    [asset] = await harness.publish()
    lease = harness.lease(new_id())
    await harness.deliver(lease, png(seed=9), 0)
    assert await swept(harness) == []

    strays = {
        f"default/ann/jobs/{asset.job_id}.1.3.{new_id()}": SweepAction.DELETED,
        f"default/ann/jobs/{new_id()}.1.0.{new_id()}": SweepAction.REPORTED,
        f"default/ann/uploads/{new_id()}": SweepAction.DELETED,
        "elsewhere": SweepAction.DELETED,
    }
    for key in strays:
        await store.put_bytes(WORKSPACE_BUCKET, key, b"stray", content_type="image/png")
    harness.clock.advance(100 * DAY)
    told = await swept(harness, dry_run=True)
    assert {found.key for found in told} == strays.keys()
    assert {found.kind for found in told} == {SweepKind.BLOB_WITHOUT_ROW}
    assert all(found.explanation and found.created_at for found in told)
    assert len(await harness.blobs()) == 6
    assert {found.key: found.action for found in await swept(harness)} == strays
    assert {blob.key for blob in await harness.blobs()} & strays.keys() == {
        key for key, action in strays.items() if action is SweepAction.REPORTED
    }
    assert [found.action for found in await swept(harness)] == [SweepAction.REPORTED]


async def test_a_sweep_deletes_only_the_generation_that_it_listed(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = harness.service.store
    new = await store.put_bytes(WORKSPACE_BUCKET, "default/ann/uploads/stray", b"new", content_type="image/png")

    async def as_it_was(bucket: str, *, after: str = "") -> AsyncIterator[BlobInfo]:
        yield replace(new, generation="1", size_bytes=3)

    monkeypatch.setattr(store, "look", as_it_was)
    assert await swept(harness) == []
    assert await store.stat(WORKSPACE_BUCKET, new.key) == new


async def test_a_sweep_deletes_nothing_before_its_row_says_so(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, key = harness.service.store, "default/ann/uploads/stray"
    await store.put_bytes(WORKSPACE_BUCKET, key, b"stray", content_type="image/png")
    known: list[list[str]] = []
    delete = store.delete

    async def looking(bucket: str, key: str, generation: str) -> bool:
        async with harness.service.storage.read() as tx:
            rows = list(await tx.uploads.at_keys([key]))
        # The loop that clears what expired may come to the same row, and finds nothing any more.
        if deleted := await delete(bucket, key, generation):
            known.append(rows)
        return deleted

    monkeypatch.setattr(store, "delete", looking)
    assert [found.action for found in await swept(harness)] == [SweepAction.DELETED]
    assert known == [[key]]


async def test_a_sweep_says_nothing_of_what_went_while_it_looked(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The asset is discarded, and its bytes are deleted, after the sweep has read its row."""
    store = harness.service.store
    [asset] = await harness.publish()
    stat = store.stat

    async def meanwhile(bucket: str, key: str) -> BlobInfo | None:
        monkeypatch.setattr(store, "stat", stat)
        await harness.discard(asset.asset_id)
        await harness.service.expiry.look()
        return await stat(bucket, key)

    async with harness.service.storage.read() as tx:
        rows = await tx.assets.with_bytes("", 9)
    assert len(rows) == 1
    page = await harness.service.sweep.page(True, "")
    monkeypatch.setattr(store, "stat", meanwhile)
    assert (await harness.service.sweep.page(True, page.next_page_token)).findings == ()


async def test_a_sweep_tells_of_rows_whose_bytes_are_gone_and_deletes_none(harness: Harness) -> None:
    [asset] = await harness.publish()
    finished = await harness.deliver(harness.lease(new_id()), png(seed=9), 0)
    for blob in await harness.blobs():
        await harness.service.store.delete(blob.bucket, blob.key, blob.generation)
    found = await swept(harness)
    assert [each.subject for each in found] == [f"asset {asset.asset_id}", f"upload {finished.upload_id}"]
    assert {(each.kind, each.action) for each in found} == {(SweepKind.ROW_WITHOUT_BLOB, SweepAction.REPORTED)}
    assert (await harness.get(asset.asset_id)).asset_id == asset.asset_id


async def test_an_erased_owner_has_nothing_and_gets_nothing(harness: Harness) -> None:
    [held] = await harness.publish()
    await harness.hold("save:1", held.asset_id)
    [theirs] = await harness.publish(BOB)
    job_id = new_id()
    lease = harness.lease(job_id)
    late = await harness.deliver(lease, png(seed=3), 0)
    for _ in range(2):
        answer = await erase(harness)
        assert (answer.done, answer.left) == (True, 0)
    assert await harness.listed() == []
    assert [blob.key for blob in await harness.blobs()] == [harness.fetch(theirs.url)[1]]

    settled = await harness.settle(job_id, {0: late.receipt})
    assert list(settled.published) == []
    for refused in (
        discard(harness, held.asset_id),
        extend(harness, held.asset_id),
        harness.deliver(harness.lease(new_id()), png(), 0),
        harness.bring(png()),
        copied(harness, await item(harness)),
    ):
        error = await refusal(refused)
        assert (type(error), error.reason) == (FailedPrecondition, ErrorReason.OWNER_ERASED)
    assert len(await harness.blobs()) == 1
    async with harness.service.storage.read() as tx:
        assert await tx.erased.count_rows(ANN) == 0
    harness.clock.advance(31 * DAY)
    await harness.service.expiry.look()
    assert await harness.publish()


async def test_an_erasure_is_many_small_steps_and_says_how_much_is_left(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No call has time for a second step of the same kind."""
    await harness.publish(quantity=3)
    [theirs] = await harness.publish(BOB)
    for seed in range(3):
        await harness.deliver(harness.lease(new_id()), png(seed=seed), 0)
    monkeypatch.setattr("asset_service.erasure.Steps", partial(Steps, 2, timedelta(0)))
    answers = [await erase(harness)]
    while not answers[-1].done:
        answers.append(await erase(harness))
        assert len(answers) < 100
    assert len(answers) > 3
    assert all(answer.done == (answer.left == 0) for answer in answers)
    assert [blob.key for blob in await harness.blobs()] == [harness.fetch(theirs.url)[1]]
    assert await swept(harness) == []


async def test_a_stray_of_an_erased_owner_goes_without_a_trace(harness: Harness) -> None:
    await erase(harness)
    key = f"default/ann/uploads/{new_id()}"
    await harness.service.store.put_bytes(WORKSPACE_BUCKET, key, b"stray", content_type="image/png")
    assert [found.action for found in await swept(harness)] == [SweepAction.DELETED]
    assert await harness.blobs() == []
    async with harness.service.storage.read() as tx:
        assert await tx.erased.count_rows(ANN) == 0
