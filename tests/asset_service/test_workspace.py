"""What owners see and do, each only with his own."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import pytest

from atelier.asset.v1 import asset_pb2, asset_service_pb2
from service_kit.errors import InvalidArgument, NotFound, PermissionDenied, Unauthenticated
from service_kit.identity import KeyKind, Owner
from service_kit.ids import new_id
from service_kit.paging import encode_page_token
from tests.asset_service.harness import ANN, BOB, Harness, refusal
from tests.asset_service.pictures import png


async def test_the_newest_job_is_listed_first_and_its_outputs_by_index(harness: Harness) -> None:
    older = await harness.publish(quantity=3)
    newer = await harness.publish(quantity=2)
    expected = [(asset.job_id, asset.asset_index) for asset in [*newer, *older]]
    assert [(asset.job_id, asset.asset_index) for asset in await harness.listed()] == expected
    assert [index for _, index in expected] == [0, 1, 0, 1, 2]


async def test_pages_follow_each_other_without_a_gap_while_things_come_and_go(harness: Harness) -> None:
    assets = [*(await harness.publish(quantity=3)), *(await harness.publish(quantity=3))]
    seen, token = [], ""
    while True:
        request = asset_service_pb2.ListAssetsRequest(page_size=2, page_token=token)
        page = await harness.assets.ListAssets(request, metadata=harness.as_user(ANN))
        seen += [asset.asset_id for asset in page.assets]
        if len(seen) == 2:
            await harness.publish()
            await harness.discard(seen[-1])
        token = page.next_page_token
        if not token:
            break
    assert len(seen) == 6
    assert set(seen) == {asset.asset_id for asset in assets}


async def test_the_last_page_has_no_token(harness: Harness) -> None:
    await harness.publish(quantity=2)
    request = asset_service_pb2.ListAssetsRequest(page_size=2)
    page = await harness.assets.ListAssets(request, metadata=harness.as_user(ANN))
    assert len(page.assets) == 2
    assert page.next_page_token == ""


async def test_a_token_of_something_else_is_refused(harness: Harness) -> None:
    others = encode_page_token("library.items", ["x", 1]), encode_page_token("asset.assets", [1, "x"])
    for token in ("nonsense", *others, "é"):
        assert isinstance(await refusal(harness.listed(page_token=token)), InvalidArgument), token


async def test_a_page_has_1_to_200_assets(harness: Harness) -> None:
    for page_size in (0, 201, -1):
        assert isinstance(await refusal(harness.listed(page_size=page_size)), InvalidArgument), page_size


async def test_an_unknown_job_has_no_assets(harness: Harness) -> None:
    await harness.publish()
    assert await harness.listed(job_id=new_id()) == []
    assert await harness.listed(job_id="what' OR 1=1") == []


async def test_nobody_finds_what_is_somebody_elses(harness: Harness) -> None:
    [asset] = await harness.publish(ANN)
    for other in (BOB, Owner("other", "ann"), Owner("default", "ANN")):
        assert await harness.listed(other) == []
        assert await harness.listed(other, job_id=asset.job_id) == []
        for call in (
            harness.get(asset.asset_id, other),
            harness.discard(asset.asset_id, other),
            harness.hold("save:x", asset.asset_id, owner=other),
            harness.confirm("save:x", asset.asset_id, owner=other),
        ):
            error = await refusal(call)
            assert isinstance(error, NotFound)
            assert error.message == NotFound.of("asset", asset.asset_id).message
        await harness.mark_saved(asset.asset_id, "item", 1, other)
    assert await harness.get(asset.asset_id) == asset


async def test_a_token_of_somebody_elses_list_shows_only_ones_own(harness: Harness) -> None:
    await harness.publish(ANN, quantity=2)
    request = asset_service_pb2.ListAssetsRequest(page_size=1)
    page = await harness.assets.ListAssets(request, metadata=harness.as_user(ANN))
    assert await harness.listed(BOB, page_token=page.next_page_token) == []


async def test_callers_need_an_identity_that_may_use_the_system(harness: Harness) -> None:
    request = asset_service_pb2.ListAssetsRequest()
    assert isinstance(await refusal(harness.assets.ListAssets(request)), Unauthenticated)
    lease = harness.as_worker(harness.lease(new_id()))
    assert isinstance(await refusal(harness.assets.ListAssets(request, metadata=lease)), Unauthenticated)
    worker = harness.as_user(ANN, KeyKind.WORKER)
    assert isinstance(await refusal(harness.assets.ListAssets(request, metadata=worker)), PermissionDenied)


async def test_addresses_are_signed_anew_and_say_when_they_end(harness: Harness) -> None:
    [asset] = await harness.publish()
    harness.clock.advance(timedelta(minutes=30))
    again = await harness.get(asset.asset_id)
    assert again.url != asset.url
    assert again.url_expires_at.ToDatetime() - asset.url_expires_at.ToDatetime() == timedelta(minutes=30)
    assert again.url.startswith("http://127.0.0.1:7400/media/workspace-temp/default/ann/jobs/")


async def test_bytes_stay_until_their_end_is_committed(harness: Harness) -> None:
    [published] = await harness.publish()
    with pytest.raises(KeyError):
        async with harness.service.storage.write() as tx:
            [asset] = (await tx.assets.lock([published.asset_id], ANN)).values()
            await harness.service.removal.hide(tx, [asset], "discarded")
            raise KeyError
    assert len(await harness.blobs()) == 1
    assert await harness.get(published.asset_id) == published


async def test_a_discarded_asset_is_gone_with_its_bytes_and_leaves_ids_and_times(harness: Harness) -> None:
    [asset, other] = await harness.publish(quantity=2)
    tombstone = await harness.discard(asset.asset_id)
    expected = asset_pb2.Asset(
        asset_id=asset.asset_id,
        job_id=asset.job_id,
        asset_index=asset.asset_index,
        source=asset.source,
        state=asset_pb2.ASSET_STATE_REMOVED,
        created_at=asset.created_at,
        expires_at=asset.expires_at,
        version=2,
    )
    assert tombstone == expected
    assert isinstance(await refusal(harness.get(asset.asset_id)), NotFound)
    assert [found.asset_id for found in await harness.listed()] == [other.asset_id]
    await harness.service.expiry.look()
    assert [blob.sha256 for blob in await harness.blobs()] == [other.media.sha256]
    async with harness.service.storage.read() as tx:
        row = await tx.assets.find(asset.asset_id, ANN)
    assert row is not None
    assert (row.provenance, row.filename, row.media, row.blob, row.renditions) == (b"", "", None, None, ())


async def test_discarding_again_answers_the_tombstone(harness: Harness) -> None:
    [asset] = await harness.publish()
    first = await harness.discard(asset.asset_id)
    await harness.service.expiry.look()
    again = await harness.discard(asset.asset_id)
    assert again.state == first.state == asset_pb2.ASSET_STATE_REMOVED
    assert again.created_at == first.created_at


async def test_discarding_what_never_was_is_not_found(harness: Harness) -> None:
    for unknown in (new_id(), "nonsense"):
        assert isinstance(await refusal(harness.discard(unknown)), NotFound)


async def test_a_saved_asset_says_so_until_it_is_not(harness: Harness) -> None:
    [asset] = await harness.publish()
    await harness.mark_saved(asset.asset_id, "item-1", 1)
    marked = await harness.get(asset.asset_id)
    assert (marked.saved_item_id, marked.version) == ("item-1", 2)
    await harness.mark_saved(asset.asset_id, "", 3)
    await harness.mark_saved(asset.asset_id, "item-1", 2)
    assert (await harness.get(asset.asset_id)).saved_item_id == ""
    await harness.mark_saved(asset.asset_id, "item-2", 3)
    assert (await harness.get(asset.asset_id)).version == 3


async def test_marking_what_is_gone_changes_nothing(harness: Harness) -> None:
    [asset] = await harness.publish()
    await harness.discard(asset.asset_id)
    await harness.mark_saved(asset.asset_id, "item-1", 1)
    await harness.mark_saved(new_id(), "item-1", 1)
    assert (await harness.discard(asset.asset_id)).saved_item_id == ""


async def test_equal_bytes_of_two_owners_are_two_blobs(harness: Harness) -> None:
    data = png()
    mine, his = await harness.bring(data, ANN), await harness.bring(data, BOB)
    assert mine.media.sha256 == his.media.sha256 == hashlib.sha256(data).hexdigest()
    await harness.discard(his.asset_id, BOB)
    await harness.service.expiry.look()
    assert (await harness.get(mine.asset_id)).asset_id == mine.asset_id
    assert len(await harness.blobs()) == 1
