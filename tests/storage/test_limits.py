"""What an operator allows an owner, how much of it is used, and locks by name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from router_service.storage import Storage
from router_service.storage.limits import Allowance
from router_service.storage.queue import Waiting
from service_kit.clock import ManualClock
from service_kit.database import Database
from service_kit.identity import Owner
from tests.storage.both import job

ANN, BOB, CAT = Owner("t", "ann"), Owner("t", "bob"), Owner("u", "ann")


async def test_limits_are_an_owners_and_the_last_ones_hold(router: Storage) -> None:
    async with router.write() as tx:
        assert await tx.limits.find([ANN, BOB]) == {}
        await tx.limits.put(ANN, Allowance(queued_jobs=3))
        await tx.limits.put(CAT, Allowance(requests_per_minute=0))
        assert await tx.limits.find([ANN, BOB]) == {ANN: Allowance(queued_jobs=3)}
        await tx.limits.put(ANN, Allowance(running_jobs=2))
        assert await tx.limits.find([ANN, CAT]) == {
            ANN: Allowance(running_jobs=2),
            CAT: Allowance(requests_per_minute=0),
        }
        await tx.limits.put(ANN, Allowance())
        assert await tx.limits.find([ANN]) == {}


async def test_an_owners_jobs_are_counted_in_all_pools(router: Storage, clock: ManualClock) -> None:
    now = clock.now()
    mine = [job(f"j{number}", now) for number in range(3)]
    theirs = job("c1", now, owner=CAT)
    async with router.write() as tx:
        await tx.queue.enter([Waiting(each) for each in (*mine, theirs)], now)
        await tx.queue.enter([Waiting(job("j9", now), confirmed=False)], now)
        assert await tx.limits.count_queued([ANN, BOB]) == {ANN: 4, BOB: 0}
        assert await tx.limits.count_running([ANN]) == {ANN: 0}
        await tx.leases.add([(each.leased("k/one", now), "s") for each in (*mine, theirs)], now, acknowledged=True)
        assert await tx.limits.count_running([ANN, CAT]) == {ANN: 3, CAT: 1}


async def test_of_those_who_take_a_name_one_goes_at_a_time_and_nobody_in_a_circle(
    router: Storage, open_database: Callable[[str], Database]
) -> None:
    other = Storage(open_database("router"))
    inside: list[str] = []

    async def take(storage: Storage, name: str, names: list[str]) -> None:
        async with storage.write() as tx:
            await tx.locks.take(names)
            await tx.limits.find([ANN])
            inside.append(name)
            await asyncio.sleep(0)
            await tx.limits.find([ANN])
            assert inside.pop() == name, "somebody else is inside"

    for _ in range(5):
        await asyncio.gather(take(router, "one", ["a", "b"]), take(other, "other", ["b", "a", "c"]))
