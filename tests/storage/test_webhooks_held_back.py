"""Deliveries that wait for an earlier one of their job: due with it, never before it, and not looked at meanwhile."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from router_service.domain import Job, JobState
from router_service.storage import Storage
from router_service.storage import webhooks as queries
from router_service.webhook_domain import HOLDS_BACK_FOR, Delivery, DeliveryState, Webhook, WebhookEvent
from service_kit.clock import ManualClock
from service_kit.database import Database
from service_kit.identity import Owner
from service_kit.ids import new_id
from tests.storage.both import job

ANN = Owner("t", "ann")
MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)
ALL = Webhook("https://a.example/x", tuple(WebhookEvent))
STARTED, OUTPUT, COMPLETED = WebhookEvent


async def started(router: Storage, clock: ManualClock) -> Job:
    """Write a job that runs, and return it."""
    queued = job(new_id(), clock.now(), owner=ANN, webhook=ALL)
    running = queued.leased("w/one", clock.now())
    async with router.write() as tx:
        await tx.jobs.add([queued], {queued.job_id: running})
    return running


async def succeeded(router: Storage, clock: ManualClock, running: Job | None = None) -> Job:
    """Write a job of which its receiver is told three things, and return it."""
    running = running or await started(router, clock)
    ended = replace(running, state=JobState.SUCCEEDED, version=3, finished_at=clock.now())
    async with router.write() as tx:
        await tx.jobs.lock([running.job_id])
        await tx.jobs.save([(running, ended)])
    return ended


async def lease(router: Storage, *, limit: int = 9) -> list[Delivery]:
    async with router.write() as tx:
        return [one for one, _ in await tx.deliveries.lease_due(limit=limit, lease_for=MINUTE, most_per_owner=99)]


async def answered(router: Storage, delivery: Delivery, clock: ManualClock, *, retry: timedelta | None = None) -> None:
    """Note that a delivery was taken, or fails and is repeated after a time."""
    tries = delivery.tries + 1
    after = replace(delivery, tries=tries, due_at=clock.now() + retry if retry else None)
    if not retry:
        after = replace(after, state=DeliveryState.DELIVERED, finished_at=clock.now())
    async with router.write() as tx:
        await tx.deliveries.lock([delivery.delivery_id])
        await tx.deliveries.save([(delivery, after)])


async def due(router: Storage) -> dict[WebhookEvent, datetime | None]:
    async with router.read() as tx:
        return {one.event: one.due_at for one in await tx.deliveries.find_page(ANN, limit=9)}


async def test_what_is_held_back_is_due_with_what_holds_it_back(router: Storage, clock: ManualClock) -> None:
    await succeeded(router, clock)
    for retry in (5 * SECOND, 2 * MINUTE):
        (first,) = await lease(router)
        assert first.event is STARTED
        assert set((await due(router)).values()) == {clock.now() + MINUTE}, "all wait for the lease"
        await answered(router, first, clock, retry=retry)
        assert set((await due(router)).values()) == {clock.now() + retry}, "and then for the repetition"
        clock.advance(retry)
    (first,) = await lease(router)
    assert first.tries == HOLDS_BACK_FOR - 1
    await answered(router, first, clock, retry=10 * MINUTE)
    assert await due(router) == {STARTED: clock.now() + 10 * MINUTE, OUTPUT: clock.now(), COMPLETED: clock.now()}
    (second,) = await lease(router)
    assert second.event is OUTPUT
    assert await due(router) == {STARTED: clock.now() + 10 * MINUTE} | dict.fromkeys(
        (OUTPUT, COMPLETED), clock.now() + MINUTE
    )
    clock.advance(SECOND)
    await answered(router, second, clock)
    assert [one.event for one in await lease(router)] == [COMPLETED]


async def test_a_later_one_moves_nothing_that_goes_before_it(router: Storage, clock: ManualClock) -> None:
    await succeeded(router, clock)
    await lease(router)
    async with router.write() as tx:
        (output,) = [one for one in await tx.deliveries.find_page(ANN, limit=9) if one.event is OUTPUT]
        await tx.deliveries.save([(output, replace(output, due_at=clock.now(), lease=1))])
    assert await due(router) == dict.fromkeys((OUTPUT, COMPLETED), clock.now()) | {STARTED: clock.now() + MINUTE}
    assert await lease(router) == []
    assert set((await due(router)).values()) == {clock.now() + MINUTE}


async def test_what_waits_elsewhere_stays_where_it_is(router: Storage, clock: ManualClock) -> None:
    await succeeded(router, clock)
    (first,) = await lease(router)
    clock.advance(SECOND)
    other = await succeeded(router, clock)
    (second,) = await lease(router)
    assert second.job_id == other.job_id
    await answered(router, first, clock)
    async with router.read() as tx:
        theirs = await tx.deliveries.find_page(ANN, job_id=other.job_id, limit=9)
    assert {one.due_at for one in theirs} == {clock.now() + MINUTE}


async def test_nobody_is_kept_by_many_that_are_held_back(
    router: Storage, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "_LOOK_AT", 4)
    # As a router of the release before leaves them: due, but behind one that has become due after them.
    began = clock.now()
    for _ in range(4):
        await succeeded(router, clock)
    async with router.write() as tx:
        for place, one in enumerate(await tx.deliveries.find_page(ANN, limit=99)):
            if one.event is STARTED:
                later = began + MINUTE + place * timedelta(microseconds=1)
                await tx.deliveries.save([(replace(one, due_at=None), replace(one, due_at=later))])
    clock.advance(2 * MINUTE)
    found: list[Delivery] = []
    for _ in range(6):
        found += await lease(router)
    assert [one.event for one in found] == [STARTED] * 4
    async with router.read() as tx:
        assert not await tx.deliveries.any_due(), "what is held back is not looked at again"


async def test_what_is_put_off_while_the_first_is_taken_does_not_wait_for_its_lease(
    open_database: Callable[[str], Database], clock: ManualClock
) -> None:
    one, other = (Storage(open_database("router")) for _ in range(2))
    running = await started(one, clock)
    (first,) = await lease(one)
    clock.advance(SECOND)
    await succeeded(one, clock, running)
    async with one.write() as tx:
        assert await tx.deliveries.lease_due(limit=9, lease_for=MINUTE, most_per_owner=99) == []
        # Neither of the two has committed when the other looks.
        taking = asyncio.create_task(answered(other, first, clock))
        await asyncio.wait({taking}, timeout=0.2)
    await taking
    assert await due(one) == {STARTED: None} | dict.fromkeys((OUTPUT, COMPLETED), clock.now())


async def test_two_gateways_tell_in_order_and_once(
    open_database: Callable[[str], Database], clock: ManualClock
) -> None:
    stores = [Storage(open_database("router")) for _ in range(2)]
    jobs = [await succeeded(stores[0], clock) for _ in range(6)]
    told: dict[str, list[WebhookEvent]] = defaultdict(list)

    async def gateway(store: Storage) -> bool:
        found = await lease(store, limit=3)
        for delivery in found:
            if delivery.tries == 0 and delivery.event is not COMPLETED:
                await answered(store, delivery, clock, retry=SECOND)
            else:
                told[delivery.job_id].append(delivery.event)
                await answered(store, delivery, clock)
        return bool(found)

    for _ in range(40):
        if not any(await asyncio.gather(*(gateway(store) for store in stores))):
            clock.advance(SECOND)
    assert told == {one.job_id: [STARTED, OUTPUT, COMPLETED] for one in jobs}
