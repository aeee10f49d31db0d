"""The trash: what goes in, comes back, and is emptied when its time is over."""

from __future__ import annotations

from datetime import timedelta

import grpc
import pytest

from atelier.library.v1 import library_service_pb2 as pb
from atelier.type.v1 import error_pb2
from library_service.domain import Item
from service_kit.blobs import LIBRARY_BUCKET
from service_kit.ids import new_id
from tests.library_service.house import ADA, BOB, Desk, House, next_of, picture


async def trashed(house: House, desk: Desk) -> pb.Item:
    """Save a picture and put it into the trash."""
    [asset_id] = await house.make_job(ADA, [(picture("red"), picture("red", format="WEBP"))])
    [saved] = await desk.save(asset_id)
    await desk.library.DeleteItem(pb.DeleteItemRequest(item_id=saved.item.item_id))
    return saved.item


async def stored(house: House, item_id: str) -> Item:
    async with house.library.storage.read() as tx:
        found = await tx.items.find(ADA, item_id)
    if found is None:
        raise LookupError(item_id)
    return found


async def test_what_is_deleted_lies_in_the_trash_with_everything_it_has(house: House) -> None:
    async with house.as_(ADA) as ada:
        watch = ada.library.WatchItems(pb.WatchItemsRequest())
        await next_of(watch)
        item = await trashed(house, ada)
        assert (await next_of(watch)).saved == item
        gone = (await next_of(watch)).deleted
        watch.cancel()
        assert (gone.item_id, gone.version, gone.url) == (item.item_id, 2, "")
        assert gone.trashed_at.ToDatetime() == house.clock.now().replace(tzinfo=None)
        assert await ada.saved_as(item.asset_id) == ""
        assert (await ada.items()).empty_state == pb.EMPTY_STATE_NOTHING_SAVED
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ada.library.GetItem(pb.GetItemRequest(item_id=item.item_id))
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        await ada.library.DeleteItem(pb.DeleteItemRequest(item_id=item.item_id))

    await house.library.removal.sweep()
    assert len(await house.keys_in(LIBRARY_BUCKET)) == 2
    assert (await stored(house, item.item_id)).version == 2


async def test_saving_brings_back_what_is_in_the_trash(house: House) -> None:
    async with house.as_(ADA) as ada:
        item = await trashed(house, ada)
        watch = ada.library.WatchItems(pb.WatchItemsRequest())
        await next_of(watch)
        [saved] = await ada.save(item.asset_id)
        back = saved.item
        assert (await next_of(watch)).saved == back
        watch.cancel()
        assert await ada.saved_as(item.asset_id) == item.item_id
        assert [listed.item_id for listed in (await ada.items()).items] == [item.item_id]

    assert (back.item_id, back.created_at, back.version) == (item.item_id, item.created_at, 3)
    assert not back.HasField("trashed_at")
    assert len(await house.keys_in(LIBRARY_BUCKET)) == 2


async def test_a_save_that_was_asked_before_does_not_restore_what_was_trashed_after(house: House) -> None:
    async with house.as_(ADA) as ada:
        item = await trashed(house, ada)
    found = await stored(house, item.item_id)
    asked_at = house.clock.now() - timedelta(microseconds=1)
    answered = await house.library.saving._as_they_are(house.caller(ADA), {"asset": found}, asked_at, "")

    assert answered == {"asset": found}
    assert (await stored(house, item.item_id)).trashed_at is not None


async def test_restoring_is_idempotent_and_only_for_the_owner(house: House) -> None:
    async def restored(desk: Desk, *item_ids: str) -> list[int]:
        request = pb.ChangeItemsRequest(item_ids=item_ids, move=pb.ITEM_MOVE_RESTORE)
        return [result.failure.reason for result in (await desk.library.ChangeItems(request)).results]

    async with house.as_(ADA) as ada, house.as_(BOB) as bob:
        item = await trashed(house, ada)
        assert await restored(bob, item.item_id) == [error_pb2.ERROR_REASON_NOT_FOUND]
        assert await restored(ada, new_id(), item.item_id) == [error_pb2.ERROR_REASON_NOT_FOUND, 0]
        assert await restored(ada, item.item_id) == [0]
        assert (await stored(house, item.item_id)).version == 3
        assert await ada.saved_as(item.asset_id) == item.item_id
        await ada.library.DeleteItem(pb.DeleteItemRequest(item_id=item.item_id, permanently=True))
        assert await restored(ada, item.item_id) == [error_pb2.ERROR_REASON_NOT_FOUND]


async def test_the_trash_is_emptied_when_its_time_is_over_and_not_before(house: House) -> None:
    keep_for = house.settings.library.retention_trash
    async with house.as_(ADA) as ada:
        item = await trashed(house, ada)
        house.clock.advance(keep_for - timedelta(microseconds=1))
        assert await house.library.removal.empty_trash(keep_for) == 0
        house.clock.advance(timedelta(microseconds=1))
        assert await house.library.removal.empty_trash(keep_for) == 1
        assert await house.library.removal.empty_trash(keep_for) == 0

    tombstone = await stored(house, item.item_id)
    assert (tombstone.deleted_at, tombstone.files, tombstone.provenance) == (house.clock.now(), (), b"")
    await house.library.removal.sweep()
    assert await house.keys_in(LIBRARY_BUCKET) == []
