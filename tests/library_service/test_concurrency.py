"""Two library services on one PostgreSQL and one store, at the same moment.

Where the order matters a test holds a lock that both need, starts one after the other, and lets go when both wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from atelier.asset.v1 import asset_service_pb2
from library_service.__main__ import Service, open_service
from library_service.domain import Item, SaveResult
from library_service.shelving import Change
from service_kit.errors import NotFound
from tests.library_service.house import ADA, House, picture


@dataclass
class Pair:
    """A house, a second library service in it, and a look at their rows."""

    house: House
    other: Service
    url: str

    @property
    def both(self) -> tuple[Service, Service]:
        """The two services."""
        return self.house.library, self.other

    async def save(self, service: Service, *asset_ids: str) -> list[SaveResult]:
        """Save assets through one of the services."""
        return await service.saving.save(self.house.caller(ADA), asset_ids)

    async def rows(self, query: str) -> list[Any]:
        """Return what a query finds in the library's tables."""
        async with await psycopg.AsyncConnection.connect(self.url) as connection:
            await connection.execute("SET search_path TO library")
            return await (await connection.execute(query)).fetchall()

    @asynccontextmanager
    async def holding(self, lock: str) -> AsyncIterator[None]:
        """Hold a lock that a statement takes."""
        async with await psycopg.AsyncConnection.connect(self.url) as connection:
            await connection.execute("SET search_path TO library")
            await connection.execute(lock)
            yield

    async def waiting(self, count: int) -> None:
        """Wait until so many transactions wait for a lock."""
        query = "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted"
        async with asyncio.timeout(20):
            while True:
                if (await self.rows(query))[0][0] >= count:
                    return

    async def race(self, lock: str, first: Awaitable[Any], second: Awaitable[Any]) -> list[Any]:
        """Let two things happen at the same moment, the first a moment earlier."""
        async with self.holding(lock):
            tasks = [asyncio.ensure_future(first)]
            await self.waiting(1)
            tasks.append(asyncio.ensure_future(second))
            await self.waiting(2)
        return await asyncio.gather(*tasks)

    async def settled(self) -> None:
        """Let both services finish what they owe and sweep."""
        for service in self.both:
            await service.deliveries.deliver_due()
            await service.removal.sweep()


@pytest.fixture
async def pair(tmp_path: Path, migrated_postgres_url: str) -> AsyncIterator[Pair]:
    """Run a house with two library services."""
    async with AsyncExitStack() as stack:
        house = House(tmp_path, stack, database_url=migrated_postgres_url)
        await house.start()
        other = await open_service(house.settings, stack, clock=house.clock)
        yield Pair(house, other, migrated_postgres_url)


def item_of(results: list[SaveResult]) -> Item:
    """Return the item of the only result."""
    [result] = results
    if result.item is None:
        raise LookupError(result.failure)
    return result.item


async def test_an_asset_that_two_save_at_once_is_one_item(pair: Pair) -> None:
    [asset] = await pair.house.make_job(ADA, [(picture("red"), picture("red", format="WEBP"))])
    results = await asyncio.gather(*(pair.save(service, asset) for service in pair.both for _ in range(2)))
    assert len({item_of(result).item_id for result in results}) == 1
    await pair.settled()
    assert await pair.rows("SELECT count(*) FROM user_library") == [(1,)]
    assert await pair.rows("SELECT state, ref_count FROM blobs") == [("live", 1), ("live", 1)]
    assert await pair.rows("SELECT version FROM saved_marks") == [(1,)]
    assert len(await pair.house.keys_in("user-library")) == 2
    # The item has no renditions yet, and waits for them so long.
    pair.house.clock.advance(timedelta(hours=2))
    assert not await pair.house.is_held(asset)


async def test_equal_bytes_that_two_save_at_once_are_stored_once(pair: Pair) -> None:
    assets = await pair.house.make_job(ADA, [(picture("red"),), (picture("red"),)])
    # Both have copied, and wait to publish.
    results = await pair.race(
        "LOCK TABLE user_library IN EXCLUSIVE MODE",
        pair.save(pair.house.library, assets[0]),
        pair.save(pair.other, assets[1]),
    )
    assert len({item_of(result).item_id for result in results}) == 2
    await pair.settled()
    assert await pair.rows("SELECT state, ref_count FROM blobs") == [("live", 2)]
    [key] = await pair.house.keys_in("user-library")
    assert {item_of(result).files[0].place.key for result in results} == {key}


async def test_an_item_that_two_delete_at_once_is_counted_down_once(pair: Pair) -> None:
    assets = await pair.house.make_job(ADA, [(picture("red"),), (picture("red"),)])
    kept, gone = [item_of(await pair.save(pair.house.library, asset)) for asset in assets]
    caller = pair.house.caller(ADA)
    await pair.race(
        f"SELECT 1 FROM user_library WHERE item_id = '{gone.item_id}' FOR UPDATE",
        *(service.removal.delete_item(caller, gone.item_id) for service in pair.both),
    )
    await pair.settled()
    assert await pair.rows("SELECT state, ref_count FROM blobs") == [("live", 1)]
    assert (await pair.house.library.catalogue.get_item(ADA, kept.item_id)).files
    assert await pair.rows(f"SELECT version FROM saved_marks WHERE asset_id = '{gone.asset_id}'") == [(2,)]


@pytest.mark.parametrize("deleted_first", [True, False])
async def test_bytes_whose_last_item_goes_while_another_comes_are_there_for_it(pair: Pair, deleted_first: bool) -> None:
    old, new = await pair.house.make_job(ADA, [(picture("red"),), (picture("red"),)])
    first = item_of(await pair.save(pair.house.library, old))
    delete = pair.house.library.removal.delete_item(pair.house.caller(ADA), first.item_id)
    save = pair.save(pair.other, new)
    [(blob_id,)] = await pair.rows("SELECT blob_id FROM blobs")
    await pair.race(
        f"SELECT 1 FROM blobs WHERE blob_id = '{blob_id}' FOR UPDATE",
        *((delete, save) if deleted_first else (save, delete)),
    )
    await pair.settled()
    assert await pair.rows("SELECT state, ref_count FROM blobs") == [("live", 1)]
    second = item_of(await pair.save(pair.house.library, new))
    assert await pair.house.keys_in("user-library") == [second.files[0].place.key]


async def test_an_asset_that_is_discarded_while_it_is_saved_is_an_item_or_nothing(pair: Pair) -> None:
    assets = await pair.house.make_job(ADA, [(picture("red"),), (picture("blue"),), (picture("green"),)])
    async with pair.house.as_(ADA) as ada:

        async def discard(asset: str) -> None:
            await ada.workspace.DiscardAsset(asset_service_pb2.DiscardAssetRequest(asset_id=asset))

        results, _ = await asyncio.gather(pair.save(pair.other, *assets), asyncio.gather(*map(discard, assets)))
    await pair.settled()
    await pair.house.asset.expiry.look()
    saved = [result.item for result in results if result.item is not None]
    assert all(isinstance(result.failure, NotFound) for result in results if result.item is None)
    assert len(await pair.house.keys_in("user-library")) == len(saved)
    assert await pair.house.keys_in("workspace-temp") == []


async def test_what_is_owed_is_paid_by_one_of_two(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    paid: list[str] = []

    async def release(holder: str) -> None:
        paid.append(holder)
        await asyncio.sleep(0)

    for service in pair.both:
        monkeypatch.setattr(service.deliveries._assets, "release_hold", release)
    async with pair.other.storage.write() as tx:
        for number in range(30):
            await tx.outbox.owe_release(f"holder-{number:02}")
    await asyncio.gather(*(service.deliveries.deliver_due() for service in pair.both))
    assert sorted(paid) == [f"holder-{number:02}" for number in range(30)]
    assert await pair.rows("SELECT count(*) FROM outbox") == [(0,)]


async def test_what_a_dead_replica_claimed_is_paid_by_another(pair: Pair) -> None:
    async with pair.other.storage.write() as tx:
        await tx.outbox.owe_release("holder")
        assert await tx.outbox.claim_due(limit=9, claim=pair.house.settings.library.hold_ttl)
    assert await pair.house.library.deliveries.deliver_due() == 0
    pair.house.clock.advance(pair.house.settings.library.hold_ttl)
    await pair.settled()
    assert await pair.rows("SELECT count(*) FROM outbox") == [(0,)]


async def test_two_that_sweep_at_once_leave_the_same_as_one(pair: Pair) -> None:
    assets = await pair.house.make_job(ADA, [(picture(color),) for color in ("red", "blue", "green")])
    items = [item_of(await pair.save(pair.other, asset)) for asset in assets]
    caller = pair.house.caller(ADA)
    await asyncio.gather(
        *(service.removal.delete_item(caller, item.item_id) for item in items for service in pair.both),
        *(service.removal.sweep() for service in pair.both),
    )
    await pair.settled()
    assert await pair.rows("SELECT count(*) FROM blobs") == [(0,)]
    assert await pair.house.keys_in("user-library") == []


async def test_what_is_saved_while_its_owner_is_erased_is_gone_or_refused(pair: Pair) -> None:
    [asset] = await pair.house.make_job(ADA, [(picture("red"),)])
    # The copy is there, and its row is published; the item is about to be written.
    await pair.race(
        "LOCK TABLE user_library IN EXCLUSIVE MODE",
        pair.save(pair.house.library, asset),
        pair.other.erasure.erase(ADA),
    )
    await pair.settled()
    async with pair.other.storage.read() as tx:
        assert await tx.erased.count_rows(ADA) == 0
    assert await pair.house.keys_in("user-library") == []


@pytest.mark.parametrize("lock", ["item_tags", "event_heads"])
async def test_what_is_tagged_while_its_owner_is_erased_is_gone(pair: Pair, lock: str) -> None:
    [asset] = await pair.house.make_job(ADA, [(picture("red"),)])
    item = item_of(await pair.save(pair.house.library, asset))
    # The owner was not erased when the tag was asked for; it is about to be written.
    await pair.race(
        f"LOCK TABLE {lock} IN EXCLUSIVE MODE",
        pair.house.library.shelving.change_items(pair.house.caller(ADA), [item.item_id], Change(add_tags=("late",))),
        pair.other.erasure.erase(ADA),
    )
    await pair.settled()
    async with pair.other.storage.read() as tx:
        assert await tx.erased.count_rows(ADA) == 0
    assert await pair.house.keys_in("user-library") == []
