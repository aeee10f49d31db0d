"""Owners: what is somebody else's does not exist, lists and streams hold only one's own, and nobody starves another."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from atelier.router.v1 import router_service_pb2 as pb
from router_service.fairness import rank
from router_service.storage.queue import Candidate
from service_kit.identity import Owner
from service_kit.paging import encode_page_token
from tests.router_service.support import WAIT_S, Router

ANN, BOB = Owner("default", "ann"), Owner("default", "bob")
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


def candidate(owner: Owner, place: int, *, minute: int = 0, tier: int = 0) -> Candidate:
    """Return a waiting stage."""
    at = MORNING + timedelta(minutes=minute)
    return Candidate(f"{owner.owner_id}-{place}", owner, "sdxl", "sdxl", tier, at, place)


def test_owners_take_turns_however_many_jobs_one_has() -> None:
    many = [candidate(ANN, place, minute=place) for place in range(4)]
    late = [candidate(BOB, 0, minute=9)]
    order = [chosen.job_id for chosen in rank([*many, *late], {}, last_served={}, limit=3)]
    assert order == ["ann-0", "bob-0", "ann-1"]


def test_what_already_runs_counts() -> None:
    order = rank([candidate(ANN, 0), candidate(BOB, 0, minute=9)], {ANN: 1}, last_served={}, limit=2)
    assert [chosen.owner for chosen in order] == [BOB, ANN]


def test_of_equals_the_one_that_was_served_longest_ago_is_next_and_tiers_come_first() -> None:
    equals = [candidate(ANN, 0), candidate(BOB, 0, minute=9)]
    assert rank(equals, {}, last_served={ANN: 5, BOB: 4}, limit=1)[0].owner == BOB
    assert rank([*equals, candidate(BOB, 1, tier=1)], {BOB: 9}, last_served={}, limit=1)[0].tier == 1


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
