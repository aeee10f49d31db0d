"""How what many stages say is gathered, with the time in the test's hands."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from atelier.worker.v1 import worker_service_pb2 as pb
from atelier_worker.outbox import GATHER_MOST_S, GATHER_S, Outbox
from atelier_worker.refs import Ref


class Clock:
    """A time that only sleeping moves on."""

    def __init__(self) -> None:
        self.now = 100.0
        self.naps: list[float] = []

    async def sleep(self, delay: float) -> None:
        self.naps.append(delay)
        self.now += delay


class OnlyHere:
    """The module as the outbox sees it: a server that other tests have in a thread sleeps as ever."""

    def __init__(self, clock: Clock) -> None:
        self.sleep = clock.sleep

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("atelier_worker.outbox.asyncio", OnlyHere(made))
    return made


def _outbox(clock: Clock, stages: int) -> Outbox:
    outbox = Outbox(lambda: clock.now)
    for number in range(stages):
        outbox.reports.open(Ref(f"job-{number}", 0, 1))
    return outbox


def _say(outbox: Outbox) -> None:
    outbox.put(pb.WorkRequest(heartbeat=pb.Heartbeat()))


@pytest.mark.parametrize(("stages", "pause_s"), [(2, GATHER_S), (5, 4 * GATHER_S), (500, GATHER_MOST_S)])
async def test_a_message_waits_for_the_other_stages_after_the_one_before(
    clock: Clock, stages: int, pause_s: float
) -> None:
    outbox = _outbox(clock, stages)
    _say(outbox)
    assert len(await outbox.next(64)) == 1
    assert clock.naps == []
    _say(outbox)
    _say(outbox)
    assert len(await outbox.next(64)) == 2
    assert clock.naps == [pytest.approx(pause_s)]
    # It has been quiet for long enough.
    clock.now += 2 * pause_s
    _say(outbox)
    assert len(await outbox.next(64)) == 1
    assert len(clock.naps) == 1


@pytest.mark.parametrize(("stages", "most"), [(0, 64), (1, 64), (500, 1)])
async def test_one_stage_alone_and_messages_that_go_one_by_one_wait_for_nobody(
    clock: Clock, stages: int, most: int
) -> None:
    outbox = _outbox(clock, stages)
    for _ in range(3):
        _say(outbox)
        await outbox.next(most)
    assert clock.naps == []


async def test_what_fills_a_message_waits_for_nobody(clock: Clock) -> None:
    outbox = _outbox(clock, 500)
    _say(outbox)
    await outbox.next(4)
    for _ in range(7):
        _say(outbox)
    assert len(await outbox.next(4)) == 4
    assert clock.naps == []
    # The rest has room for more.
    assert len(await outbox.next(4)) == 3
    assert len(clock.naps) == 1


async def test_the_last_words_of_a_session_do_not_wait(clock: Clock) -> None:
    outbox = _outbox(clock, 500)
    _say(outbox)
    await outbox.next(64)
    _say(outbox)
    outbox.end()
    assert len(await outbox.next(64)) == 1
    assert await outbox.next(64) == []
    assert clock.naps == []
