"""Items that were saved before their renditions were made get them; whatever breaks off, nothing is left over."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from atelier.asset.v1 import asset_service_pb2
from library_service import upkeep
from library_service.late_renditions import FIRST_WAIT, MAX_ATTEMPTS
from library_service.storage.late_items import LateItem, LateItems
from service_kit import crash
from service_kit.blobs import LIBRARY_BUCKET
from tests.library_service.house import ADA, Desk, House, picture

# Both renditions of so small a picture are the same bytes, which are kept once.
FILES = 2
WAIT = FIRST_WAIT + timedelta(seconds=1)


@pytest.fixture(autouse=True)
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nobody bring anything beside the test."""
    monkeypatch.setattr(upkeep, "_LATE_EVERY_S", 3600.0)


class PowerCut(BaseException):
    """Ends what runs as a dying process does."""


async def kinds(ada: Desk) -> list[int]:
    [item] = (await ada.items()).items
    return sorted(rendition.kind for rendition in item.renditions)


async def saved_too_early(house: House, ada: Desk) -> str:
    """Save a picture that has no renditions yet. Returns its item."""
    [asset_id] = await house.make_job(ADA, [(picture("red", size=64),)])
    [result] = await ada.save(asset_id)
    assert await kinds(ada) == []
    return result.item.item_id


async def left(house: House) -> list[LateItem]:
    async with house.library.storage.write() as tx:
        return await tx.late_items.claim(limit=10, claim=timedelta(0))


async def test_an_item_gets_what_its_asset_had_not_when_it_was_saved(house: House) -> None:
    async with house.as_(ADA) as ada:
        await saved_too_early(house, ada)
        assert await house.library.late.bring_due() == 0, "not at once"
        assert await house.asset.renditions.work() == 1
        house.clock.advance(WAIT)
        assert await house.library.late.bring_due() == 1
        assert len(await kinds(ada)) == 2
        [item] = (await ada.items()).items
        assert item.version == 2
        house.clock.advance(timedelta(days=1))
        assert await house.library.late.bring_due() == 0, "once is enough"
        await house.library.deliveries.deliver_due()
        assert not await house.is_held(item.asset_id)
        await house.library.removal.sweep()
        assert len(await house.keys_in(LIBRARY_BUCKET)) == FILES


async def test_it_asks_again_until_they_are_there_and_not_for_ever(house: House) -> None:
    async with house.as_(ADA) as ada:
        await saved_too_early(house, ada)
        for _ in range(3):
            house.clock.advance(timedelta(hours=5))
            assert await house.library.late.bring_due() == 1
            assert await kinds(ada) == []
        await house.asset.renditions.work()
        house.clock.advance(timedelta(hours=5))
        await house.library.late.bring_due()
        assert len(await kinds(ada)) == 2

        [asset_id] = await house.make_job(ADA, [(picture("blue", size=64),)])
        await ada.save(asset_id)
        for _ in range(MAX_ATTEMPTS):
            house.clock.advance(timedelta(hours=5))
            assert await house.library.late.bring_due() == 1
        house.clock.advance(timedelta(hours=5))
        assert await left(house) == []


async def test_an_asset_service_that_is_down_costs_only_time(house: House) -> None:
    async with house.as_(ADA) as ada:
        await saved_too_early(house, ada)
        await house.asset.renditions.work()
    await house.stop_asset()
    house.clock.advance(WAIT)
    assert await house.library.late.bring_due() == 1
    await house.start_asset()
    await house.library_sees_assets(True)
    house.clock.advance(timedelta(hours=1))
    async with house.as_(ADA) as ada:
        assert await house.library.late.bring_due() == 1
        assert len(await kinds(ada)) == 2


@pytest.mark.parametrize("point", ["library.late.copying", "library.late.copied", "library.late.committed"])
async def test_whoever_dies_in_between_leaves_all_or_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    def reach(reached: str) -> None:
        if reached == point:
            raise PowerCut

    async def too_late(*_: Any) -> None:
        """The dead give nothing up."""

    async with house.as_(ADA) as ada:
        await saved_too_early(house, ada)
        await house.asset.renditions.work()
        house.clock.advance(WAIT)
        with monkeypatch.context() as dying:
            dying.setattr(crash, "reach", reach)
            dying.setattr(house.library.copier, "give_up", too_late)
            with pytest.raises(PowerCut):
                await house.library.late.bring_due()
    await house.restart_library()
    await house.library_sees_assets(True)
    house.clock.advance(timedelta(hours=1))
    async with house.as_(ADA) as ada:
        assert len(await kinds(ada)) in (0, 2)
        await house.library.late.bring_due()
        assert len(await kinds(ada)) == 2
        await house.library.removal.sweep()
        assert len(await house.keys_in(LIBRARY_BUCKET)) == FILES


async def test_an_item_that_was_deleted_meanwhile_gets_nothing(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async with house.as_(ADA) as ada:
        item_id = await saved_too_early(house, ada)
        await house.asset.renditions.work()
        house.clock.advance(WAIT)
        copy = house.library.copier.copy

        async def copy_then_delete(*arguments: Any) -> Any:
            done = await copy(*arguments)
            await house.library.removal.delete_item(house.caller(ADA), item_id)
            return done

        monkeypatch.setattr(house.library.copier, "copy", copy_then_delete)
        await house.library.late.bring_due()
        await house.library.removal.sweep()
        assert await house.keys_in(LIBRARY_BUCKET) == []
        house.clock.advance(timedelta(days=1))
        assert await left(house) == []


async def test_an_asset_that_is_gone_has_none_to_give(house: House) -> None:
    async with house.as_(ADA) as ada:
        await saved_too_early(house, ada)
        [item] = (await ada.items()).items
        # Nobody looked after it for longer than it was held.
        house.clock.advance(timedelta(hours=2))
        await ada.workspace.DiscardAssets(asset_service_pb2.DiscardAssetsRequest(asset_ids=[item.asset_id]))
        assert await house.library.late.bring_due() == 1
        house.clock.advance(timedelta(days=1))
        assert await left(house) == []
        assert await kinds(ada) == []


async def test_what_many_items_lack_is_asked_in_one_question(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    questions: list[int] = []
    ask = LateItems.renditions_of

    async def counted(self: LateItems, item_ids: Sequence[str]) -> dict[str, set[str]]:
        questions.append(len(item_ids))
        return await ask(self, item_ids)

    monkeypatch.setattr(LateItems, "renditions_of", counted)
    async with house.as_(ADA) as ada:
        shades: list[tuple[bytes, ...]] = [(picture(shade, size=64),) for shade in ("red", "green", "blue")]
        await ada.save(*await house.make_job(ADA, shades))
        while await house.asset.renditions.work():
            pass
        items = (await ada.items()).items
        await house.library.removal.delete_item(house.caller(ADA), items[0].item_id)
        house.clock.advance(WAIT)
        assert await house.library.late.bring_due() == len(items)
        assert questions == [len(items)]
        assert [len(item.renditions) for item in (await ada.items()).items] == [2, 2]


@pytest.mark.parametrize("seen_by_library", [False, True])
async def test_an_asset_that_is_discarded_first_still_gives_its_item_what_it_lacks(
    house: House, seen_by_library: bool
) -> None:
    async with house.as_(ADA) as ada:
        await saved_too_early(house, ada)
        [item] = (await ada.items()).items
        await house.library.deliveries.deliver_due()
        if seen_by_library:
            house.clock.advance(WAIT)
            assert await house.library.late.bring_due() == 1
        await ada.workspace.DiscardAsset(asset_service_pb2.DiscardAssetRequest(asset_id=item.asset_id))
        assert await house.asset.renditions.work() == 1
        house.clock.advance(timedelta(minutes=31))
        await house.library.late.bring_due()
        assert len(await kinds(ada)) == 2
        await house.library.deliveries.deliver_due()
        assert not await house.is_held(item.asset_id)
