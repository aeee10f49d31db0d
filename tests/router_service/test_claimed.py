"""Settlements on their way: at once if somebody waits for one, gathered for a moment if nobody does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from router_service.claimed import GATHER_FOR, Claimed
from router_service.domain import Job, JobState
from router_service.generation_domain import Reference
from router_service.settlement import Answer, Settlement
from service_kit.clock import ManualClock
from tests.storage.both import job

WAIT_S = 10.0


async def turns() -> None:
    """Let everything run that can run now."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_has_ended_gathers_and_goes_with_the_first_that_somebody_waits_for() -> None:
    clock = ManualClock()
    claimed = Claimed(clock)
    text = replace(job("text", clock.now()), state=JobState.SUCCEEDED)
    picture = replace(job("picture", clock.now()), state=JobState.PUBLISHING)
    waiting = asyncio.create_task(claimed.wait())
    claimed.put([text])
    await turns()
    assert not waiting.done()
    claimed.put([picture])
    await turns()
    assert waiting.done()
    assert [each.job_id for each in claimed.take(most=9)] == ["text", "picture"]
    claimed.put([text])
    alone = asyncio.create_task(claimed.wait())
    await turns()
    assert not alone.done()
    async with asyncio.timeout(GATHER_FOR.total_seconds() + WAIT_S):
        await alone


async def test_references_are_let_go_at_once() -> None:
    clock = ManualClock()
    claimed = Claimed(clock)
    held = (Reference("asset", "style", 1.0),)
    waiting = asyncio.create_task(claimed.wait())
    claimed.put([replace(job("text", clock.now()), state=JobState.SUCCEEDED, references=held)])
    await turns()
    assert waiting.done()


class DeafAssets:
    """An asset service whose call does not end when it is told to for the first time."""

    def __init__(self) -> None:
        self.asked, self.ended = asyncio.Event(), asyncio.Event()

    async def settle(self, jobs: Sequence[Job]) -> Sequence[Answer]:
        self.asked.set()
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            await asyncio.Event().wait()
        finally:
            self.ended.set()
        raise AssertionError

    async def confirm_hold(self, job: Job) -> None:
        raise AssertionError


async def test_whoever_stops_settling_leaves_no_call_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service_kit.tasks._CANCEL_AGAIN_S", 0.01)
    clock, assets = ManualClock(), DeafAssets()
    claimed = Claimed(clock)
    claimed.open()
    claimed.put([replace(job("text", clock.now()), state=JobState.SUCCEEDED)])
    # It gets as far as the call: nothing is stored before.
    settlement = Settlement(cast(Any, None), assets, cast(Any, None), claimed)
    sending = asyncio.create_task(settlement.send_claimed())
    async with asyncio.timeout(WAIT_S):
        await assets.asked.wait()
        for _ in range(2):
            sending.cancel()
            await turns()
        await asyncio.wait([sending])
    assert sending.cancelled()
    assert assets.ended.is_set()
