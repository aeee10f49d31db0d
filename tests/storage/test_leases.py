"""Who runs what: a lease counts only with its fence, and for the session that has it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from datetime import timedelta

from router_service.domain import Job, Lease, LeaseRef
from router_service.storage import Storage
from service_kit.clock import ManualClock
from service_kit.database import Database
from tests.storage.both import job

SECOND, MOMENT = timedelta(seconds=1), timedelta(microseconds=1)
TTL, ACK = 10 * SECOND, 2 * SECOND


def running(job_id: str, clock: ManualClock, *, fence: int = 3, holder: str = "w1") -> Job:
    made = job(job_id, clock.now(), fence=fence, holder=holder)
    return dataclasses.replace(made, stages=(dataclasses.replace(made.stages[0], attempt=2),))


async def lease(router: Storage, clock: ManualClock, *jobs: Job, acknowledged: bool = True) -> None:
    async with router.write() as tx:
        await tx.leases.add([(one, "s1") for one in jobs], clock.now(), acknowledged=acknowledged)


async def test_a_lease_says_who_runs_what(router: Storage, clock: ManualClock) -> None:
    one, two = running("j1", clock), running("j2", clock, holder="w2")
    expected = {each.job_id: Lease(each.ref, each.holder, "s1", 2, False) for each in (one, two)}
    async with router.write() as tx:
        assert await tx.leases.add([(one, "s1"), (two, "s1")], clock.now(), acknowledged=False) == expected
        assert await tx.leases.lock(["j2", "unknown", "j1"]) == expected
        assert await tx.leases.lock([]) == {}
        assert await tx.leases.find_held("w2") == [expected["j2"]]
        assert await tx.leases.find_held("unknown") == []
        await tx.leases.end(["j1", "unknown"])
        await tx.leases.end([])
        assert await tx.leases.lock(["j1", "j2"]) == {"j2": expected["j2"]}


async def test_only_the_session_with_the_fence_acknowledges(router: Storage, clock: ManualClock) -> None:
    await lease(router, clock, running("j1", clock), running("j2", clock), acknowledged=False)
    async with router.write() as tx:
        for ref, session in (
            (LeaseRef("j1", 0, 2), "s1"),
            (LeaseRef("j1", 1, 3), "s1"),
            (LeaseRef("j1", 0, 3), "s2"),
            (LeaseRef("unknown", 0, 3), "s1"),
        ):
            await tx.leases.acknowledge([(ref, session)])
        assert not (await tx.leases.lock(["j1"]))["j1"].acknowledged
        await tx.leases.acknowledge([(LeaseRef("j1", 0, 3), "s1")] * 2)
        await tx.leases.acknowledge([])
        locked = await tx.leases.lock(["j1", "j2"])
        assert (locked["j1"].acknowledged, locked["j2"].acknowledged) == (True, False)


async def test_only_the_session_with_the_fence_renews(router: Storage, clock: ManualClock) -> None:
    await lease(router, clock, running("j1", clock), running("j2", clock))
    mine, other = (LeaseRef("j1", 0, 3), "s1"), (LeaseRef("j2", 0, 3), "s1")
    strangers = [
        (LeaseRef("j2", 0, 2), "s1"),
        (LeaseRef("j2", 0, 4), "s1"),
        (LeaseRef("j2", 1, 3), "s1"),
        (LeaseRef("j2", 0, 3), "s2"),
        (LeaseRef("unknown", 0, 3), "s1"),
    ]
    clock.advance(TTL)
    async with router.write() as tx:
        assert await tx.leases.renew([mine, *strangers]) == {mine}
        assert await tx.leases.renew([]) == set()
    clock.advance(MOMENT)
    async with router.write() as tx:
        assert await tx.leases.find_expired(lease_ttl=TTL, ack_timeout=ACK, limit=9) == ["j2"]
        assert await tx.leases.renew([mine, other]) == {mine, other}
        assert await tx.leases.find_expired(lease_ttl=TTL, ack_timeout=ACK, limit=9) == []


async def test_a_new_session_of_the_holder_takes_leases_over(router: Storage, clock: ManualClock) -> None:
    await lease(router, clock, running("j1", clock), running("j2", clock), acknowledged=False)
    ref = LeaseRef("j1", 0, 3)
    async with router.write() as tx:
        await tx.leases.adopt([ref, LeaseRef("j2", 0, 2)], "s2", clock.now())
        await tx.leases.adopt([], "s3", clock.now())
        locked = await tx.leases.lock(["j1", "j2"])
        assert (locked["j1"].session, locked["j1"].acknowledged) == ("s2", True)
        assert (locked["j2"].session, locked["j2"].acknowledged) == ("s1", False)
        assert await tx.leases.renew([(ref, "s1")]) == set()
        assert await tx.leases.renew([(ref, "s2")]) == {(ref, "s2")}


async def test_a_lease_expires_sooner_while_it_is_not_acknowledged(router: Storage, clock: ManualClock) -> None:
    await lease(router, clock, running("silent", clock), acknowledged=False)
    await lease(router, clock, running("busy", clock))
    limits = {"lease_ttl": TTL, "ack_timeout": ACK}

    async def expired() -> list[str]:
        async with router.write() as tx:
            found = await tx.leases.find_expired(**limits, limit=9)
            assert set(await tx.leases.lock_expired(["busy", "silent", "unknown"], **limits)) == set(found)
            return sorted(found)

    clock.advance(ACK)
    assert await expired() == []
    clock.advance(MOMENT)
    assert await expired() == ["silent"]
    clock.advance(TTL)
    assert await expired() == ["busy", "silent"]
    async with router.write() as tx:
        assert len(await tx.leases.find_expired(**limits, limit=1)) == 1
        assert await tx.leases.lock_expired([], **limits) == {}
        assert set(await tx.leases.lock_expired(["busy"], **limits)) == {"busy"}


async def test_a_lease_of_the_future_is_of_a_clock_that_was_set_back(router: Storage, clock: ManualClock) -> None:
    async with router.write() as tx:
        await tx.leases.add([(running("j1", clock), "s1")], clock.now() + TTL, acknowledged=True)
        await tx.leases.add([(running("j2", clock), "s1")], clock.now() + TTL + MOMENT, acknowledged=True)
        assert await tx.leases.find_expired(lease_ttl=TTL, ack_timeout=ACK, limit=9) == ["j2"]


async def test_a_lease_that_is_renewed_meanwhile_does_not_expire(
    open_database: Callable[[str], Database], clock: ManualClock
) -> None:
    """On two connections, as two replicas have them: the reaper waits for the heartbeat, and then looks again."""
    one, two = Storage(open_database("router")), Storage(open_database("router"))
    await lease(one, clock, running("j1", clock))
    clock.advance(TTL + MOMENT)
    renewed = asyncio.Event()

    async def reap() -> set[str]:
        await renewed.wait()
        async with two.write() as tx:
            return set(await tx.leases.lock_expired(["j1"], lease_ttl=TTL, ack_timeout=ACK))

    async with asyncio.TaskGroup() as group:
        reaping = group.create_task(reap())
        async with one.write() as tx:
            await tx.leases.renew([(LeaseRef("j1", 0, 3), "s1")])
            renewed.set()
            done, _ = await asyncio.wait({reaping}, timeout=0.05)
            assert not done
    assert reaping.result() == set()
