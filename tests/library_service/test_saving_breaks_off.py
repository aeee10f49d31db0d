"""Saving and deleting that break off between any two steps: all or nothing, and nothing is left over."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from atelier.asset.v1 import asset_service_pb2
from atelier.library.v1 import library_service_pb2 as pb
from atelier.type.v1 import error_pb2
from library_service.storage.blob_rows import BlobRows
from service_kit import crash
from service_kit.blobs import LIBRARY_BUCKET, WORKSPACE_BUCKET
from tests.library_service.house import ADA, House

SAVE_POINTS = ("library.save.held", "library.save.copying", "library.save.copied", "library.save.committed")


DELETE_POINT = "library.delete.committed"


class PowerCut(BaseException):
    """Ends what runs as a dying process does: nothing that handles errors sees it."""


def die_at(monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    def reach(reached: str) -> None:
        if reached == point:
            raise PowerCut

    monkeypatch.setattr(crash, "reach", reach)


async def cut_short(house: House, monkeypatch: pytest.MonkeyPatch, point: str, work: Any) -> None:
    die_at(monkeypatch, point)
    with pytest.raises(BaseException) as died:
        await work
    error: BaseException = died.value
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, PowerCut)
    monkeypatch.undo()
    await house.restart_library()
    await house.library.removal.sweep()
    await house.library.deliveries.deliver_due()


@pytest.mark.parametrize("point", SAVE_POINTS)
async def test_a_save_that_broke_off_leaves_all_or_nothing(
    house: House, asset_id: str, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    committed = point == "library.save.committed"

    await cut_short(house, monkeypatch, point, house.library.saving.save(house.caller(ADA), [asset_id]))

    assert len(await house.keys_in(WORKSPACE_BUCKET)) == 2
    assert len(await house.keys_in(LIBRARY_BUCKET)) == (2 if committed else 0)
    async with house.as_(ADA) as ada:
        items = (await ada.items()).items
        assert len(items) == (1 if committed else 0)
        assert await ada.saved_as(asset_id) == (items[0].item_id if committed else "")
        if committed:
            assert not await house.is_held_by_a_save(asset_id)
        [again] = await ada.save(asset_id)
        assert [item.item_id for item in items] in ([], [again.item.item_id])
        assert len(await house.keys_in(LIBRARY_BUCKET)) == 2


async def test_a_deletion_that_broke_off_is_finished(
    house: House, asset_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house.as_(ADA) as ada:
        [saved] = await ada.save(asset_id)

    work = house.library.removal.delete_item(house.caller(ADA), saved.item.item_id)
    await cut_short(house, monkeypatch, DELETE_POINT, work)

    assert await house.keys_in(LIBRARY_BUCKET) == []
    async with house.as_(ADA) as ada:
        assert (await ada.items()).empty_state == pb.EMPTY_STATE_NOTHING_SAVED
        assert await ada.saved_as(asset_id) == ""


async def test_a_sweep_that_breaks_off_goes_on(house: House, asset_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with house.as_(ADA) as ada:
        [saved] = await ada.save(asset_id)

    async def cut(*_: object) -> None:
        raise PowerCut

    monkeypatch.setattr(BlobRows, "forget", cut)
    with pytest.raises(PowerCut):
        await house.library.removal.delete_item(house.caller(ADA), saved.item.item_id)
    monkeypatch.undo()
    assert len(await house.keys_in(LIBRARY_BUCKET)) == 1

    await house.restart_library()
    await house.library.removal.sweep()

    assert await house.keys_in(LIBRARY_BUCKET) == []
    async with house.library.storage.read() as tx:
        assert await tx.blobs.find_doomed(after="", limit=9) == []


async def test_a_copy_that_fails_leaves_the_asset_and_says_so(
    house: House, asset_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, copied = house.library.store.copy, 0

    async def copy(*arguments: Any, **options: Any) -> Any:
        nonlocal copied
        copied += 1
        if copied == 2:
            raise OSError(28, "No space left on device")
        return await real(*arguments, **options)

    monkeypatch.setattr(house.library.store, "copy", copy)
    async with house.as_(ADA) as ada:
        [result] = await ada.save(asset_id)
        await house.library.removal.sweep()
        await house.library.deliveries.deliver_due()

        assert result.failure.reason == error_pb2.ERROR_REASON_SERVICE_UNAVAILABLE
        assert "The disk is full; the asset stays where it was." in result.failure.message
        assert await house.keys_in(LIBRARY_BUCKET) == []
        assert not await house.is_held(asset_id)
        asset = (await ada.workspace.GetAsset(asset_service_pb2.GetAssetRequest(asset_id=asset_id))).asset
        assert asset.url
        assert (await ada.items()).empty_state == pb.EMPTY_STATE_NOTHING_SAVED


async def test_a_copy_that_differs_is_not_saved(house: House, asset_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = house.library.store.copy
    other = (await house.keys_in(WORKSPACE_BUCKET))[1]

    async def copy(source: Any, target: Any, *, generation: Any = None) -> Any:
        return await real((WORKSPACE_BUCKET, other), target)

    monkeypatch.setattr(house.library.store, "copy", copy)
    async with house.as_(ADA) as ada:
        [result] = await ada.save(asset_id)
        await house.library.removal.sweep()

        assert result.failure.reason == error_pb2.ERROR_REASON_DIGEST_MISMATCH
        assert await house.keys_in(LIBRARY_BUCKET) == []


async def test_bytes_that_are_gone_are_not_saved(house: House, asset_id: str) -> None:
    for key in await house.keys_in(WORKSPACE_BUCKET):
        found = await house.library.store.stat(WORKSPACE_BUCKET, key)
        assert found is not None
        await house.library.store.delete(WORKSPACE_BUCKET, key, found.generation)
    async with house.as_(ADA) as ada:
        [result] = await ada.save(asset_id)

    assert result.failure.reason == error_pb2.ERROR_REASON_OUTPUT_LOST


async def test_a_copy_that_was_given_up_meanwhile_is_started_over(
    house: House, asset_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that stood still wakes up after others have cleaned up behind it."""
    real, calls = house.library.store.copy, 0

    async def copy(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            house.clock.advance(house.settings.library.hold_ttl * 2)
            await house.library.removal.sweep()
        return await real(*arguments, **options)

    monkeypatch.setattr(house.library.store, "copy", copy)
    [result] = await house.library.saving.save(house.caller(ADA), [asset_id])
    await house.library.removal.sweep()

    assert result.item is not None
    assert calls == 4
    assert sorted(file.place.key for file in result.item.files) == sorted(await house.keys_in(LIBRARY_BUCKET))


async def test_a_save_whose_client_left_is_done_once(
    house: House, asset_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client with a short deadline repeats its call while the service is slow: no copy is made twice."""
    copying, left, may_end, copies = asyncio.Event(), asyncio.Event(), asyncio.Event(), 0
    real_copy, real_save = house.library.store.copy, house.library.saving.save

    async def copy(*arguments: Any, **options: Any) -> Any:
        nonlocal copies
        copies += 1
        copying.set()
        await may_end.wait()
        return await real_copy(*arguments, **options)

    async def watched_save(*arguments: Any, **options: Any) -> Any:
        try:
            return await real_save(*arguments, **options)
        finally:
            left.set()

    monkeypatch.setattr(house.library.store, "copy", copy)
    monkeypatch.setattr(house.library.saving, "save", watched_save)
    save = pb.SaveToLibraryRequest(asset_ids=[asset_id])
    async with house.as_(ADA) as ada:
        first = asyncio.ensure_future(ada.library.SaveToLibrary(save))
        await copying.wait()
        first.cancel()
        await left.wait()
        second = ada.library.SaveToLibrary(save)
        may_end.set()
        [result] = (await second).results

    assert result.item.asset_id == asset_id
    assert copies == 2
    assert len(await house.keys_in(LIBRARY_BUCKET)) == 2


async def test_a_save_that_the_end_of_the_process_breaks_off_leaves_nothing(
    house: House, asset_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copying, never = asyncio.Event(), asyncio.Event()
    real = house.library.store.copy

    async def copy(*arguments: Any, **options: Any) -> Any:
        await real(*arguments, **options)
        copying.set()
        await never.wait()

    monkeypatch.setattr(house.library.store, "copy", copy)
    async with house.as_(ADA) as ada:
        call = asyncio.ensure_future(ada.library.SaveToLibrary(pb.SaveToLibraryRequest(asset_ids=[asset_id])))
        await copying.wait()
        call.cancel()
        async with asyncio.timeout(10):
            await house.restart_library()
    await house.library.removal.sweep()

    assert await house.keys_in(LIBRARY_BUCKET) == []
    house.clock.advance(house.settings.library.hold_ttl)
    assert not await house.is_held(asset_id)


async def test_a_row_stays_while_something_may_still_write_to_its_key(
    house: House, asset_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    die_at(monkeypatch, "library.save.copying")
    with pytest.raises(PowerCut):
        await house.library.saving.save(house.caller(ADA), [asset_id])
    house.clock.advance(house.settings.library.hold_ttl)
    assert await house.library.removal.sweep() == 0
    async with house.library.storage.read() as tx:
        doomed = await tx.blobs.find_doomed(after="", limit=9)
    assert len(doomed) == 2

    # The write that was on its way arrives now, and is found, since the row still tells of its key.
    source = (await house.keys_in(WORKSPACE_BUCKET))[0]
    await house.library.store.copy((WORKSPACE_BUCKET, source), (doomed[0].bucket, doomed[0].key))
    assert await house.library.removal.sweep() == 0
    assert await house.keys_in(LIBRARY_BUCKET) == []

    house.clock.advance(timedelta(minutes=10))
    assert await house.library.removal.sweep() == 2
    async with house.library.storage.read() as tx:
        assert await tx.blobs.find_doomed(after="", limit=9) == []


async def test_what_is_copied_is_held(house: House, asset_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real, held = house.library.store.copy, []

    async def copy(*arguments: Any, **options: Any) -> Any:
        held.append(await house.is_held(asset_id))
        return await real(*arguments, **options)

    monkeypatch.setattr(house.library.store, "copy", copy)
    await house.library.saving.save(house.caller(ADA), [asset_id])
    assert held == [True, True]


async def test_a_long_copy_renews_its_hold(house: House, asset_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    copier = house.library.copier
    monkeypatch.setattr(copier, "_hold_ttl", timedelta(milliseconds=30))
    renewed, real_copy, real_renew = asyncio.Event(), house.library.store.copy, copier._assets.renew_hold

    async def renew(*arguments: Any) -> None:
        await real_renew(*arguments)
        renewed.set()

    async def copy(*arguments: Any, **options: Any) -> Any:
        await renewed.wait()
        return await real_copy(*arguments, **options)

    monkeypatch.setattr(copier._assets, "renew_hold", renew)
    monkeypatch.setattr(house.library.store, "copy", copy)
    async with asyncio.timeout(10):
        [result] = await house.library.saving.save(house.caller(ADA), [asset_id])

    assert result.item is not None
