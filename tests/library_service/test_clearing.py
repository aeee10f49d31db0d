"""Clearing saves first and removes then; copies come back; a thousand are saved at once; sweep and erase."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from atelier.asset.v1 import asset_service_pb2
from atelier.library.v1 import library_service_pb2 as pb
from atelier.type.v1 import error_pb2
from library_service.domain import ClearResult, Item, SaveResult
from library_service.shelving import Change, Move
from service_kit.blobs import LIBRARY_BUCKET, WORKSPACE_BUCKET, BlobInfo
from service_kit.erasure import Steps
from service_kit.errors import ErrorReason, FailedPrecondition, NotFound, Unavailable
from service_kit.ids import new_id
from service_kit.sweeping import Finding, SweepAction, SweepKind, sweep_all
from tests.library_service.house import ADA, BOB, Desk, House, picture

COLORS = ("red", "blue", "green")


async def listed(desk: Desk) -> list[str]:
    reply = await desk.workspace.ListAssets(asset_service_pb2.ListAssetsRequest())
    return [asset.asset_id for asset in reply.assets]


async def cleared(house: House, *asset_ids: str, key: str = "") -> list[ClearResult]:
    return await house.library.clearing.clear(house.caller(ADA), asset_ids, key)


def items_of(results: list[SaveResult] | list[ClearResult]) -> list[Item]:
    return [result.item for result in results if result.item is not None]


async def job(house: House, *colors: str) -> list[str]:
    return await house.make_job(ADA, [(picture(color),) for color in colors])


async def test_what_is_not_saved_is_saved_before_it_goes(house: House) -> None:
    assets = await job(house, *COLORS)
    [saved] = items_of(await house.library.saving.save(house.caller(ADA), assets[:1]))
    async with house.as_(ADA) as ada:
        for _ in range(2):
            results = await cleared(house, *assets[:2], new_id())
            assert [result.failure and result.failure.reason for result in results] == [
                None,
                None,
                ErrorReason.NOT_FOUND,
            ]
            assert [item.asset_id for item in items_of(results)] == assets[:2]
            assert items_of(results)[0].item_id == saved.item_id
            assert await listed(ada) == assets[2:]
    # Nobody makes the renditions that the items wait for: so long their assets are hidden, not gone.
    house.clock.advance(timedelta(hours=2))
    await house.asset.expiry.look()
    assert len(await house.keys_in(WORKSPACE_BUCKET)) == 1
    assert len(await house.keys_in(LIBRARY_BUCKET)) == 2


async def test_what_cannot_be_saved_stays(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    assets = await job(house, *COLORS)
    real = house.library.store.copy

    async def copy(source: tuple[str, str], *arguments: Any, **options: Any) -> Any:
        if ".1.1." in source[1]:
            raise OSError("no copy today")
        return await real(source, *arguments, **options)

    monkeypatch.setattr(house.library.store, "copy", copy)
    results = await cleared(house, *assets)
    assert [result.item is not None for result in results] == [True, False, True]
    async with house.as_(ADA) as ada:
        assert await listed(ada) == [assets[1]]
    monkeypatch.undo()
    assert len(items_of(await cleared(house, *assets))) == 3


async def test_what_is_in_the_trash_is_not_saved_and_comes_back(house: House) -> None:
    [asset] = await job(house, "red")
    [item] = items_of(await house.library.saving.save(house.caller(ADA), [asset]))
    await house.library.removal.trash_item(house.caller(ADA), item.item_id)
    async with house.as_(ADA) as ada:
        assert await ada.saved_as(asset) == ""
        house.clock.advance(timedelta(seconds=1))
        [back] = items_of(await cleared(house, asset))
        assert (back.item_id, back.trashed_at) == (item.item_id, None)
        assert await listed(ada) == []


async def test_a_late_repeat_of_a_save_restores_nothing(house: House) -> None:
    [asset] = await job(house, "red")
    caller = house.caller(ADA)
    [item] = items_of(await house.library.saving.save(caller, [asset], "first"))
    await house.library.removal.trash_item(caller, item.item_id)
    house.clock.advance(timedelta(minutes=1))
    [late] = items_of(await house.library.saving.save(caller, [asset], "first"))
    assert late.trashed_at is not None
    [result] = await cleared(house, asset, key="first")
    assert isinstance(result.failure, FailedPrecondition)
    await house.library.removal.delete_item(caller, item.item_id)
    [gone] = await house.library.saving.save(caller, [asset], "first")
    assert isinstance(gone.failure, NotFound)
    [again] = items_of(await house.library.saving.save(caller, [asset], "second"))
    assert again.item_id != item.item_id


async def test_without_the_workspace_it_is_saved_and_stays(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    [asset] = await job(house, "red")

    async def discard(*_: Any) -> Any:
        raise Unavailable

    monkeypatch.setattr(house.library.clearing._assets, "discard", discard)
    [result] = await cleared(house, asset)
    assert isinstance(result.failure, Unavailable)
    monkeypatch.undo()
    async with house.as_(ADA) as ada:
        assert len((await ada.items()).items) == 1
        assert await listed(ada) == [asset]
        assert len(items_of(await cleared(house, asset))) == 1
        assert await listed(ada) == []


async def test_a_job_and_a_workspace_are_cleared_page_by_page(house: House) -> None:
    first, second = await job(house, *COLORS), await job(house, *COLORS)
    async with house.as_(ADA) as ada, house.as_(BOB) as bob:
        job_id = (await ada.workspace.GetAsset(asset_service_pb2.GetAssetRequest(asset_id=first[0]))).asset.job_id
        assert not (await bob.library.ClearJob(pb.ClearJobRequest(job_id=job_id))).results
        reply = await ada.library.ClearJob(pb.ClearJobRequest(job_id=job_id))
        assert [result.item.asset_id for result in reply.results] == first
        assert await listed(ada) == second
        told, token = [], ""
        while True:
            page = await ada.library.ClearWorkspace(pb.ClearWorkspaceRequest(page_size=2, page_token=token))
            told += [result.asset_id for result in page.results]
            token = page.next_page_token
            if not token:
                break
        assert told == second
        assert await listed(ada) == []
        assert len((await ada.items()).items) == 6
    await house.library.removal.sweep()
    assert len(await house.keys_in(LIBRARY_BUCKET)) == 3


async def test_an_item_that_came_back_is_saved_as_itself(house: House) -> None:
    [asset] = await job(house, "red")
    [item] = items_of(await cleared(house, asset))
    async with house.as_(ADA) as ada, house.as_(BOB) as bob:
        request = pb.CopyToWorkspaceRequest(item_ids=[item.item_id, new_id()])
        for desk in (bob, ada, ada):
            results = (await desk.library.CopyToWorkspace(request)).results
        assert results[1].failure.reason == error_pb2.ERROR_REASON_NOT_FOUND
        copy = results[0].asset
        assert (await listed(ada), copy.source_item_id) == ([copy.asset_id], item.item_id)
        assert copy.provenance.prompt == "a lighthouse 灯台"
        [saved] = await ada.save(copy.asset_id)
        assert saved.item.item_id == item.item_id
        assert [found.item_id for found in items_of(await cleared(house, copy.asset_id))] == [item.item_id]
        assert len((await ada.items()).items) == 1
        assert await listed(bob) == []


async def test_a_thousand_are_saved_at_once_without_a_byte_through_us(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    assets = [asset for _ in range(4) for asset in await job(house, *("red", "blue") * 4)]
    calls: Counter[str] = Counter()
    for name in ("put", "put_bytes", "open_range"):
        monkeypatch.setattr(house.library.store, name, _counted(calls, name))
        monkeypatch.setattr(house.asset.store, name, _counted(calls, name))
    asked = [*assets, *(new_id() for _ in range(1000 - len(assets)))]
    async with house.as_(ADA) as ada:
        results = await ada.save(*asked)
    assert [result.asset_id for result in results] == asked
    assert [result.HasField("item") for result in results] == [True] * 32 + [False] * 968
    assert not calls
    # Identical bytes of one owner are stored once, and counted.
    await house.library.removal.sweep()
    assert len(await house.keys_in(LIBRARY_BUCKET)) == 2
    async with house.library.storage.read() as tx:
        assert [live.ref_count for live in await tx.blobs.find_live(after="", limit=9)] == [16, 16]


def _counted(calls: Counter[str], name: str) -> Any:
    def call(*_: Any, **__: Any) -> Any:
        calls[name] += 1
        raise AssertionError(f"{name} reads or writes bytes")

    return call


async def test_equal_bytes_of_another_owner_are_never_shared(house: House) -> None:
    [mine] = await job(house, "red")
    [theirs] = await house.make_job(BOB, [(picture("red"),)])
    [first] = items_of(await house.library.saving.save(house.caller(ADA), [mine]))
    [second] = items_of(await house.library.saving.save(house.caller(BOB), [theirs]))
    assert first.files[0].place.key != second.files[0].place.key
    await house.library.removal.delete_item(house.caller(ADA), first.item_id)
    assert await house.keys_in(LIBRARY_BUCKET) == [second.files[0].place.key]


async def swept(house: House, *, dry_run: bool = False) -> list[Finding]:
    return await sweep_all(house.library.sweep.page, dry_run=dry_run)


async def test_a_sweep_deletes_strays_and_only_tells_of_lost_items(house: House) -> None:
    assets = await job(house, "red", "blue")
    kept, lost = items_of(await house.library.saving.save(house.caller(ADA), assets))
    assert await swept(house) == []
    place = lost.files[0].place
    await house.library.store.delete(place.bucket, place.key, place.generation)
    await house.library.store.put_bytes(LIBRARY_BUCKET, "default/ada/stray", b"stray", content_type="image/png")
    told = {finding.kind: finding for finding in await swept(house, dry_run=True)}
    assert told[SweepKind.BLOB_WITHOUT_ROW].action is SweepAction.WOULD_DELETE
    assert told[SweepKind.ROW_WITHOUT_BLOB].subject == f"item {lost.item_id}"
    assert len(await house.keys_in(LIBRARY_BUCKET)) == 2
    found = {finding.kind: finding.action for finding in await swept(house)}
    assert found == {
        SweepKind.BLOB_WITHOUT_ROW: SweepAction.DELETED,
        SweepKind.ROW_WITHOUT_BLOB: SweepAction.REPORTED,
    }
    assert await house.keys_in(LIBRARY_BUCKET) == [kept.files[0].place.key]
    async with house.library.storage.read() as tx:
        assert await tx.items.find(ADA, lost.item_id) == lost


async def test_a_sweep_leaves_alone_what_was_taken_up_while_it_looked(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blob is listed as a stray; until it is looked at again, it is another generation, or has a row."""
    store, sweep = house.library.store, house.library.sweep
    stray = await store.put_bytes(LIBRARY_BUCKET, "default/ada/stray", b"stray", content_type="image/png")
    stat = store.stat

    async def renewed(bucket: str, key: str) -> BlobInfo:
        return replace(stray, generation="another")

    async def with_a_row(bucket: str, key: str) -> BlobInfo | None:
        async with house.library.storage.write() as tx:
            await tx.blobs.take_stray(new_id(), ADA, stray)
        return await stat(bucket, key)

    for meanwhile in (renewed, with_a_row):
        monkeypatch.setattr(store, "stat", meanwhile)
        assert (await sweep.page(False, "")).findings == ()
    monkeypatch.undo()
    assert await store.stat(LIBRARY_BUCKET, stray.key) == stray
    async with house.library.storage.read() as tx:
        assert await tx.erased.count_rows(ADA) == 1


async def test_blobs_that_are_counted_wrongly_are_counted_again(house: House) -> None:
    [kept] = items_of(await house.library.saving.save(house.caller(ADA), await job(house, "red")))
    [gone] = items_of(await house.library.saving.save(house.caller(ADA), await job(house, "blue")))
    async with house.library.storage.write() as tx:
        # One use too many, and a blob that nothing uses any more although its row says so.
        assert await tx.items.bury(ADA, gone.item_id)
    assert [found.action for found in await swept(house, dry_run=True)] == [SweepAction.WOULD_DELETE]
    assert [(found.kind, found.action) for found in await swept(house)] == [
        (SweepKind.UNUSED_BLOB, SweepAction.DELETED)
    ]
    assert await house.keys_in(LIBRARY_BUCKET) == [kept.files[0].place.key]
    assert await swept(house) == []


async def test_an_erased_owner_has_nothing_and_gets_nothing(house: House) -> None:
    [asset] = await job(house, "red")
    [theirs] = await house.make_job(BOB, [(picture("red"),)])
    for owner, one in ((ADA, asset), (BOB, theirs)):
        await house.library.saving.save(house.caller(owner), [one], "key")
    for _ in range(2):
        assert await house.library.erasure.erase(ADA) == 0
    assert len(await house.keys_in(LIBRARY_BUCKET)) == 1
    async with house.library.storage.read() as tx:
        assert await tx.erased.count_rows(ADA) == 0
    [refused] = await house.library.saving.save(house.caller(ADA), [asset])
    assert refused.failure is not None
    assert refused.failure.reason is ErrorReason.OWNER_ERASED
    house.clock.advance(timedelta(hours=2))
    assert not await house.is_held(asset)
    with pytest.raises(FailedPrecondition) as late:
        await house.library.shelving.create_collection(ADA, "Late")
    assert late.value.reason is ErrorReason.OWNER_ERASED


async def test_whatever_changes_a_library_is_refused_once_its_owner_is_erased(house: House) -> None:
    """An erasure has only begun: the rows are still there."""
    ada = house.caller(ADA)
    [item] = items_of(await house.library.saving.save(ada, await job(house, "red")))
    shelving, removal = house.library.shelving, house.library.removal
    shelf = await shelving.create_collection(ADA, "Boats")
    await removal.trash_item(ada, item.item_id)
    async with house.library.storage.write() as tx:
        await tx.erased.mark(ADA)
        before = await tx.erased.count_rows(ADA)
    labels: dict[str, Any] = {"title": "Late", "notes": None, "is_favourite": None, "tags": None}
    for late in (
        shelving.update_item(ada, item.item_id, **labels),
        shelving.change_items(ada, [item.item_id], Change(move=Move.RESTORE)),
        shelving.change_items(ada, [item.item_id], Change(add_tags=("late",), put_in=shelf.collection_id)),
        shelving.create_collection(ADA, "Late"),
        shelving.rename_collection(ADA, shelf.collection_id, "Late"),
        shelving.delete_collection(ADA, shelf.collection_id),
        removal.trash_item(ada, item.item_id),
        removal.delete_item(ada, item.item_id),
        house.library.saving.save(ada, [item.asset_id]),
    ):
        with pytest.raises(FailedPrecondition) as refused:
            await late
        assert refused.value.reason is ErrorReason.OWNER_ERASED
    house.clock.advance(house.settings.library.retention_trash + timedelta(days=1))
    await removal.empty_trash(house.settings.library.retention_trash)
    async with house.library.storage.read() as tx:
        assert await tx.erased.count_rows(ADA) == before, "nothing was written for the owner"
    assert await house.library.erasure.erase(ADA) == 0


async def test_an_erasure_is_many_small_steps_and_says_how_much_is_left(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No call has time for a second step of the same kind."""
    await house.library.saving.save(house.caller(ADA), await job(house, *COLORS))
    [theirs] = await house.make_job(BOB, [(picture("red"),)])
    await house.library.saving.save(house.caller(BOB), [theirs])
    monkeypatch.setattr("library_service.erasure.Steps", partial(Steps, 2, timedelta(0)))
    left = [await house.library.erasure.erase(ADA)]
    while left[-1]:
        left.append(await house.library.erasure.erase(ADA))
        assert left[-1] <= left[-2]
        assert len(left) < 100
    assert len(left) > 3
    assert len(await house.keys_in(LIBRARY_BUCKET)) == 1
    assert await swept(house) == []
