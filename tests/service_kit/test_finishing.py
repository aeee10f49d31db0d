"""Work of calls that goes on when its caller has gone."""

from __future__ import annotations

import asyncio
import threading

import pytest

from service_kit.errors import Unavailable
from service_kit.finishing import OneAtATime, thread_to_its_end


async def test_work_ends_though_its_caller_has_gone_and_the_next_waits_for_it() -> None:
    finishing, began, may_end, done = OneAtATime(8), asyncio.Event(), asyncio.Event(), []

    async def work(name: str) -> str:
        began.set()
        await may_end.wait()
        done.append(name)
        return name

    first = asyncio.create_task(finishing.run("ann", "key", lambda: work("first")))
    await began.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    second = asyncio.create_task(finishing.run("ann", "key", lambda: work("second")))
    other = asyncio.create_task(finishing.run("ann", "another key", lambda: work("other")))
    may_end.set()

    assert await second == "second"
    assert await other == "other"
    assert done == ["first", "other", "second"]


async def test_no_more_than_so_many_run_and_the_refusal_says_when_to_repeat() -> None:
    finishing, never = OneAtATime(2), asyncio.Event()
    running = [asyncio.create_task(finishing.run("ann", "key", never.wait))]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="half as many of one caller"):
        await finishing.run("ann", "another key", never.wait)
    running.append(asyncio.create_task(finishing.run("bob", "his key", never.wait)))
    await asyncio.sleep(0)

    with pytest.raises(Unavailable, match="At most 2 calls of this kind") as refused:
        await finishing.run("cid", "a third key", never.wait)

    assert refused.value.retry_after is not None
    await finishing.break_off()
    for one in running:
        with pytest.raises(asyncio.CancelledError):
            await one
    never.set()
    assert await finishing.run("ann", "key", never.wait)


async def test_what_goes_wrong_is_raised_and_logged_when_nobody_waits(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    finishing, may_fail = OneAtATime(4), asyncio.Event()

    async def work() -> None:
        await may_fail.wait()
        raise ValueError("the shelf broke")

    waiting = asyncio.create_task(finishing.run("ann", "awaited", work))
    left = asyncio.create_task(finishing.run("ann", "left", work))
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.sleep(0)
    may_fail.set()

    with pytest.raises(ValueError, match="the shelf broke"):
        await waiting
    await finishing.break_off()
    assert "unawaited_work_failed" in caplog.text + "".join(capsys.readouterr())


async def test_who_uses_a_thread_is_there_until_it_ends_however_often_it_is_cancelled() -> None:
    began, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        may_end.wait(10)
        ended.set()

    caller = asyncio.create_task(thread_to_its_end(work))
    await asyncio.to_thread(began.wait, 10)
    for _ in range(3):
        caller.cancel()
        await asyncio.sleep(0.01)
    assert not caller.done()

    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended.is_set()
