"""Who waits, who could be next, and that no stage is taken twice."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from sqlalchemy import text, update

from router_service.domain import Job, Stage, StageKind, StageState
from router_service.storage import Storage, Transaction
from router_service.storage.queue import Candidate, QueueKey, Waiting
from router_service.storage.tables import queue
from service_kit.clock import ManualClock
from service_kit.database import Database
from service_kit.identity import Owner
from tests.storage.both import job

ANN, BOB, CAT = Owner("t", "ann"), Owner("t", "bob"), Owner("u", "ann")
SECOND = timedelta(seconds=1)
SDXL = QueueKey("sdxl")


def waiting(job_id: str, clock: ManualClock, *, pool: str = "sdxl", model: str = "base", **changes: Any) -> Job:
    made = job(job_id, clock.now(), stages=(Stage(StageKind.GENERATE, pool, StageState.QUEUED),), **changes)
    return dataclasses.replace(made, settings=dataclasses.replace(made.settings, worker_type=pool, model=model))


async def enter(router: Storage, clock: ManualClock, *jobs: Job, **how: Any) -> None:
    async with router.write() as tx:
        await tx.jobs.add(jobs)
        await tx.queue.enter([Waiting(one, **how) for one in jobs], clock.now())


async def next_ones(tx: Transaction, *keys: QueueKey, each: int = 9) -> list[str]:
    return [candidate.job_id for candidate in await tx.queue.find_candidates(keys or [SDXL], each=each)]


async def test_a_candidate_says_what_it_is(router: Storage, clock: ManualClock) -> None:
    await enter(router, clock, waiting("j1", clock, priority=3, tier=1))
    async with router.read() as tx:
        [candidate] = await tx.queue.find_candidates([SDXL], each=1)
        assert candidate == Candidate("j1", ANN, "sdxl", "base", 1, -3, clock.now())
        assert await tx.queue.find_candidates([], each=1) == []


async def test_the_first_of_each_owner_are_found_in_their_order(router: Storage, clock: ManualClock) -> None:
    """Priority first, then age, then the id; owners beside each other, whatever the depth of one's queue."""
    await enter(router, clock, *(waiting(f"a{number}", clock) for number in (3, 1, 2)))
    await enter(router, clock, waiting("c1", clock, owner=CAT))
    clock.advance(SECOND)
    await enter(router, clock, waiting("a0", clock), waiting("a9", clock, priority=1), waiting("b1", clock, owner=BOB))
    async with router.read() as tx:
        in_order = ["a9", "a1", "a2", "a3", "a0"]
        for each in range(1, 7):
            assert sorted(await next_ones(tx, each=each)) == sorted([*in_order[:each], "b1", "c1"])


async def test_each_key_of_an_owner_has_its_first_ones_seen(router: Storage, clock: ManualClock) -> None:
    for key_id in ("k1", "k2", ""):
        await enter(router, clock, *(waiting(f"{key_id}-{number}", clock, key_id=key_id) for number in range(5)))
    await enter(router, clock, waiting("b", clock, owner=BOB, key_id="k3"), waiting("c", clock, owner=CAT))
    async with router.read() as tx:
        found = await tx.queue.find_candidates([SDXL], each=2)
        assert sorted(each.job_id for each in found) == ["-0", "-1", "b", "c", "k1-0", "k1-1", "k2-0", "k2-1"]
        assert {each.job_id: each.key_id for each in found if each.owner == BOB} == {"b": "k3"}
        counted = await tx.limits.count_queued([ANN, BOB, "k1", "k3", "unknown"])
        assert counted == {ANN: 15, BOB: 1, "k1": 5, "k3": 1, "unknown": 0}


async def test_only_what_a_worker_takes_is_found(router: Storage, clock: ManualClock) -> None:
    await enter(
        *(router, clock),
        *(waiting(f"{model}-{tier}", clock, model=model, tier=tier) for model in ("m1", "m2", "m3") for tier in (0, 1)),
        waiting("other", clock, pool="wan", model="m1"),
    )
    async with router.read() as tx:
        assert set(await next_ones(tx, QueueKey("sdxl", ("m1", "m3")))) == {"m1-0", "m1-1", "m3-0", "m3-1"}
        assert await next_ones(tx, QueueKey("wan")) == ["other"]
        assert set(await next_ones(tx, QueueKey("wan"), QueueKey("sdxl", ("m2",)))) == {"other", "m2-0", "m2-1"}
        assert len(await next_ones(tx, QueueKey("sdxl"), QueueKey("sdxl", ("m2",)))) == 6
        assert await next_ones(tx, QueueKey("unknown"), QueueKey("sdxl", ("unknown",))) == []


async def test_an_enhancement_is_found_by_whoever_enhances_whatever_models_it_names(
    router: Storage, clock: ManualClock
) -> None:
    """It carries the model that its prompt is for, and runs none: beside it, stages that run one are found by name."""
    enhancing = (Stage(StageKind.ENHANCE, "sdxl", StageState.QUEUED), Stage(StageKind.GENERATE, "sdxl"))
    made = [dataclasses.replace(waiting(f"e-{model}", clock, model=model), stages=enhancing) for model in ("m1", "m2")]
    await enter(router, clock, *made, waiting("g1", clock, model="m1"), waiting("g2", clock, model="m2"))
    async with router.read() as tx:
        assert set(await next_ones(tx, QueueKey("sdxl", ("m1",)))) == {"e-m1", "e-m2", "g1"}
        assert set(await next_ones(tx, QueueKey("sdxl", ("unknown",)))) == {"e-m1", "e-m2"}
        assert set(await next_ones(tx, QueueKey("sdxl", ("m2",), enhances=False))) == {"g2"}
        assert set(await next_ones(tx, QueueKey("sdxl", enhances=False))) == {"g1", "g2"}
        assert set(await next_ones(tx)) == {"e-m1", "e-m2", "g1", "g2"}


async def test_enhancements_that_waited_under_a_model_wait_without_one_after_the_migration(
    router: Storage, clock: ManualClock
) -> None:
    enhancing = (Stage(StageKind.ENHANCE, "sdxl", StageState.QUEUED), Stage(StageKind.GENERATE, "sdxl"))
    done = dataclasses.replace(waiting("g2", clock), stages=enhancing, stage=1)
    await enter(router, clock, dataclasses.replace(waiting("e1", clock), stages=enhancing), waiting("g1", clock), done)
    migration = importlib.import_module("router_service.storage.migrations.versions.0010_models_of_stages")
    async with router.write() as tx:
        await tx.queue._connection.execute(update(queue).values(model="base"))
        assert await next_ones(tx, QueueKey("sdxl", ("unknown",))) == []
        await tx.queue._connection.execute(text(migration.ENHANCEMENTS[tx.queue._connection.dialect.name]))
        assert await next_ones(tx, QueueKey("sdxl", ("unknown",))) == ["e1"]
        assert set(await next_ones(tx, QueueKey("sdxl", ("base",), enhances=False))) == {"g1", "g2"}


async def test_what_pauses_is_found_when_its_pause_is_over(router: Storage, clock: ManualClock) -> None:
    await enter(router, clock, waiting("j1", clock), pause=2 * SECOND)
    await enter(router, clock, waiting("j2", clock), pause=SECOND)
    async with router.write() as tx:
        assert await next_ones(tx) == []
        assert await tx.queue.next_ready_at() == clock.now() + SECOND
        assert await tx.queue.make_ready() == 0
    clock.advance(SECOND)
    async with router.write() as tx:
        assert await tx.queue.make_ready() == 1
        assert await next_ones(tx) == ["j2"]
        assert await tx.queue.next_ready_at() == clock.now() + SECOND


async def test_what_is_not_confirmed_waits_until_it_is(router: Storage, clock: ManualClock) -> None:
    await enter(router, clock, waiting("j1", clock), waiting("j2", clock), confirmed=False)
    await enter(router, clock, waiting("j3", clock), pause=SECOND)
    clock.advance(timedelta(days=365))
    async with router.write() as tx:
        await tx.queue.confirm(["j1", "unknown"])
        await tx.queue.confirm([])
        assert await next_ones(tx) == ["j1"]
        assert await tx.queue.make_ready() == 1
        assert sorted(await next_ones(tx)) == ["j1", "j3"]
        assert await tx.queue.next_ready_at() is None


async def test_a_stage_is_taken_once_and_only_when_it_is_ready(router: Storage, clock: ManualClock) -> None:
    await enter(router, clock, waiting("j1", clock), waiting("j2", clock))
    await enter(router, clock, waiting("j3", clock), pause=SECOND)
    async with router.write() as tx:
        assert await tx.queue.take(["j1", "j3", "unknown"]) == {"j1"}
        assert await tx.queue.take(["j1"]) == set()
        assert await tx.queue.take([]) == set()
        assert await next_ones(tx) == ["j2"]
        await tx.queue.leave(["j2", "j3", "unknown"])
        await tx.queue.leave([])
        assert await next_ones(tx) == []
        assert await tx.queue.next_ready_at() is None


async def test_whoever_waits_long_rises_by_tiers(router: Storage, clock: ManualClock) -> None:
    await enter(router, clock, waiting("low", clock, tier=1))
    await enter(router, clock, waiting("high", clock, tier=2))
    clock.advance(SECOND)
    await enter(router, clock, waiting("new", clock, tier=1))

    async def tiers(tx: Transaction) -> dict[str, int]:
        return {each.job_id: each.tier for each in await tx.queue.find_candidates([SDXL], each=9)}

    async with router.write() as tx:
        assert await tx.queue.raise_tiers(waited=SECOND, highest=2, limit=9) == 0
    clock.advance(timedelta(microseconds=1))
    async with router.write() as tx:
        assert await tx.queue.raise_tiers(waited=SECOND, highest=2, limit=0) == 0
        assert await tx.queue.raise_tiers(waited=SECOND, highest=2, limit=9) == 1
        assert await tiers(tx) == {"low": 2, "high": 2, "new": 1}
        # From here it counts anew.
        assert await tx.queue.raise_tiers(waited=SECOND, highest=3, limit=9) == 1
        assert await tiers(tx) == {"low": 2, "high": 3, "new": 1}


async def test_who_was_served_last_is_known_by_pool(router: Storage, clock: ManualClock) -> None:
    async with router.write() as tx:
        await tx.queue.note_served([("sdxl", ANN, clock.now()), ("wan", BOB, clock.now())])
        later = clock.now() + SECOND
        await tx.queue.note_served([("wan", ANN, later), ("sdxl", CAT, clock.now())])
        await tx.queue.note_served([])
        assert await tx.queue.last_served(["sdxl"], [ANN, BOB, CAT]) == {ANN: clock.now(), CAT: clock.now()}
        assert (await tx.queue.last_served(["sdxl", "wan"], [ANN]))[ANN] == later
        assert BOB not in await tx.queue.last_served(["wan"], [ANN])
        await tx.queue.note_served([("sdxl", ANN, later)])
        assert await tx.queue.last_served(["sdxl"], [ANN]) == {ANN: later} | {CAT: clock.now()}
        clock.advance(2 * SECOND)
        assert await tx.queue.forget_served(3 * SECOND) == 0
        assert await tx.queue.forget_served(1.5 * SECOND) == 2
        assert await tx.queue.last_served(["sdxl", "wan"], [ANN, BOB, CAT]) == {ANN: later}


async def test_what_runs_and_waits_is_counted(router: Storage, clock: ManualClock) -> None:
    jobs = [
        waiting("j1", clock),
        waiting("j2", clock),
        waiting("j3", clock, owner=BOB),
        waiting("j4", clock, pool="wan"),
    ]
    async with router.write() as tx:
        await tx.queue.lock_pools(["wan", "sdxl", "idle"])
        await tx.leases.add([(one, "s1") for one in jobs], clock.now(), acknowledged=True)
        assert await tx.queue.count_running(["sdxl"]) == {ANN: 2, BOB: 1}
        assert await tx.queue.count_running(["sdxl", "wan"]) == {ANN: 3, BOB: 1}
        assert await tx.queue.count_running(["idle"]) == {}
        assert await tx.queue.count_waiting() == {}
    await enter(router, clock, *jobs)
    async with router.read() as tx:
        assert await tx.queue.count_waiting() == {"sdxl": 3, "wan": 1}


async def test_what_is_past_its_deadline_is_found_wherever_it_is(router: Storage, clock: ManualClock) -> None:
    soon = clock.now() + SECOND
    running, queued = waiting("j1", clock, deadline_at=soon), waiting("j2", clock, deadline_at=soon)
    await enter(router, clock, queued, waiting("j3", clock))
    async with router.write() as tx:
        await tx.leases.add([(running, "s1"), (waiting("j4", clock), "s1")], clock.now(), acknowledged=True)
    clock.advance(SECOND)
    async with router.read() as tx:
        assert await tx.queue.find_overdue(limit=9) == []
        clock.advance(timedelta(microseconds=1))
        assert sorted(await tx.queue.find_overdue(limit=9)) == ["j1", "j2"]
        assert len(await tx.queue.find_overdue(limit=1)) == 1


async def test_who_has_locked_a_pool_leases_alone(open_database: Callable[[str], Database], clock: ManualClock) -> None:
    """On two connections, as two replicas have them: new pools and known ones, in any order."""
    one, two = Storage(open_database("router")), Storage(open_database("router"))
    for pools in (["wan", "sdxl"], ["sdxl", "wan"], ["wan"]):
        locked, order = asyncio.Event(), list[str]()

        async def second(locked: asyncio.Event, order: list[str]) -> None:
            await locked.wait()
            async with two.write() as tx:
                await tx.queue.lock_pools(["sdxl", "wan"])
                order.append("second")

        async with asyncio.TaskGroup() as group:
            late = group.create_task(second(locked, order))
            async with one.write() as tx:
                await tx.queue.lock_pools(pools)
                locked.set()
                done, _ = await asyncio.wait({late}, timeout=0.05)
                assert not done
                order.append("first")
        assert order == ["first", "second"]


async def test_two_that_lease_at_once_never_take_the_same_stage(
    open_database: Callable[[str], Database], clock: ManualClock
) -> None:
    stores = [Storage(open_database("router")) for _ in range(2)]
    await enter(stores[0], clock, *(waiting(f"j{number:02}", clock) for number in range(12)))
    start = asyncio.Barrier(4)

    async def lease(storage: Storage, session: str) -> list[str]:
        taken: list[str] = []
        await start.wait()
        for _ in range(3):
            async with storage.write() as tx:
                await tx.queue.lock_pools(["sdxl"])
                found = await next_ones(tx, each=1)
                jobs = await tx.jobs.lock(found, skip_locked=True)
                # Everybody has found before anybody takes.
                await asyncio.sleep(0)
                mine = await tx.queue.take(list(jobs))
                await tx.leases.add([(jobs[job_id], session) for job_id in mine], clock.now(), acknowledged=False)
                taken += mine
        return taken

    rounds = await asyncio.gather(*(lease(stores[number % 2], f"s{number}") for number in range(4)))
    taken = [job_id for each in rounds for job_id in each]
    assert sorted(taken) == [f"j{number:02}" for number in range(12)]


async def test_a_pool_is_empty_while_nothing_in_it_may_be_leased(router: Storage, clock: ManualClock) -> None:
    await enter(router, clock, waiting("paused", clock), pause=SECOND)
    await enter(router, clock, waiting("elsewhere", clock, pool="wan"))
    async with router.read() as tx:
        assert await tx.queue.is_empty(["sdxl"])
        assert not await tx.queue.is_empty(["sdxl", "wan"])
    await enter(router, clock, waiting("ready", clock))
    async with router.read() as tx:
        assert not await tx.queue.is_empty(["sdxl"])


async def test_a_job_that_is_leased_as_it_is_added_has_two_events(router: Storage, clock: ManualClock) -> None:
    new = waiting("j1", clock)
    after = new.leased("worker", clock.now())
    async with router.write() as tx:
        await tx.jobs.add([new, waiting("j2", clock)], {"j1": after})
    async with router.read() as tx:
        assert await tx.jobs.get("j1") == after
        told = await tx.events.find_after(0, owner=ANN)
    assert [(event.job.job_id, event.job.state, event.job.version) for event in told] == [
        ("j1", new.state, 1),
        ("j1", after.state, 2),
        ("j2", new.state, 1),
    ]
