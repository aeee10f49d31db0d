"""The library from outside: what its RPCs answer to whom, over real gRPC with the real asset service."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import grpc
import pytest

from atelier.asset.v1 import asset_service_pb2
from atelier.library.v1 import library_service_pb2 as pb
from atelier.type.v1 import error_pb2, generation_pb2, media_pb2
from service_kit.blobs import LIBRARY_BUCKET, WORKSPACE_BUCKET
from service_kit.events.watching import ONCE, WATCH
from service_kit.ids import new_id
from tests.library_service.house import ADA, BOB, House, next_of, picture, provenance


async def test_a_saved_asset_is_an_item_with_everything_it_had(house: House) -> None:
    red, thumb = picture("red"), picture("red", format="WEBP")
    [asset_id] = await house.make_job(ADA, [(red, thumb)])

    async with house.as_(ADA) as ada:
        [result] = await ada.save(asset_id)
        item = result.item
        got = (await ada.library.GetItem(pb.GetItemRequest(item_id=item.item_id))).item
        listed = await ada.items()

    assert result.asset_id == item.asset_id == asset_id
    assert item.provenance == provenance(item.provenance.job_id, 0)
    assert item.format == generation_pb2.FORMAT_IMAGE
    assert (item.media.content_type, item.media.size_bytes, item.media.width) == ("image/png", len(red), 8)
    [rendition] = item.renditions
    assert rendition.kind == media_pb2.RENDITION_KIND_THUMB_256
    assert (rendition.media.content_type, rendition.media.size_bytes) == ("image/webp", len(thumb))
    assert item.version == 1
    assert item.created_at.ToDatetime() == house.clock.now().replace(tzinfo=None)
    assert got == item
    assert list(listed.items) == [item]
    assert listed.empty_state == pb.EMPTY_STATE_UNSPECIFIED


async def test_the_address_of_an_item_leads_to_its_own_copy(house: House) -> None:
    red, thumb = picture("red"), picture("red", format="WEBP")
    [asset_id] = await house.make_job(ADA, [(red, thumb)])
    async with house.as_(ADA) as ada:
        [result] = await ada.save(asset_id)

    verifier = house.rings.media_verifier(house.clock)
    for url, data in ((result.item.url, red), (result.item.renditions[0].url, thumb)):
        parts = urlsplit(url)
        _, _, bucket, key = parts.path.split("/", 3)
        grant = verifier.verify(
            bucket, unquote(key), {name: values[0] for name, values in parse_qs(parts.query).items()}
        )
        assert grant.bucket == LIBRARY_BUCKET
        chunks = house.library.store.open_range(grant.bucket, grant.key, generation=grant.generation)
        assert b"".join([chunk async for chunk in chunks]) == data
    assert result.item.url_expires_at.ToDatetime() == grant.expires_at.replace(tzinfo=None)


async def test_no_byte_passes_through(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    asset_ids = await house.make_job(ADA, [(picture("red"), picture("red", format="WEBP")), (picture("blue"),)])
    calls: list[str] = []
    store: Any = house.library.store
    for name in ("put", "open_range", "copy"):
        monkeypatch.setattr(store, name, _counted(calls, name, getattr(store, name)))
    async with house.as_(ADA) as ada:
        await ada.save(*asset_ids)

    assert calls == ["copy"] * 3


def _counted(calls: list[str], name: str, real: Any) -> Any:
    def count(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        return real(*arguments, **options)

    return count


async def test_saving_marks_the_asset_and_releases_it(house: House) -> None:
    [asset_id] = await house.make_job(ADA, [(picture("red"),)])
    async with house.as_(ADA) as ada:
        [result] = await ada.save(asset_id)
        assert await ada.saved_as(asset_id) == result.item.item_id
        assert not await house.is_held_by_a_save(asset_id)
        await ada.workspace.DiscardAsset(asset_service_pb2.DiscardAssetRequest(asset_id=asset_id))
        got = await ada.library.GetItem(pb.GetItemRequest(item_id=result.item.item_id))

    assert got.item.media.sha256 == result.item.media.sha256
    assert len(await house.keys_in(LIBRARY_BUCKET)) == 1


async def test_saving_twice_is_one_item(house: House) -> None:
    [asset_id] = await house.make_job(ADA, [(picture("red"),)])
    async with house.as_(ADA) as ada:
        first = await ada.save(asset_id)
        again = await ada.save(asset_id, asset_id)
        listed = await ada.items()

    assert len({result.item.item_id for result in first + again}) == 1
    assert len(again) == 2
    assert len(listed.items) == 1
    assert len(await house.keys_in(LIBRARY_BUCKET)) == 1


async def test_saving_at_the_same_moment_is_one_item(house: House) -> None:
    [asset_id] = await house.make_job(ADA, [(picture("red"), picture("red", format="WEBP"))])
    async with house.as_(ADA) as ada:
        answers = await asyncio.gather(*(ada.save(asset_id) for _ in range(8)))
        listed = await ada.items()
        await house.library.removal.sweep()
        assert await ada.saved_as(asset_id) == listed.items[0].item_id

    assert {results[0].item.item_id for results in answers} == {listed.items[0].item_id}
    assert len(listed.items) == 1
    assert len(await house.keys_in(LIBRARY_BUCKET)) == 2


async def test_identical_bytes_of_one_owner_are_stored_once_and_counted(house: House) -> None:
    one, two = await house.make_job(ADA, [(picture("red"),), (picture("red"),)])
    [other] = await house.make_job(BOB, [(picture("red"),)])
    async with house.as_(ADA) as ada, house.as_(BOB) as bob:
        first, second = await ada.save(one, two)
        await bob.save(other)
        await house.library.removal.sweep()
        assert len(await house.keys_in(LIBRARY_BUCKET)) == 2

        await ada.library.DeleteItem(pb.DeleteItemRequest(item_id=first.item.item_id, permanently=True))
        kept = (await ada.library.GetItem(pb.GetItemRequest(item_id=second.item.item_id))).item
        key = unquote(urlsplit(kept.url).path.split("/", 3)[3])
        assert key in await house.keys_in(LIBRARY_BUCKET)

        await ada.library.DeleteItem(pb.DeleteItemRequest(item_id=second.item.item_id, permanently=True))
        assert key not in await house.keys_in(LIBRARY_BUCKET)


async def test_each_asset_has_its_own_result_in_the_order_of_the_request(house: House) -> None:
    mine, gone = await house.make_job(ADA, [(picture("red"),), (picture("blue"),)])
    [foreign] = await house.make_job(BOB, [(picture("green"),)])
    async with house.as_(ADA) as ada:
        await ada.workspace.DiscardAsset(asset_service_pb2.DiscardAssetRequest(asset_id=gone))
        asked = [foreign, mine, gone, new_id(), "not an id", ""]
        results = await ada.save(*asked)

    assert [result.asset_id for result in results] == asked
    assert results[1].HasField("item")
    for result in results[:1] + results[2:]:
        assert result.failure.reason == error_pb2.ERROR_REASON_NOT_FOUND
        assert "There is no asset" in result.failure.message


async def test_the_list_is_newest_first_and_pages_without_gap_or_repetition(house: House) -> None:
    colors = [f"#{number:02x}0000" for number in range(7)]
    asset_ids = await house.make_job(ADA, [(picture(color),) for color in colors])
    async with house.as_(ADA) as ada:
        for asset_id in asset_ids[:3]:
            await ada.save(asset_id)
        house.clock.advance(house.settings.library.hold_ttl / 1000)
        await ada.save(*asset_ids[3:])
        seen: list[pb.Item] = []
        token = ""
        for _ in range(3):
            page = await ada.items(page_size=3, page_token=token)
            seen += page.items
            token = page.next_page_token

    assert token == ""
    assert {item.asset_id for item in seen} == set(asset_ids)
    assert {item.asset_id for item in seen[:4]} == set(asset_ids[3:])
    order = [(item.created_at.ToDatetime(), item.item_id) for item in seen]
    assert order == sorted(order, reverse=True)


async def test_an_empty_list_says_why(house: House) -> None:
    [asset_id] = await house.make_job(ADA, [(picture("red"),)])
    async with house.as_(ADA) as ada:
        assert (await ada.items()).empty_state == pb.EMPTY_STATE_NOTHING_SAVED
        assert (await ada.items(format=generation_pb2.FORMAT_VIDEO)).empty_state == pb.EMPTY_STATE_NOTHING_SAVED
        [result] = await ada.save(asset_id)
        videos = await ada.items(format=generation_pb2.FORMAT_VIDEO)
        assert videos.empty_state == pb.EMPTY_STATE_NOTHING_MATCHES
        images = await ada.items(format=generation_pb2.FORMAT_IMAGE)
        assert (len(images.items), images.empty_state) == (1, pb.EMPTY_STATE_UNSPECIFIED)
        await ada.library.DeleteItem(pb.DeleteItemRequest(item_id=result.item.item_id))
        assert (await ada.items()).empty_state == pb.EMPTY_STATE_NOTHING_SAVED


async def test_a_page_behind_the_last_item_does_not_say_that_nothing_is_saved(house: House) -> None:
    asset_ids = await house.make_job(ADA, [(picture("red"),), (picture("blue"),)])
    async with house.as_(ADA) as ada:
        await ada.save(*asset_ids)
        first = await ada.items(page_size=1)
        oldest = (await ada.items(page_token=first.next_page_token)).items[0]
        await ada.library.DeleteItem(pb.DeleteItemRequest(item_id=oldest.item_id))
        behind = await ada.items(page_token=first.next_page_token)

    assert (len(behind.items), behind.empty_state) == (0, pb.EMPTY_STATE_UNSPECIFIED)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.ListItemsRequest(page_token="nonsense"), "page_token"),
        (pb.ListItemsRequest(page_size=0), "page_size"),
        (pb.ListItemsRequest(page_size=201), "page_size"),
        (pb.ListItemsRequest(format=9), "format"),  # type: ignore[arg-type]
    ],
)
async def test_a_list_that_cannot_be_is_refused_by_field(
    house: House, request_: pb.ListItemsRequest, field: str
) -> None:
    async with house.as_(ADA) as ada:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ada.library.ListItems(request_)

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in (refused.value.details() or "")


async def test_deleting_permanently_takes_the_bytes_and_unmarks_the_asset(house: House) -> None:
    [asset_id] = await house.make_job(ADA, [(picture("red"), picture("red", format="WEBP"))])
    async with house.as_(ADA) as ada:
        [result] = await ada.save(asset_id)
        delete = pb.DeleteItemRequest(item_id=result.item.item_id, permanently=True)
        await ada.library.DeleteItem(delete)
        assert await house.keys_in(LIBRARY_BUCKET) == []
        assert len(await house.keys_in(WORKSPACE_BUCKET)) == 2
        assert await ada.saved_as(asset_id) == ""
        await ada.library.DeleteItem(delete)
        with pytest.raises(grpc.aio.AioRpcError) as gone:
            await ada.library.GetItem(pb.GetItemRequest(item_id=result.item.item_id))
        assert gone.value.code() is grpc.StatusCode.NOT_FOUND

        [again] = await ada.save(asset_id)
        assert again.item.item_id != result.item.item_id
        assert again.item.provenance == result.item.provenance
        assert await ada.saved_as(asset_id) == again.item.item_id


async def test_what_never_was_cannot_be_deleted(house: House) -> None:
    async with house.as_(ADA) as ada:
        for item_id in (new_id(), "not an id"):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await ada.library.DeleteItem(pb.DeleteItemRequest(item_id=item_id))
            assert refused.value.code() is grpc.StatusCode.NOT_FOUND


async def test_nobody_sees_or_touches_what_is_somebody_elses(house: House) -> None:
    [asset_id] = await house.make_job(ADA, [(picture("red"),)])
    async with house.as_(ADA) as ada, house.as_(BOB) as bob:
        [result] = await ada.save(asset_id)
        item_id = result.item.item_id
        watch = bob.library.WatchItems(pb.WatchItemsRequest())
        assert len((await next_of(watch)).snapshot.items) == 0

        assert (await bob.save(asset_id))[0].failure.reason == error_pb2.ERROR_REASON_NOT_FOUND
        assert (await bob.items()).empty_state == pb.EMPTY_STATE_NOTHING_SAVED
        calls: list[Any] = [
            bob.library.GetItem(pb.GetItemRequest(item_id=item_id)),
            bob.library.DeleteItem(pb.DeleteItemRequest(item_id=item_id)),
        ]
        for call in calls:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        await ada.library.DeleteItem(pb.DeleteItemRequest(item_id=item_id))
        [own] = await house.make_job(BOB, [(picture("blue"),)])
        [saved] = await bob.save(own)
        assert (await next_of(watch)).saved.item_id == saved.item.item_id
        watch.cancel()


async def test_every_rpc_needs_an_identity(house: House) -> None:
    open_channel: Any = grpc.aio.insecure_channel(house.library.server.target)
    async with open_channel as channel:
        for method in pb.DESCRIPTOR.services_by_name["LibraryService"].methods:
            path = f"/{method.containing_service.full_name}/{method.name}"
            kind = channel.unary_stream if method.server_streaming else channel.unary_unary
            call = kind(path)(b"")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await (call.read() if method.server_streaming else call)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_watcher_sees_what_happens_and_can_resume_anywhere(house: House) -> None:
    one, two = await house.make_job(ADA, [(picture("red"),), (picture("blue"),)])
    async with house.as_(ADA) as ada:
        watch = ada.library.WatchItems(pb.WatchItemsRequest())
        assert ("atelier-stream", "open") in list(await watch.initial_metadata())
        snapshot = await next_of(watch)
        assert snapshot.WhichOneof("event") == "snapshot"
        [first] = await ada.save(one)
        [second] = await ada.save(two)
        seen = [await next_of(watch), await next_of(watch)]
        assert [event.saved for event in seen] == [first.item, second.item]
        await ada.library.DeleteItem(pb.DeleteItemRequest(item_id=second.item.item_id))
        deleted = await next_of(watch)
        watch.cancel()

        assert deleted.deleted.item_id == second.item.item_id
        assert (deleted.deleted.asset_id, deleted.deleted.version) == (two, 2)
        assert deleted.deleted.provenance.prompt == ""

        resumed = ada.library.WatchItems(pb.WatchItemsRequest(after=seen[1].cursor))
        assert await next_of(resumed) == deleted
        request = pb.WatchItemsRequest(after=seen[1].cursor)
        assert [event async for event in ada.library.WatchItems(request, metadata=((WATCH, ONCE),))] == [deleted]
        resumed.cancel()
        # What was saved and is gone by now cannot be shown any more; what is still there comes again.
        whole = ada.library.WatchItems(pb.WatchItemsRequest(after=snapshot.cursor))
        assert [await next_of(whole), await next_of(whole)] == [seen[0], deleted]
        whole.cancel()


@pytest.mark.parametrize("cursor", ["", "nonsense", "djE6Zm9yZWlnbjox"])
async def test_a_watcher_without_a_known_cursor_gets_a_snapshot(house: House, cursor: str) -> None:
    [asset_id] = await house.make_job(ADA, [(picture("red"),)])
    async with house.as_(ADA) as ada:
        [result] = await ada.save(asset_id)
        watch = ada.library.WatchItems(pb.WatchItemsRequest(after=cursor))
        event = await next_of(watch)
        watch.cancel()

    assert list(event.snapshot.items) == [result.item]


async def test_an_expired_cursor_gets_a_snapshot_not_a_gap(house: House) -> None:
    [one] = await house.make_job(ADA, [(picture("red"),)])
    async with house.as_(ADA) as ada:
        watch = ada.library.WatchItems(pb.WatchItemsRequest())
        cursor = (await next_of(watch)).cursor
        watch.cancel()
        await ada.save(one)
        house.clock.advance(house.settings.library.retention_events * 2)
    async with house.library.storage.write() as tx:
        await tx.trim_events(older_than=house.settings.library.retention_events)
    async with house.as_(ADA) as ada:
        resumed = ada.library.WatchItems(pb.WatchItemsRequest(after=cursor))
        event = await next_of(resumed)
        resumed.cancel()

    assert [item.asset_id for item in event.snapshot.items] == [one]
