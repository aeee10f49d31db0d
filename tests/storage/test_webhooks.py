"""Deliveries of webhooks and what secrets are made from: written with the job, leased fairly, kept while they count."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from router_service.domain import Job, JobState
from router_service.storage import Storage
from router_service.webhook_domain import DeliveryState, Webhook, WebhookDialect, WebhookEvent
from service_kit.clock import ManualClock
from service_kit.database import Database
from service_kit.errors import NotFound
from service_kit.identity import Owner
from service_kit.ids import new_id
from tests.storage.both import job

ANN, BOB, CAT = Owner("t", "ann"), Owner("t", "bob"), Owner("u", "ann")
MINUTE = timedelta(minutes=1)
ALL = Webhook("https://a.example/x", tuple(WebhookEvent), WebhookDialect.FAL)


async def ended(router: Storage, clock: ManualClock, owner: Owner = ANN, webhook: Webhook | None = ALL) -> Job:
    """Write a job of which a worker began, and that failed. Returns it as it is in the end."""
    queued = job(new_id(), clock.now(), owner=owner, webhook=webhook)
    running = queued.leased("w/one", clock.now())
    failed = replace(running, state=JobState.FAILED, version=3, finished_at=clock.now())
    async with router.write() as tx:
        await tx.jobs.add([queued], {queued.job_id: running})
    async with router.write() as tx:
        await tx.jobs.lock([queued.job_id])
        await tx.jobs.save([(running, failed)])
    return failed


async def test_transitions_write_deliveries_with_the_job_as_it_was(router: Storage, clock: ManualClock) -> None:
    failed = await ended(router, clock)
    await ended(router, clock, webhook=None)
    leased = []
    for _ in range(2):
        async with router.write() as tx:
            assert await tx.deliveries.any_due()
            ((delivery, then),) = await tx.deliveries.lease_due(limit=9, lease_for=MINUTE, most_per_owner=9)
            assert not await tx.deliveries.any_due(), "what is told next waits"
            assert await tx.deliveries.lease_due(limit=9, lease_for=MINUTE, most_per_owner=9) == []
        clock.advance(MINUTE)
        async with router.write() as tx:
            ((again, _),) = await tx.deliveries.lease_due(limit=9, lease_for=MINUTE, most_per_owner=9)
            assert (again.delivery_id, again.lease) == (delivery.delivery_id, 2)
            await tx.deliveries.lock([again.delivery_id])
            await tx.deliveries.save([(again, replace(again, due_at=None, finished_at=clock.now()))])
        leased.append((delivery, then))
    (started, running), (completed, then) = leased
    assert started.event is WebhookEvent.STARTED and running.state is JobState.RUNNING
    assert completed.event is WebhookEvent.COMPLETED and then == failed, "nothing was delivered: no `output`"
    assert (completed.owner, completed.url, completed.dialect) == (ANN, ALL.url, WebhookDialect.FAL)
    assert completed.lease == 1


async def test_what_is_written_twice_is_there_once(router: Storage, clock: ManualClock) -> None:
    failed = await ended(router, clock)
    before = replace(failed, state=JobState.RUNNING, finished_at=None)
    async with router.write() as tx:
        tx.deliveries.add(before, failed, "{}")
        await tx.deliveries.write()
        assert len(await tx.deliveries.find_page(ANN, limit=9)) == 2


async def test_a_transaction_that_fails_writes_no_delivery(router: Storage, clock: ManualClock) -> None:
    queued = job(new_id(), clock.now(), webhook=ALL)

    async def break_off() -> None:
        async with router.write() as tx:
            await tx.jobs.add([queued], {queued.job_id: queued.leased("w/one", clock.now())})
            raise RuntimeError("the process ends here")

    with pytest.raises(RuntimeError):
        await break_off()
    async with router.read() as tx:
        assert await tx.deliveries.find_page(ANN, limit=9) == []


async def test_owners_take_turns_and_busy_ones_wait(router: Storage, clock: ManualClock) -> None:
    for owner in (ANN, ANN, ANN, BOB, CAT):
        await ended(router, clock, owner, replace(ALL, events=(WebhookEvent.COMPLETED,)))
        clock.advance(timedelta(seconds=1))
    async with router.write() as tx:
        first = await tx.deliveries.lease_due(limit=3, lease_for=MINUTE, most_per_owner=9)
        assert {one.owner for one, _ in first} == {ANN, BOB, CAT}
        assert await tx.deliveries.lease_due(limit=9, lease_for=MINUTE, most_per_owner=9, busy=[ANN]) == []
        second = await tx.deliveries.lease_due(limit=9, lease_for=MINUTE, most_per_owner=1)
        assert [one.owner for one, _ in second] == [ANN]


async def test_two_gateways_never_get_the_same(open_database: Callable[[str], Database], clock: ManualClock) -> None:
    stores = [Storage(open_database("router")) for _ in range(2)]
    for _ in range(4):
        await ended(stores[0], clock)

    async def lease(store: Storage) -> list[str]:
        async with store.write() as tx:
            found = await tx.deliveries.lease_due(limit=5, lease_for=MINUTE, most_per_owner=9)
        return [delivery.delivery_id for delivery, _ in found]

    got = [one for many in await asyncio.gather(*(lease(stores[n % 2]) for n in range(6))) for one in many]
    assert len(got) == len(set(got))


async def test_the_log_is_read_in_pages_changed_and_forgotten(router: Storage, clock: ManualClock) -> None:
    jobs = []
    for _ in range(3):
        jobs.append(await ended(router, clock, webhook=replace(ALL, events=(WebhookEvent.COMPLETED,))))
        clock.advance(MINUTE)
    await ended(router, clock, BOB)
    async with router.write() as tx:
        newest, *older = await tx.deliveries.find_page(ANN, limit=9)
        assert [one.job_id for one in (newest, *older)] == [one.job_id for one in reversed(jobs)]
        place = (newest.created_at, newest.delivery_id)
        assert await tx.deliveries.find_page(ANN, before=place, limit=1) == older[:1]
        assert await tx.deliveries.find_page(ANN, job_id=jobs[0].job_id, limit=9) == older[1:]
        locked = await tx.deliveries.lock([newest.delivery_id, "none"])
        assert locked == {newest.delivery_id: newest}
        assert await tx.deliveries.lock_owned(newest.delivery_id, ANN) == newest
        for owner, delivery_id in ((BOB, newest.delivery_id), (ANN, "none")):
            with pytest.raises(NotFound):
                await tx.deliveries.lock_owned(delivery_id, owner)
        done = replace(
            newest,
            state=DeliveryState.DELIVERED,
            due_at=None,
            finished_at=clock.now(),
            attempted_at=clock.now(),
            attempts=2,
            tries=1,
            last_status=204,
            last_error="x",
        )
        await tx.deliveries.save([(newest, done)])
        assert await tx.deliveries.find_page(ANN, state=DeliveryState.DELIVERED, limit=9) == [done]
    async with router.write() as tx:
        assert await tx.deliveries.remove_finished(MINUTE) == 0
        await tx.deliveries.remove_finished_of(older[0].job_id)
        assert len(await tx.deliveries.find_page(ANN, limit=9)) == 3, "what is pending stays"
    clock.advance(2 * MINUTE)
    async with router.write() as tx:
        assert await tx.deliveries.remove_finished(MINUTE) == 1
        assert await tx.deliveries.find_page(ANN, limit=9) == older, "what is pending stays"


async def test_seeds_of_secrets_retire_and_are_forgotten(router: Storage, clock: ManualClock) -> None:
    async with router.write() as tx:
        assert await tx.secret_seeds.find([ANN], retired_within=MINUTE) == {}
        assert await tx.secret_seeds.add(ANN, 1, key_id="k", nonce="n1")
        assert not await tx.secret_seeds.add(ANN, 1, key_id="k", nonce="n2")
        assert await tx.secret_seeds.add(BOB, 1, key_id="k", nonce="n3")
        assert await tx.secret_seeds.add(ANN, 2, key_id="k", nonce="n4")
        await tx.secret_seeds.retire(ANN, before=2)
    async with router.write() as tx:
        found = await tx.secret_seeds.find([ANN, BOB, CAT], retired_within=MINUTE)
        assert {owner: [seed.nonce for seed in seeds] for owner, seeds in found.items()} == {
            ANN: ["n4", "n1"],
            BOB: ["n3"],
        }
        assert [seed.retired_at for seed in found[ANN]] == [None, clock.now()]
    clock.advance(MINUTE)
    async with router.write() as tx:
        assert [seed.nonce for seed in (await tx.secret_seeds.find([ANN], retired_within=MINUTE))[ANN]] == ["n4"]
        assert await tx.secret_seeds.remove_retired(2 * MINUTE) == 0
    clock.advance(2 * MINUTE)
    async with router.write() as tx:
        assert await tx.secret_seeds.remove_retired(2 * MINUTE) == 1


async def test_an_erased_owner_leaves_no_delivery_and_no_seed(router: Storage, clock: ManualClock) -> None:
    await ended(router, clock)
    async with router.write() as tx:
        await tx.secret_seeds.add(ANN, 1, key_id="k", nonce="n")
        await tx.erased.delete_rows(ANN)
        assert await tx.deliveries.find_page(ANN, limit=9) == []
        assert await tx.secret_seeds.find([ANN], retired_within=MINUTE) == {}
