"""Erased owners, in the tables of the asset service."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import text

from asset_service.storage import Storage
from service_kit.clock import ManualClock
from service_kit.erasure import owner_digest
from service_kit.errors import ErrorReason, FailedPrecondition
from service_kit.identity import Owner
from tests.storage.asset_rows import ANN, BOB, OTHER, asset, put, upload

DAY = timedelta(days=1)


async def test_an_erased_owner_is_refused_until_it_is_forgotten(asset_: Storage, clock: ManualClock) -> None:
    async with asset_.write() as tx:
        assert await tx.erased.among([ANN, BOB]) == set()
        await tx.erased.mark(ANN)
        await tx.erased.mark(ANN)
        assert await tx.erased.among([ANN, BOB, OTHER]) == {ANN}
        with pytest.raises(FailedPrecondition) as refused:
            await tx.erased.refuse(ANN)
        assert refused.value.reason is ErrorReason.OWNER_ERASED
        await tx.erased.refuse(BOB)
        clock.advance(DAY)
        assert await tx.erased.trim(2 * DAY) == 0
        assert await tx.erased.trim(DAY) == 1
        assert await tx.erased.among([ANN]) == set()


def test_a_digest_says_who_it_is_only_to_those_who_know() -> None:
    assert owner_digest(Owner("a", "bc")) != owner_digest(Owner("ab", "c"))
    assert "ann" not in owner_digest(ANN)


async def test_every_row_of_an_owner_goes_but_of_tables_that_are_kept(asset_: Storage, clock: ManualClock) -> None:
    await put(asset_, asset("a", clock), asset("b", clock, owner=BOB))
    await put(asset_, upload("u1"), upload("u2", owner=BOB))
    async with asset_.write() as tx:
        await tx.note("something", ANN, "a")
        before = await tx.erased.count_rows(ANN)
        assert before >= 3
        assert await tx.erased.delete_rows(ANN, keep=["uploads"], limit=1) == 1
        assert await tx.erased.count_rows(ANN) == before - 1
        assert await tx.erased.delete_rows(ANN, keep=["uploads"], limit=before) == before - 2
        assert await tx.erased.count_rows(ANN) == 1
        assert await tx.erased.delete_rows(ANN) == 1
        assert await tx.erased.delete_rows(ANN) == await tx.erased.count_rows(ANN) == 0
        assert await tx.erased.count_rows(BOB) >= 2


async def test_an_erasure_waits_for_those_that_were_told_that_the_owner_is_there(asset_: Storage) -> None:
    asked, go_on, marked = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def write() -> None:
        async with asset_.write() as tx:
            await tx.erased.refuse(ANN)
            asked.set()
            await go_on.wait()
            await tx.uploads.add(upload("late"))

    async def erase() -> None:
        await asked.wait()
        async with asset_.write() as tx:
            await tx.erased.mark(ANN)
            marked.set()
            assert await tx.uploads.find("late") is not None

    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        group.create_task(erase())
        await asked.wait()
        async with asyncio.timeout(20):
            while not marked.is_set() and not await is_waited_for_a_lock(asset_):  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert not marked.is_set()
        go_on.set()


async def is_waited_for_a_lock(storage: Storage) -> bool:
    """Tell whether a transaction waits for another one's lock. On SQLite nobody sees it: some time is enough there."""
    async with storage.read() as tx:
        connection = tx._connection
        if connection.dialect.name == "sqlite":
            for _ in range(20):
                await asyncio.sleep(0)
            return True
        return bool((await connection.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted"))).scalar_one())
