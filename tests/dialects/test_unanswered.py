"""What was left unanswered is a retry when it comes again soon, and once."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.dialects import unanswered
from gateway.dialects.call import Call
from gateway.dialects.fal import FAL
from gateway.dialects.openai import OPENAI
from gateway.dialects.unanswered import LASTS, Unanswered
from gateway.http import ClientGone
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


@pytest.mark.parametrize(
    ("dialect", "digest", "expected"), [(FAL, "what was sent", 1), (FAL, "", 0), (OPENAI, "what was sent", 0)]
)
async def test_who_goes_is_noted_where_its_retry_would_not_say_so(dialect: Any, digest: str, expected: int) -> None:
    async def gone() -> None:
        return None

    noted: list[str] = []
    context = SimpleNamespace(closing=asyncio.Event())
    kit: Any = SimpleNamespace(context=context, unanswered=SimpleNamespace(note=noted.append))
    exchange: Any = SimpleNamespace(disconnected=gone, headers={})
    nothing: Any = None
    call = Call(kit, dialect, nothing, exchange, {}, nothing, nothing, digest)
    with pytest.raises(ClientGone):
        await call.while_connected(asyncio.Event().wait())
    assert len(noted) == expected
