"""How long a task may take and be silent: counted on a clock of the test's own."""

from __future__ import annotations

import pytest

from atelier.engine.v1 import engine_host_pb2 as pb
from atelier_worker.task_watch import Limits, TaskWatch

LIMITS = Limits(deadline_s=1000.0, stall_s=10.0, load_s=60.0)
STEP = pb.TaskProgress(step=1, steps=9)


def test_a_task_that_has_not_begun_is_taken_to_be_loading() -> None:
    watch = TaskWatch(LIMITS, 100.0)
    assert watch.due == 160.0
    assert watch.verdict(159.0) is None
    assert watch.verdict(160.0) == "The engine said nothing for 1 minute while it loaded; it was stopped."


@pytest.mark.parametrize("message", [STEP, pb.TaskText(text="a"), pb.TaskPreview(), pb.OutputDelivered()])
def test_a_task_that_works_may_be_silent_for_less(message: object) -> None:
    watch = TaskWatch(LIMITS, 100.0)
    watch.hear(message, 130.0)
    assert watch.due == 140.0
    assert watch.verdict(139.0) is None
    assert watch.verdict(140.0) == "The engine made no progress for 10 seconds; it was stopped."
    assert not watch.past_deadline(140.0)


@pytest.mark.parametrize("message", [pb.TaskProgress(step=0, steps=9), pb.TaskLog(line="a"), pb.TaskWarning()])
def test_what_is_no_work_does_not_end_the_loading(message: object) -> None:
    watch = TaskWatch(LIMITS, 100.0)
    watch.hear(message, 130.0)
    assert watch.due == 190.0


def test_a_model_that_is_loaded_in_the_middle_has_the_time_for_it() -> None:
    watch = TaskWatch(LIMITS, 100.0)
    watch.hear(STEP, 130.0)
    watch.hear(pb.TaskProgress(step=3, steps=9, phase="loading vae"), 135.0)
    assert watch.due == 195.0
    watch.hear(STEP, 150.0)
    assert watch.due == 160.0


def test_a_task_has_a_deadline_however_much_it_says() -> None:
    watch = TaskWatch(LIMITS, 100.0)
    watch.hear(STEP, 1099.0)
    assert watch.due == 1100.0
    assert watch.verdict(1100.0) == "The work took longer than the 1000 seconds that the worker allows."
    assert watch.past_deadline(1100.0)


def test_without_limits_nothing_is_ever_due() -> None:
    watch = TaskWatch(Limits(None, None, None), 0.0)
    assert watch.due is None
    assert watch.verdict(1e9) is None
    assert not watch.past_deadline(1e9)
