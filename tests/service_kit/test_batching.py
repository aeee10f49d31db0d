"""Batches: a lone item at once, what comes meanwhile together, and one bad item that harms only itself."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Sequence
from datetime import timedelta

import pytest

from service_kit.batching import Batcher
from service_kit.errors import AtelierError, InvalidArgument, NotFound, ResourceExhausted, Unavailable

NEVER = timedelta(hours=1)


class Runs:
    """What a batcher ran: each batch, when its gate is open. Items below 0 fail; `raises` fails a batch as a whole."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.raises: BaseException | None = None
        self.raises_for: set[int] = set()

    async def __call__(self, items: Sequence[int]) -> Sequence[int | AtelierError]:
        self.batches.append(list(items))
        await self.gate.wait()
        if self.raises is not None and (not self.raises_for or self.raises_for & set(items)):
            raise self.raises
        return [item * 10 if item >= 0 else NotFound(f"no {item}") for item in items]


async def submitted(batcher: Batcher[int, int], *items: int) -> list[asyncio.Task[int]]:
    """Submit items one after the other; returns when the batcher has seen them all."""
    tasks = [asyncio.create_task(batcher.submit(item)) for item in items]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def test_a_lone_item_is_run_at_once_and_what_comes_meanwhile_together() -> None:
    runs = Runs()
    batcher = Batcher("test", runs, gather_for=timedelta(0))
    first = await submitted(batcher, 1)
    later = await submitted(batcher, 2, 3, 4)
    assert runs.batches == [[1]]
    runs.gate.set()
    assert await asyncio.gather(*first, *later) == [10, 20, 30, 40]
    assert runs.batches == [[1], [2, 3, 4]]


async def test_who_finds_the_turn_free_and_given_to_another_waits_no_longer_either() -> None:
    turn, ours = asyncio.Lock(), Runs()
    our = Batcher("ours", ours, turn=turn, turn_within=timedelta(milliseconds=10))
    await turn.acquire()
    other = asyncio.create_task(turn.acquire())
    await asyncio.sleep(0)
    refused = asyncio.create_task(our.submit(1))
    await asyncio.sleep(0)
    # The batch is about to look. The other one is woken now, and has the turn after that.
    turn.release()
    async with asyncio.timeout(10):
        with pytest.raises(ResourceExhausted):
            await refused
    assert await other


async def test_who_has_no_turn_in_time_is_told_so_and_has_one_later() -> None:
    turn, theirs, ours = asyncio.Lock(), Runs(), Runs()
    ours.gate.set()
    their = Batcher("theirs", theirs, turn=turn)
    our = Batcher("ours", ours, turn=turn, turn_within=timedelta(milliseconds=10))
    holding = await submitted(their, 1)
    refused = await asyncio.gather(*await submitted(our, 2, 3), return_exceptions=True)
    assert {str(error) for error in refused} == {"Other work kept the database for 0.01 seconds; repeat in a moment."}
    assert all(isinstance(error, ResourceExhausted) and error.retry_after for error in refused)
    theirs.gate.set()
    assert await asyncio.gather(*holding) == [10]
    assert await our.submit(4) == 40
    assert ours.batches == [[4]]
    assert not turn.locked()


async def test_what_comes_while_another_batcher_has_the_turn_is_one_batch() -> None:
    turn, theirs, ours = asyncio.Lock(), Runs(), Runs()
    ours.gate.set()
    their, our = Batcher("theirs", theirs, turn=turn), Batcher("ours", ours, gather_for=NEVER, turn=turn)
    tasks = await submitted(their, 1)
    tasks += await submitted(our, 2)
    tasks += await submitted(our, 3, 4)
    assert ours.batches == []
    theirs.gate.set()
    assert await asyncio.gather(*tasks) == [10, 20, 30, 40]
    assert ours.batches == [[2, 3, 4]]


async def test_under_load_a_batch_gathers_until_it_is_full() -> None:
    runs = Runs()
    batcher = Batcher("test", runs, most=4, gather_for=NEVER)
    tasks = await submitted(batcher, 1)
    tasks += await submitted(batcher, 2, 3)
    runs.gate.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert runs.batches == [[1]], "two wait: more will come"
    tasks += await submitted(batcher, 4, 5)
    assert await asyncio.gather(*tasks) == [10, 20, 30, 40, 50]
    assert runs.batches == [[1], [2, 3, 4, 5]]


async def test_an_item_of_its_own_is_not_kept_waiting_for_others() -> None:
    runs = Runs()
    runs.gate.set()
    batcher = Batcher("test", runs, gather_for=NEVER)
    assert [await batcher.submit(item) for item in (1, 2, 3)] == [10, 20, 30]
    assert runs.batches == [[1], [2], [3]]


async def test_an_item_may_fail_alone() -> None:
    runs = Runs()
    runs.gate.set()
    batcher = Batcher("test", runs)
    results = await asyncio.gather(*(batcher.submit(item) for item in (1, -2, 3)), return_exceptions=True)
    assert (results[0], results[2]) == (10, 30)
    assert isinstance(results[1], NotFound)


async def test_a_bad_item_harms_only_itself() -> None:
    runs = Runs()
    runs.gate.set()
    runs.raises, runs.raises_for = InvalidArgument("bad"), {2}
    batcher = Batcher("test", runs)
    results = await asyncio.gather(*(batcher.submit(item) for item in (1, 2, 3)), return_exceptions=True)
    assert (results[0], results[2]) == (10, 30)
    assert isinstance(results[1], InvalidArgument)
    assert runs.batches == [[1, 2, 3], [1], [2], [3]]


async def test_what_would_meet_every_item_is_told_to_all_at_once() -> None:
    runs = Runs()
    runs.gate.set()
    runs.raises = Unavailable("The database is away.")
    batcher = Batcher("test", runs)
    results = await asyncio.gather(*(batcher.submit(item) for item in (1, 2)), return_exceptions=True)
    assert [type(result) for result in results] == [Unavailable, Unavailable]
    assert runs.batches == [[1, 2]]
    runs.raises = None
    assert await batcher.submit(3) == 30


async def test_one_too_many_is_refused_and_told_when_to_come_back() -> None:
    runs = Runs()
    batcher = Batcher("test", runs, most_waiting=2, gather_for=timedelta(0))
    tasks = await submitted(batcher, 1)
    tasks += await submitted(batcher, 2, 3)
    with pytest.raises(ResourceExhausted) as caught:
        await batcher.submit(4)
    assert caught.value.retry_after == timedelta(seconds=1)
    runs.gate.set()
    assert await asyncio.gather(*tasks) == [10, 20, 30]


async def test_a_caller_that_gives_up_takes_back_what_has_not_begun() -> None:
    runs = Runs()
    batcher = Batcher("test", runs, gather_for=timedelta(0))
    first, second, third = await submitted(batcher, 1, 2, 3)
    begun = await submitted(batcher, 4)
    second.cancel()
    begun[0].cancel()
    runs.gate.set()
    assert await first == 10
    assert await third == 30
    await asyncio.gather(second, *begun, return_exceptions=True)
    assert runs.batches == [[1, 2, 3]], "4 was taken back; 2 had begun, and nobody heard of it"


async def test_a_process_that_dies_within_a_batch_answers_nobody() -> None:
    class Crash(BaseException):
        pass

    runs = Runs()
    runs.gate.set()
    runs.raises = Crash()
    batcher = Batcher("test", runs)
    tasks = await submitted(batcher, 1, 2)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [Crash, Crash]
    assert runs.batches == [[1, 2]]


async def test_closing_lets_what_runs_end_and_refuses_the_rest() -> None:
    runs = Runs()
    batcher = Batcher("test", runs, gather_for=NEVER)
    (running,) = await submitted(batcher, 1)
    (waiting,) = await submitted(batcher, 2)
    closing = asyncio.create_task(batcher.close())
    await asyncio.sleep(0)
    runs.gate.set()
    await closing
    assert await running == 10
    with pytest.raises(Unavailable):
        await waiting
    with pytest.raises(Unavailable):
        await batcher.submit(3)
    assert runs.batches == [[1]]


async def test_a_batch_does_not_run_as_the_first_caller() -> None:
    caller: contextvars.ContextVar[str] = contextvars.ContextVar("caller", default="nobody")
    seen = []

    async def run(items: Sequence[int]) -> Sequence[int]:
        seen.append(caller.get())
        return items

    caller.set("ann")
    await Batcher("test", run).submit(1)
    assert seen == ["nobody"]
