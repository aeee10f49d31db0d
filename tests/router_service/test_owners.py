"""Owners: what is somebody else's does not exist, lists and streams hold only one's own, and nobody starves another."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from atelier.router.v1 import job_pb2
from atelier.router.v1 import router_service_pb2 as pb
from router_service.fairness import Shares, rank
from router_service.storage.queue import Candidate
from service_kit.errors import FailedPrecondition
from service_kit.identity import Owner
from service_kit.paging import encode_page_token
from tests.router_service.support import WAIT_S, Router
from tests.router_service.test_sizes_and_lists import deleted

ANN, BOB = Owner("default", "ann"), Owner("default", "bob")
EQUAL = Shares.parse([], most_running=0)
MORNING = datetime(2026, 1, 1, tzinfo=UTC)


async def test_somebody_elses_job_is_not_found(router: Router) -> None:
    accepted = await router.submit()
    bob = await router.stubs_of("bob")
    calls: list[Any] = [
        bob.GetJob(pb.GetJobRequest(job_id=accepted.job_id)),
        bob.CancelJob(pb.CancelJobRequest(job_id=accepted.job_id)),
        bob.WatchJob(pb.WatchJobRequest(job_id=accepted.job_id)).read(),
    ]
    for call in calls:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert not (await bob.ListJobs(pb.ListJobsRequest())).jobs


async def test_pages_hold_every_job_once_newest_first(router: Router) -> None:
    made = []
    for _ in range(7):
        made.append((await router.submit()).job_id)
        router.clock.advance(timedelta(microseconds=1))
    seen: list[str] = []
    token = ""
    while True:
        page = await router.jobs.ListJobs(pb.ListJobsRequest(page_size=3, page_token=token))
        seen += [job.job_id for job in page.jobs]
        token = page.next_page_token
        if not token:
            break
    assert seen == made[::-1]
    no_moment = encode_page_token("router.jobs", [(1 << 63) - 1, made[0]])
    for text in ("made-up", no_moment):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await router.jobs.ListJobs(pb.ListJobsRequest(page_token=text))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_stream_of_all_jobs_holds_the_owners_own_and_resumes(router: Router) -> None:
    bob = await router.stubs_of("bob")
    waiting = await router.submit()
    stream = bob.WatchJobs(pb.WatchJobsRequest())
    async with asyncio.timeout(WAIT_S):
        first: Any = await stream.read()
        assert list(first.snapshot.jobs) == []
        mine = await bob.GenerateContent(
            pb.GenerateContentRequest(prompt="x", model="sdxl", format="FORMAT_IMAGE")  # type: ignore[arg-type]
        )
        second: Any = await stream.read()
    assert second.state.job_id == mine.job_id != waiting.job_id
    stream.cancel()
    await bob.CancelJob(pb.CancelJobRequest(job_id=mine.job_id))
    resumed = bob.WatchJobs(pb.WatchJobsRequest(after=second.cursor))
    async with asyncio.timeout(WAIT_S):
        third: Any = await resumed.read()
    assert (third.state.job_id, third.state.version) == (mine.job_id, second.state.version + 1)
    resumed.cancel()


async def test_who_was_away_hears_of_the_end_of_a_job_that_was_deleted(router: Router) -> None:
    stream = router.jobs.WatchJobs(pb.WatchJobsRequest())
    async with asyncio.timeout(WAIT_S):
        before: Any = await stream.read()
    stream.cancel()
    mine = await router.submit()
    await router.jobs.CancelJob(pb.CancelJobRequest(job_id=mine.job_id))
    await deleted(router, mine.job_id)
    told: list[Any] = []
    resumed = router.jobs.WatchJobs(pb.WatchJobsRequest(after=before.cursor))
    async with asyncio.timeout(WAIT_S):
        while not told or told[-1].state.state != job_pb2.JOB_STATE_CANCELLED:
            told.append(await resumed.read())
    resumed.cancel()
    assert {event.state.job_id for event in told} == {mine.job_id}
    # Later than events are kept the answer is a snapshot: what is not in it has ended.
    router.clock.advance(timedelta(days=60))
    await router.service.reaper.purge()
    late = router.jobs.WatchJobs(pb.WatchJobsRequest(after=before.cursor))
    async with asyncio.timeout(WAIT_S):
        first: Any = await late.read()
    late.cancel()
    assert first.HasField("snapshot") and not first.snapshot.jobs


def candidate(
    owner: Owner, place: int, *, minute: int = 0, tier: int = 0, precedence: int = 0, model: str = "sdxl"
) -> Candidate:
    """Return a waiting stage."""
    at = MORNING + timedelta(minutes=minute)
    return Candidate(f"{owner.owner_id}-{place}", owner, "sdxl", model, tier, precedence, at)


def order(
    candidates: list[Candidate],
    running: dict[Owner, int] | None = None,
    *,
    shares: Shares = EQUAL,
    last_served: dict[Owner, datetime] | None = None,
    each: int = 100,
) -> list[str]:
    """Return the ids of candidates in the order in which they are leased."""
    ranking = rank(candidates, running or {}, shares=shares, last_served=last_served or {}, each=each)
    return [chosen.job_id for chosen in ranking.candidates]


def test_owners_take_turns_however_many_jobs_one_has() -> None:
    many = [candidate(ANN, place, minute=place) for place in range(4)]
    late = [candidate(BOB, 0, minute=9)]
    assert order([*many, *late])[:3] == ["ann-0", "bob-0", "ann-1"]


def test_what_already_runs_counts() -> None:
    assert order([candidate(ANN, 0), candidate(BOB, 0, minute=9)], {ANN: 1}) == ["bob-0", "ann-0"]


def test_of_equals_the_one_that_was_served_longest_ago_is_next_and_then_the_oldest() -> None:
    equals = [candidate(ANN, 0, minute=9), candidate(BOB, 0)]
    assert order(equals) == ["bob-0", "ann-0"]
    assert order(equals, last_served={ANN: MORNING, BOB: MORNING + timedelta(1)}) == ["ann-0", "bob-0"]
    assert order(equals, last_served={BOB: MORNING}) == ["ann-0", "bob-0"], "one that was never served goes first"


def test_higher_tiers_come_first_whatever_runs() -> None:
    stages = [candidate(ANN, 0), candidate(BOB, 0), candidate(BOB, 1, tier=1, minute=9)]
    assert order(stages, {BOB: 9}) == ["bob-1", "ann-0", "bob-0"]


def test_an_owner_of_twice_the_weight_has_twice_as_much() -> None:
    shares = Shares.parse(["default/ann weight=2"], most_running=0)
    stages = [candidate(owner, place, minute=place) for owner in (ANN, BOB) for place in range(4)]
    assert sorted(order(stages, shares=shares)[:6]) == ["ann-0", "ann-1", "ann-2", "ann-3", "bob-0", "bob-1"]


def test_what_is_above_an_owners_bound_is_not_leased() -> None:
    stages = [candidate(owner, place, minute=place) for owner in (ANN, BOB) for place in range(3)]
    shares = Shares.parse(["default/bob most_running=3"], most_running=1)
    assert order(stages, shares=shares) == ["ann-0", "bob-0", "bob-1", "bob-2"]
    assert order(stages, {ANN: 1, BOB: 2}, shares=shares) == ["bob-0"]


def test_the_order_ends_where_what_was_not_seen_could_come() -> None:
    seen = [candidate(ANN, 0), candidate(ANN, 1, minute=1), candidate(BOB, 0, minute=2)]
    ranking = rank(seen, {BOB: 9}, shares=EQUAL, last_served={}, each=2)
    assert ([chosen.job_id for chosen in ranking.candidates], ranking.is_cut) == (["ann-0", "ann-1"], True)
    whole = rank(seen, {BOB: 9}, shares=EQUAL, last_served={}, each=3)
    assert ([chosen.job_id for chosen in whole.candidates], whole.is_cut) == (["ann-0", "ann-1", "bob-0"], False)


def test_an_owners_priority_orders_its_jobs_of_several_models() -> None:
    stages = [candidate(ANN, 0), candidate(ANN, 1, precedence=-5, model="turbo", minute=9), candidate(BOB, 0, minute=5)]
    assert order(stages) == ["bob-0", "ann-1", "ann-0"]


@pytest.mark.parametrize(
    "text", ["ann weight=1", "default/ann", "default/ann weight=0", "default/ann colour=1", "default/ann tier=-1", ""]
)
def test_a_share_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(FailedPrecondition, match="owner_shares"):
        Shares.parse([text], most_running=0)


async def test_an_owners_own_priority_orders_only_that_owners_jobs(router: Router) -> None:
    low = await router.submit(priority=-1)
    router.clock.advance(timedelta(seconds=1))
    high = await router.submit(priority=5)
    one = await router.worker(free=1)
    assert (await one.take()).ref.job_id == high.job_id
    await one.say(credits={"free": 1})
    assert (await one.take()).ref.job_id == low.job_id


async def test_the_order_is_first_in_first_out(router: Router) -> None:
    made = []
    for _ in range(4):
        made.append((await router.submit()).job_id)
        router.clock.advance(timedelta(milliseconds=1))
    one = await router.worker(free=4)
    assert [(await one.take()).ref.job_id for _ in range(4)] == made
