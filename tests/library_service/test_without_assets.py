"""The library while the asset service, or the key to it, is away, and what it is owed after that."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import grpc
import pytest

from atelier.library.v1 import library_service_pb2 as pb
from atelier.type.v1 import error_pb2
from library_service.domain import Mark
from service_kit import channels
from service_kit.errors import NotFound, Unavailable
from tests.library_service.house import ADA, House, picture


async def test_without_the_asset_service_items_are_served_and_saving_says_repeat(house: House, asset_id: str) -> None:
    [other] = await house.make_job(ADA, [(picture("blue"),)])
    async with house.as_(ADA) as ada:
        [saved] = await ada.save(asset_id)
        await house.stop_asset()

        assert len((await ada.items()).items) == 1
        assert (await ada.save(asset_id))[0].item == saved.item
        with pytest.raises(grpc.aio.AioRpcError) as down:
            await ada.save(other)
        assert down.value.code() is grpc.StatusCode.UNAVAILABLE
        mixed = await ada.save(asset_id, other)
        assert mixed[0].item == saved.item
        assert mixed[1].failure.reason == error_pb2.ERROR_REASON_SERVICE_UNAVAILABLE

        await ada.library.DeleteItem(pb.DeleteItemRequest(item_id=saved.item.item_id))
        await house.library_sees_assets(False)
        assert house.library.health.serving

        await house.start_asset()
        await channels.wait_ready(house.library.copier._assets._channel, timedelta(seconds=10))
        house.clock.advance(timedelta(minutes=1))
        await house.library_sees_assets(True)
        await house.library.deliveries.deliver_due()
    async with house.as_(ADA) as ada:
        assert await ada.saved_as(asset_id) == ""


async def test_without_its_key_the_library_says_repeat_and_forgets_nothing(house: House, asset_id: str) -> None:
    key_file = house.folder / "keys" / "library.key"
    key = key_file.read_text()
    await house.restart_library()
    key_file.unlink()
    async with house.library.storage.write() as tx:
        await tx.outbox.owe_mark(ADA, asset_id=asset_id, item_id="an item", version=1)
    async with house.as_(ADA) as ada:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ada.save(asset_id)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "library.key" not in (refused.value.details() or "")
        await house.library.deliveries.deliver_due()

        key_file.write_text(key)
        house.clock.advance(timedelta(seconds=1))
        await house.library.deliveries.deliver_due()
        assert await ada.saved_as(asset_id) == "an item"


async def test_a_refused_delivery_blocks_no_other(house: House, asset_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real, refused = house.library.deliveries._assets.mark_saved, 0

    async def mark(marks: Sequence[Mark]) -> None:
        nonlocal refused
        if any(mark.asset_id == "bad" for mark in marks):
            refused += len(marks) == 1
            raise NotFound
        await real(marks)

    monkeypatch.setattr(house.library.deliveries._assets, "mark_saved", mark)
    async with house.library.storage.write() as tx:
        await tx.outbox.owe_mark(ADA, asset_id="bad", item_id="", version=1)
    async with house.as_(ADA) as ada:
        [saved] = await ada.save(asset_id)
        assert await ada.saved_as(asset_id) == saved.item.item_id
    await house.library.deliveries.deliver_due()

    assert refused == 1


async def test_a_failed_delivery_waits_longer_each_time(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = 0

    async def release(holder: str) -> None:
        nonlocal tries
        tries += 1
        raise Unavailable

    monkeypatch.setattr(house.library.deliveries._assets, "release_hold", release)
    async with house.library.storage.write() as tx:
        await tx.outbox.owe_release("save:x")
    waits = []
    for expected in range(1, 5):
        await house.library.deliveries.deliver_due()
        waited = timedelta(0)
        while tries == expected:
            house.clock.advance(timedelta(milliseconds=250))
            waited += timedelta(milliseconds=250)
            await house.library.deliveries.deliver_due()
        waits.append(waited.total_seconds())

    assert waits == [0.5, 1, 2, 4]
