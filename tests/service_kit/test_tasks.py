"""Background loops go on after a fault and end when their owner stops."""

from __future__ import annotations

import asyncio

import pytest

from service_kit.tasks import BackgroundTasks


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
