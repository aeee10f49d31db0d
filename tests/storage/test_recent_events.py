"""What the router remembers of the events that it wrote: never less than what the database would say."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from router_service.domain import Job, JobState
from router_service.storage import Storage, Transaction
from router_service.storage.recent import JobEvent, RecentEvents
from service_kit.clock import ManualClock
from service_kit.identity import Owner
from tests.storage.both import job

ANN, BOB = Owner("t", "ann"), Owner("t", "bob")
JOBS = [job(f"j{number}", datetime(2026, 1, 1, tzinfo=UTC), owner=(ANN, BOB)[number % 2]) for number in range(4)]


@given(
    writes=st.lists(st.tuples(st.sampled_from(JOBS), st.sampled_from(["here", "elsewhere"])), max_size=40),
    most=st.integers(1, 12),
)
def test_it_knows_all_after_a_position_or_says_nothing(writes: list[tuple[Job, str]], most: int) -> None:
    recent = RecentEvents(most)
    log: dict[Owner, list[JobEvent]] = {ANN: [], BOB: []}
    for one, where in writes:
        event = JobEvent(len(log[one.owner]) + 1, one)
        log[one.owner].append(event)
        if where == "here":
            recent.add([event])
        else:
            recent.heard(one.owner, event.position)
        for each in JOBS:
            for position in range(len(log[each.owner]) + 1):
                known = recent.after(position, each.owner, each.job_id)
                expected = [
                    event for event in log[each.owner] if event.position > position and event.job.job_id == each.job_id
                ]
                assert known is None or known == expected
            running = recent.running(each.owner, each.job_id)
            assert running is None or running == (len(log[each.owner]), each)


def test_of_what_ended_and_of_other_owners_nothing_is_known() -> None:
    recent, mine = RecentEvents(), JOBS[0]
    recent.add([JobEvent(7, mine)])
    assert recent.running(ANN, mine.job_id) == (7, mine)
    assert recent.running(BOB, mine.job_id) is None
    assert recent.after(6, ANN, mine.job_id) == [JobEvent(7, mine)]
    assert recent.after(5, ANN, mine.job_id) is None
    # It may be deleted from now on.
    recent.add([JobEvent(8, dataclasses.replace(mine, state=JobState.CANCELLED))])
    assert recent.running(ANN, mine.job_id) is None


def test_old_events_are_forgotten() -> None:
    recent = RecentEvents(most=2)
    recent.add(JobEvent(position, JOBS[0]) for position in range(1, 4))
    assert recent.after(0, ANN, "j0") is None
    assert recent.after(1, ANN, "j0") == [JobEvent(2, JOBS[0]), JobEvent(3, JOBS[0])]
    # After a gap, of which what lies before it means nothing.
    recent.add([JobEvent(9, JOBS[0])])
    assert recent.after(8, ANN, "j0") == [JobEvent(9, JOBS[0])]
    assert recent.after(3, ANN, "j0") is None


async def test_what_is_rolled_back_is_not_remembered(router: Storage, clock: ManualClock) -> None:
    class Refused(Exception):
        pass

    first, second = job("r1", clock.now(), owner=ANN), job("r2", clock.now(), owner=ANN)
    try:
        async with router.write() as tx:
            await tx.jobs.add([first])
            await tx.finish()
            raise Refused
    except Refused:
        pass
    assert router.recent.running(ANN, "r1") is None
    async with router.write() as tx:
        await tx.jobs.add([second])
    known = router.recent.after(0, ANN, "r2")
    async with router.read() as tx:
        found = await tx.events.find_after(0, owner=ANN, job_id="r2")
    # Only where one batch runs at a time, nobody else writes.
    assert known == (None if router.batch_turn is None else found)


async def test_what_is_written_at_once_is_remembered_as_well(router: Storage, clock: ManualClock) -> None:
    async def add(tx: Transaction) -> None:
        await tx.jobs.add([job("o1", clock.now(), owner=ANN)])

    await router.write_at_once(add)
    async with router.read() as tx:
        found = await tx.events.find_after(0, owner=ANN, job_id="o1")
    assert len(found) == 1
    assert router.recent.after(0, ANN, "o1") == (None if router.batch_turn is None else found)


async def test_who_hears_of_an_event_of_somebody_else_knows_nothing_of_that_owner(
    router: Storage, clock: ManualClock
) -> None:
    async with router.write() as tx:
        await tx.jobs.add([job("h1", clock.now(), owner=ANN), job("h2", clock.now(), owner=BOB)])
    recent = RecentEvents()
    async with router.read() as tx:
        for owner, job_id in ((ANN, "h1"), (BOB, "h2")):
            recent.add(await tx.events.find_after(0, owner=owner, job_id=job_id))
    position = 0
    for owner, job_id in ((ANN, "h1"), (BOB, "h2")):
        known = recent.running(owner, job_id)
        assert known is not None
        position = max(position, known[0])
        recent.heard(owner, known[0])
        assert recent.running(owner, job_id) == known
    recent.heard(ANN, position + 1)
    assert recent.running(ANN, "h1") is None
    assert recent.after(position, ANN, "h1") is None
    assert recent.running(BOB, "h2") is not None
