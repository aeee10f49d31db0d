"""What was left unanswered is a retry when it comes again soon, and once."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from gateway.dialects import unanswered
from gateway.dialects.unanswered import LASTS, Unanswered
from service_kit.clock import ManualClock


async def is_retry(found: Unanswered, name: str) -> bool:
    async with found.turn(name) as said:
        return said


async def test_a_repeat_is_a_retry_once_and_for_a_while() -> None:
    clock = ManualClock()
    found = Unanswered(clock)
    assert not await is_retry(found, "a")
    found.note("a")
    assert not await is_retry(found, "b")
    assert await is_retry(found, "a")
    assert not await is_retry(found, "a")
    found.note("a")
    clock.advance(LASTS - timedelta(seconds=1))
    assert await is_retry(found, "a")
    found.note("a")
    clock.advance(LASTS)
    assert not await is_retry(found, "a")


async def test_a_retry_that_fails_may_come_again() -> None:
    found = Unanswered(ManualClock())
    found.note("a")
    with pytest.raises(RuntimeError):
        async with found.turn("a"):
            raise RuntimeError
    assert await is_retry(found, "a")


async def test_equal_requests_take_turns() -> None:
    found = Unanswered(ManualClock())
    async with found.turn("a"):
        second = asyncio.create_task(is_retry(found, "a"))
        assert not await is_retry(found, "b")
        assert not second.done()
        found.note("a")
    assert await second


async def test_only_so_much_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unanswered, "_CAPACITY", 2)
    found = Unanswered(ManualClock())
    for name in "abc":
        found.note(name)
    assert [await is_retry(found, name) for name in "abc"] == [False, True, True]
