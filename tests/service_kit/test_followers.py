"""Who follows events: one look for all, which wakes only whom it concerns."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest

from service_kit.errors import Unavailable
from service_kit.events import WakeUps
from service_kit.events.exchange import Hub, LocalExchange
from service_kit.events.followers import Changes, Follower, Followers
from service_kit.identity import Owner

ANN, BOB = Owner("default", "ann"), Owner("default", "bob")
IN_TIME_S = 20


class Log:
    """Events in memory."""

    def __init__(self) -> None:
        self.events: list[tuple[Owner, str, int]] = []
        self.asked: list[int] = []
        self.is_down = False

    async def changed(self, since: Sequence[tuple[Owner, int]]) -> list[tuple[Owner, str, int]]:
        self.asked.append(len(since))
        if self.is_down:
            raise Unavailable("The database cannot be reached.")
        places = dict(since)
        return [event for event in self.events if event[0] in places and event[2] > places[event[0]]]


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def wake_ups() -> WakeUps:
    return WakeUps()


@pytest.fixture
def followers(log: Log, wake_ups: WakeUps) -> Followers:
    return Followers(wake_ups, log.changed, every=timedelta(milliseconds=1))


def is_awake(follower: Follower) -> bool:
    return follower._waker._event.is_set()


async def test_a_look_wakes_only_who_has_not_read_what_there_is(log: Log, followers: Followers) -> None:
    with (
        followers.follow(ANN, 0) as anns,
        followers.follow(ANN, 0, subject_id="a") as of_a,
        followers.follow(ANN, 2, subject_id="a") as knows_a,
        followers.follow(ANN, 0, subject_id="b") as of_b,
        followers.follow(BOB, 0) as bobs,
    ):
        log.events += [(ANN, "a", 1), (ANN, "a", 2)]
        anns.position = 2
        await followers.look()
        assert [is_awake(one) for one in (anns, of_a, knows_a, of_b, bobs)] == [False, True, False, False, False]
        assert await of_a.wait() == {of_a.topic}
        log.events += [(BOB, "c", 1)]
        await followers.look()
        assert [is_awake(one) for one in (anns, of_a, of_b, bobs)] == [False, False, False, True]
        assert log.asked == [2, 2]


async def test_a_thousand_who_wait_cost_one_query_and_one_of_them_wakes(log: Log, followers: Followers) -> None:
    owners = [Owner("default", f"{number}") for number in range(1000)]
    stack = [followers.follow(owner, 0) for owner in owners]
    waiting = [one.__enter__() for one in stack]
    log.events.append((owners[500], "x", 1))
    await followers.look()
    assert log.asked == [1000]
    assert [one for one in waiting if is_awake(one)] == [waiting[500]]
    for one in stack:
        one.__exit__(None, None, None)
    await followers.look()
    assert log.asked == [1000], "nobody follows, nobody asks"


async def test_who_has_read_all_is_asked_for_nothing_older(log: Log, followers: Followers) -> None:
    asked: list[tuple[Owner, int]] = []

    async def changed(since: Sequence[tuple[Owner, int]]) -> list[tuple[Owner, str, int]]:
        asked.extend(since)
        return []

    followers._find_changed = changed
    with followers.follow(ANN, 0) as one, followers.follow(ANN, 5) as other:
        one.position, other.position = 7, 9
        await followers.look()
        with followers.follow(ANN, 9, subject_id="a"):
            await followers.look()
    assert asked == [(ANN, 7), (ANN, 0)]


async def test_looks_go_on_when_the_database_was_away(log: Log, followers: Followers) -> None:
    looking = asyncio.create_task(followers.run())
    log.is_down = True
    with followers.follow(ANN, 0) as follower:
        async with asyncio.timeout(IN_TIME_S):
            while not log.asked:  # noqa: ASYNC110 - nothing tells it
                await asyncio.sleep(0)
            log.is_down = False
            log.events.append((ANN, "a", 1))
            assert await follower.wait() == {follower.topic}
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)


async def test_a_change_wakes_its_followers_at_every_replica(log: Log) -> None:
    hub = Hub()
    exchanges = [LocalExchange(hub) for _ in range(2)]
    changes = [Changes(WakeUps(), exchange) for exchange in exchanges]
    running = [asyncio.create_task(exchange.run()) for exchange in exchanges]
    while exchanges[0].alone:  # noqa: ASYNC110 - nothing tells it
        await asyncio.sleep(0)
    here, there = (Followers(one.wake_ups, log.changed) for one in changes)
    with (
        here.follow(ANN, 0) as near,
        there.follow(ANN, 0) as far,
        there.follow(ANN, 0, subject_id="job") as far_job,
        there.follow(ANN, 0, subject_id="other") as other,
        there.follow(BOB, 0) as bobs,
    ):
        changes[0].tell(ANN, "job")
        assert is_awake(near)
        async with asyncio.timeout(IN_TIME_S):
            assert await far.wait()
            assert await far_job.wait()
        assert not is_awake(other)
        assert not is_awake(bobs)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
