"""Background loops go on after a fault and end when their owner stops, at whatever moment that is."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from service_kit.tasks import BackgroundTasks, beside_each_other, end, in_time, woken

STEPS = 8
DEAF = "test_what_does_not_end_is_named_and_left.<locals>.deaf > Event.wait > FutureIter"


async def test_a_loop_that_fails_is_logged_and_started_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("service_kit.tasks._PAUSE_S", 0)
    rounds: list[int] = []
    again, ended = asyncio.Event(), asyncio.Event()

    async def loop() -> None:
        rounds.append(1)
        if len(rounds) == 1:
            raise RuntimeError("first round")
        again.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    tasks = BackgroundTasks()
    tasks.start("expiry", loop)
    async with asyncio.timeout(5):
        await again.wait()
    assert "background_task_failed" in caplog.text
    assert "first round" in caplog.text
    await tasks.stop()
    assert ended.is_set()


async def test_a_loop_that_swallows_a_cancellation_is_ended_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service_kit.tasks._CANCEL_AGAIN_S", 0.01)
    began, swallowed = asyncio.Event(), asyncio.Event()

    async def loop() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            swallowed.set()
        await asyncio.Event().wait()

    tasks = BackgroundTasks()
    tasks.start("health", loop)
    async with asyncio.timeout(5):
        await began.wait()
        await tasks.stop()
    assert swallowed.is_set()


@pytest.mark.parametrize("steps", range(STEPS))
async def test_a_loop_that_is_woken_as_it_is_cancelled_ends(steps: int) -> None:
    wake, rounds = asyncio.Event(), 0

    async def loop() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            wake.clear()
            await woken(wake, 60)

    task = asyncio.create_task(beside_each_other(loop, loop))
    await _some(STEPS)
    wake.set()
    await _some(steps)
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=20)
    assert done, f"it went on after {rounds} rounds"
    assert task.cancelled()


async def test_a_loop_that_fails_as_it_is_cancelled_is_not_started_again() -> None:
    began: list[str] = []
    waits = asyncio.Event()

    async def loop() -> None:
        began.append("once")
        waits.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise RuntimeError("the call broke off") from None

    tasks = BackgroundTasks()
    tasks.start("loop", loop)
    await waits.wait()
    async with asyncio.timeout(20):
        await tasks.stop()
    assert began == ["once"]


async def test_loops_beside_each_other_end_with_the_one_that_fails_and_none_is_left_behind() -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def fails() -> None:
        await began.wait()
        raise ValueError("the second")

    async def other() -> None:
        try:
            began.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(ValueError, match="the second"):
        await beside_each_other(other, fails)
    assert ended.is_set()


async def test_a_task_that_fails_as_it_ends_is_asked_why_though_its_owner_forgets_it() -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, complaint: complaints.append(complaint))

    async def fails() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("while it ended")

    tasks = {asyncio.create_task(fails())}
    for task in tuple(tasks):
        task.add_done_callback(tasks.discard)
    del task
    await _some(1)
    await end(tasks)
    gc.collect()
    assert not tasks
    assert not complaints


async def test_a_stop_that_is_cancelled_names_what_it_gathers_and_leaves_none_of_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate, ended = asyncio.Event(), asyncio.Event()

    async def deaf() -> None:
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                continue
        ended.set()

    stopping = asyncio.create_task(in_time(asyncio.gather(deaf(), deaf()), 0.05, "both"))
    await _some(3)
    try:
        stopping.cancel()
        await asyncio.wait([stopping], timeout=5)
        assert stopping.cancelled()
        assert len(_said(caplog, "tasks_do_not_end")["tasks"]) == 1
    finally:
        gate.set()
    async with asyncio.timeout(5):
        await ended.wait()


async def test_what_does_not_end_is_named_and_left(caplog: pytest.LogCaptureFixture) -> None:
    gate = asyncio.Event()

    async def deaf() -> None:
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                continue

    task = asyncio.create_task(deaf(), name="deaf")
    await _some(1)
    try:
        ending = asyncio.create_task(end([task], 0.05))
        await _some(2)
        ending.cancel()
        await asyncio.wait([ending])
        assert ending.cancelled()
        assert _said(caplog, "tasks_do_not_end")["tasks"] == ["deaf: " + DEAF]
        assert not await in_time(deaf(), 0.01, "the deaf")
        assert any(DEAF in text for text in _said(caplog, "end_takes_too_long")["tasks"])
    finally:
        gate.set()
    assert await in_time(task, 20, "the deaf")


async def test_what_ends_in_time_says_how() -> None:
    async def failing() -> None:
        raise ValueError("so")

    assert await in_time(_some(1), 20, "some steps")
    with pytest.raises(ValueError, match="so"):
        await in_time(failing(), 20, "what fails")


async def _some(steps: int) -> None:
    for _ in range(steps):
        await asyncio.sleep(0)


def _said(caplog: pytest.LogCaptureFixture, event: str) -> dict[str, Any]:
    return next(record.__dict__["atelier_fields"] for record in caplog.records if record.message == event)
