"""The asset service's storage: settlements of jobs, and the holds and copies that keep bytes."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable

import pytest

from asset_service.domain import (
    AssetSource,
    AssetState,
    Settlement,
)
from asset_service.storage import Storage
from service_kit.clock import ManualClock
from service_kit.database import Database
from service_kit.errors import Aborted, ErrorReason, FailedPrecondition
from tests.storage.asset_rows import ANN, BOB, OTHER, SECOND, asset


async def test_a_settled_job_stays_settled_and_takes_nothing_more(asset_: Storage, clock: ManualClock) -> None:
    first = Settlement("j1", ANN, (0, 1), (2,))
    refused = Settlement("j2", BOB, (), (), "already_gone")
    async with asset_.write() as tx:
        await tx.lock_jobs(["j2", "j1"])
        await tx.settlements.refuse_settled("j1")
        await tx.settlements.add_many([first, refused])
        assert await tx.settlements.find_many(["j1", "j2", "unknown"]) == {"j1": first, "j2": refused}
        assert await tx.settlements.find_many([]) == {}
    async with asset_.write() as tx:
        await tx.keep_open("j3")
        for refuse in (tx.keep_open, tx.settlements.refuse_settled):
            with pytest.raises(FailedPrecondition) as caught:
                await refuse("j1")
            assert caught.value.reason is ErrorReason.ALREADY_SETTLED
    clock.advance(SECOND)
    async with asset_.write() as tx:
        assert await tx.settlements.trim(2 * SECOND) == 0
        assert await tx.settlements.trim(SECOND) == 2
        await tx.settlements.refuse_settled("j1")


async def test_who_looks_whether_jobs_are_settled_has_their_locks_first(
    open_database: Callable[[str], Database],
) -> None:
    """The look sees a settlement that had the lock before it."""
    one, two = Storage(open_database("asset")), Storage(open_database("asset"))
    has_lock, order = asyncio.Event(), list[str]()

    async def look() -> None:
        await has_lock.wait()
        async with two.write() as tx:
            assert (await tx.settled_among(["j2", "j1"])).keys() == {"j1"}
            order.append("looked")

    async with asyncio.TaskGroup() as group:
        looking = group.create_task(look())
        async with one.write() as tx:
            assert await tx.settled_among(["j1"]) == {}
            has_lock.set()
            done, _ = await asyncio.wait({looking}, timeout=0.05)
            assert not done
            await tx.settlements.add_many([Settlement("j1", ANN, (), ())])
            order.append("settled")
    assert order == ["settled", "looked"]
    async with one.write() as tx:
        assert await tx.settled_among([]) == {}


async def test_who_keeps_a_job_open_keeps_it_from_being_settled(open_database: Callable[[str], Database]) -> None:
    """On two connections, as two replicas have them."""
    one, two = Storage(open_database("asset")), Storage(open_database("asset"))
    kept, order = asyncio.Event(), list[str]()

    async def settle() -> None:
        await kept.wait()
        async with two.write() as tx:
            await tx.lock_jobs(["j2", "j1"])
            # On SQLite the first statement waits.
            assert await tx.settlements.find_many(["j1"]) == {}
            order.append("locked")
            await tx.settlements.add_many([Settlement("j1", ANN, (), ())])

    async with asyncio.TaskGroup() as group:
        settling = group.create_task(settle())
        async with one.write() as tx:
            await tx.keep_open("j1")
            kept.set()
            done, _ = await asyncio.wait({settling}, timeout=0.05)
            assert not done
            order.append("kept")
    assert order == ["kept", "locked"]


async def test_holds_last_until_their_time_or_for_good(asset_: Storage, clock: ManualClock) -> None:
    async with asset_.write() as tx:
        await tx.holds.take("library", ["a", "b", "b"], SECOND)
        await tx.holds.take("job", ["a"], None)
        await tx.holds.take("job", [], SECOND)
        # What was held for good stays so.
        await tx.holds.take("job", ["a"], SECOND)
        assert await tx.holds.held_among(["b"])
        assert not await tx.holds.held_among(["c"])
        assert await tx.holds.of_holder("library", ["a", "b", "c"]) == {"a", "b"}
        assert await tx.holds.of_holder("nobody", ["a"]) == set()
        clock.advance(SECOND)
        assert not await tx.holds.held_among(["b"])
        assert await tx.holds.held_among(["a"])
        assert await tx.holds.of_holder("library", ["b"]) == {"b"}
        await tx.holds.take("library", ["b"], SECOND)
        assert await tx.holds.held_among(["b"])
        clock.advance(2 * SECOND)
        assert await tx.holds.forget_lapsed(2 * SECOND) == 1
        assert await tx.holds.of_holder("library", ["a", "b"]) == {"b"}
        assert await tx.holds.release(["job", "unknown"]) == 1
        assert not await tx.holds.held_among(["a"])
        assert await tx.holds.held_among(["a", "b", "c"]) == set()
        await tx.holds.take("library", ["b", "c"], SECOND)
        assert await tx.holds.held_among(["a", "b", "c"]) == {"b", "c"}
        await tx.holds.forget(["b", "c"])
        assert await tx.holds.release(["library"]) == 0


async def test_an_item_has_one_copy_at_a_time(asset_: Storage, clock: ManualClock) -> None:
    copy = asset("a", clock, source=AssetSource.ITEM, source_item_id="i")
    async with asset_.write() as tx:
        await tx.assets.add(copy)
        await tx.assets.add(dataclasses.replace(copy, asset_id="b", owner=BOB))
    with pytest.raises(Aborted):
        async with asset_.write() as tx:
            await tx.assets.add(dataclasses.replace(copy, asset_id="c"))
    async with asset_.write() as tx:
        assert await tx.assets.find_copy("i", ANN) == copy
        assert await tx.assets.find_copy("i", OTHER) is None
        assert await tx.assets.find_copy("another", ANN) is None
        await tx.assets.take_away([dataclasses.replace(copy, state=AssetState.HIDDEN, version=2)])
        assert await tx.assets.find_copy("i", ANN) is None
        await tx.assets.add(dataclasses.replace(copy, asset_id="c"))
