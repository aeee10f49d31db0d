"""Settlements on their way: at once if somebody waits for one, gathered for a moment if nobody does."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from router_service.domain import JobState, Reference
from router_service.handover import GATHER_FOR, Handover
from service_kit.clock import ManualClock
from tests.storage.both import job

WAIT_S = 10.0


async def turns() -> None:
    """Let everything run that can run now."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_has_ended_gathers_and_goes_with_the_first_that_somebody_waits_for() -> None:
    clock = ManualClock()
    handover = Handover(clock)
    text = replace(job("text", clock.now()), state=JobState.SUCCEEDED)
    picture = replace(job("picture", clock.now()), state=JobState.PUBLISHING)
    waiting = asyncio.create_task(handover.wait())
    handover.put([text])
    await turns()
    assert not waiting.done()
    handover.put([picture])
    await turns()
    assert waiting.done()
    assert [each.job_id for each in handover.take(most=9)] == ["text", "picture"]
    handover.put([text])
    alone = asyncio.create_task(handover.wait())
    await turns()
    assert not alone.done()
    async with asyncio.timeout(GATHER_FOR.total_seconds() + WAIT_S):
        await alone


async def test_references_are_let_go_at_once() -> None:
    clock = ManualClock()
    handover = Handover(clock)
    held = (Reference("asset", "style", 1.0),)
    waiting = asyncio.create_task(handover.wait())
    handover.put([replace(job("text", clock.now()), state=JobState.SUCCEEDED, references=held)])
    await turns()
    assert waiting.done()
