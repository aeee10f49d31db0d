"""What one worker may use of a router: buckets that fill, and work in order with bounds."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from router_service import session_limits
from router_service.in_order import InOrder
from router_service.session_limits import Allowance, Door, TokenBucket
from service_kit.clock import ManualClock
from service_kit.errors import ResourceExhausted


def test_a_bucket_fills_with_time_and_never_beyond_its_size() -> None:
    clock = ManualClock()
    bucket = TokenBucket(2.0, 10.0, clock.monotonic)
    assert bucket.take(10.0)
    assert not bucket.take(0.5)
    clock.advance(timedelta(seconds=1))
    assert bucket.take(2.0)
    clock.advance(timedelta(hours=1))
    assert not bucket.take(10.5)
    assert bucket.take(10.0)


def test_a_lease_brings_more_than_it_takes_to_say_all_about_it() -> None:
    allowance = Allowance(ManualClock().monotonic)
    for _ in range(100_000):
        allowance.earn()
        for _ in range(8):  # its ack, its first step, its last words, its outcome, credits
            allowance.spend(size_bytes=500)


def test_who_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_limits, "_MOST_REMEMBERED", 3)
    door = Door(ManualClock().monotonic, sessions_per_key=1)
    for name in "abcd":
        door.send_away(name)
    door.let_in("a")
    with pytest.raises(ResourceExhausted, match=r"again in 5\.0 seconds"):
        door.let_in("d")


async def test_work_of_one_key_is_in_order_and_of_others_at_once() -> None:
    work, done = InOrder(most=10, most_bytes=1000), []
    gates = {name: asyncio.Event() for name in ("a1", "a2", "b1", "all")}

    async def do(name: str) -> None:
        await gates[name].wait()
        done.append(name)

    for key, name in (("a", "a1"), ("a", "a2"), ("b", "b1"), (None, "all")):
        await work.add(key, 1, lambda name=name: do(name))  # type: ignore[misc]
    for name in ("all", "a2", "b1", "a1"):
        gates[name].set()
        await asyncio.sleep(0)
    await work.drained()
    assert done == ["b1", "a1", "a2", "all"]
    await work.close()


@pytest.mark.parametrize(("most", "most_bytes"), [(2, 1000), (10, 10)])
async def test_no_more_is_begun_than_there_is_room_for(most: int, most_bytes: int) -> None:
    work, gate = InOrder(most=most, most_bytes=most_bytes), asyncio.Event()

    async def wait() -> None:
        await gate.wait()

    await work.add("a", 5, wait)
    await work.add("b", 5, wait)
    third = asyncio.create_task(work.add("c", 5, wait))
    await asyncio.sleep(0)
    assert not third.done()
    gate.set()
    await third
    await work.drained()
    await work.close()


async def test_a_fault_ends_the_rest() -> None:
    work, done = InOrder(most=10, most_bytes=1000), []

    async def fail() -> None:
        raise ValueError("a fault")

    async def after() -> None:
        done.append("after")

    await work.add("a", 1, fail)
    await work.add("a", 1, after)
    with pytest.raises(ValueError, match="a fault"):
        await work.fault()
    with pytest.raises(ValueError, match="a fault"):
        await work.drained()
    with pytest.raises(ValueError, match="a fault"):
        await work.add("b", 1, after)
    await work.close()
    assert done == []
