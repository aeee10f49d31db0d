"""Schedules: the seed decides everything, and every kind of fault has its turn while enough is unfinished."""

from __future__ import annotations

import asyncio
from collections import Counter

from faults.actions import ACTIONS
from faults.progress import Progress
from faults.schedule import JOBS, OWNERS, Kind, Measure, Point, plan

SEEDS = range(1, 201)


def test_equal_seeds_give_equal_schedules_and_others_do_not() -> None:
    assert plan(7) == plan(7)
    assert plan(7) != plan(8)


def test_every_schedule_has_three_faults_of_two_kinds_and_a_hundred_jobs_of_two_owners() -> None:
    for schedule in map(plan, SEEDS):
        assert len(schedule.faults) >= 3, schedule.seed
        assert len(schedule.kinds) >= 2, schedule.seed
        assert len(schedule.jobs) == JOBS
        assert {job.owner for job in schedule.jobs} == set(OWNERS)


def test_every_schedule_has_batches_two_stage_jobs_videos_cancels_and_retries() -> None:
    for schedule in map(plan, SEEDS):
        assert {"batch", "two_stage", "video"} <= {job.kind for job in schedule.jobs}, schedule.seed
        assert any(job.cancel for job in schedule.jobs), schedule.seed
        assert any(job.flaky for job in schedule.jobs), schedule.seed


def test_every_kind_of_fault_comes_twenty_times_in_two_hundred_schedules() -> None:
    counted = Counter(kind for schedule in map(plan, SEEDS) for kind in schedule.kinds)
    assert {kind: counted[kind.value] for kind in Kind if counted[kind.value] < 20} == {}


def test_no_fault_is_planned_so_late_that_less_than_a_third_is_left() -> None:
    for schedule in map(plan, SEEDS):
        for fault in schedule.faults:
            if fault.at.measure is not Measure.UPLOADED:
                assert fault.at.count <= 0.56 * JOBS, (schedule.seed, fault)


def test_every_kind_has_an_action() -> None:
    assert set(ACTIONS) == set(Kind)


async def test_a_point_is_reached_when_its_measure_is() -> None:
    progress = Progress()
    reached = asyncio.create_task(progress.reach(Point(Measure.FINISHED, 2)))
    progress.saw("one", 5, "succeeded")
    # Another watcher saw the same end: that is no second one.
    progress.saw("one", 5, "succeeded")
    await asyncio.sleep(0)
    assert not reached.done()
    progress.saw("two", 3, "cancelled")
    async with asyncio.timeout(5):
        await reached
    assert progress.count(Measure.RECORDED) == 1
