"""Coalescing, with the time in the test's hands."""

from __future__ import annotations

import pytest

from atelier.worker.v1 import worker_service_pb2 as pb
from atelier_worker.refs import Ref
from atelier_worker.reports import FLUSH_S, PREVIEW_INTERVAL_S, Reports

REF = Ref("job", 0, 1)


class Time:
    def __init__(self) -> None:
        self.now = 100.0
        self.wakes = 0
        self.reports = Reports(lambda: self.now, self.wake)
        self.reports.open(REF)

    def wake(self) -> None:
        self.wakes += 1

    def step(self, number: int, index: int = 0) -> None:
        self.reports.progress(REF, pb.StepProgress(asset_index=index, step=number, steps=9))

    def preview(self, image: bytes, index: int = 0) -> None:
        self.reports.preview(REF, pb.PreviewImage(asset_index=index, image=image))

    def steps(self) -> list[tuple[int, int]]:
        taken = [report.progress for report in self.reports.take() if report.HasField("progress")]
        return [(progress.asset_index, progress.step) for progress in taken]

    def images(self) -> list[bytes]:
        return [report.preview.image for report in self.reports.take() if report.HasField("preview")]


@pytest.fixture
def time() -> Time:
    return Time()


def test_the_first_word_of_a_lease_is_due_at_once(time: Time) -> None:
    time.step(1)
    assert time.reports.due_at() == 100.0
    assert time.wakes == 1
    assert time.steps() == [(0, 1)]
    assert time.reports.due_at() is None


def test_later_steps_wait_for_each_other_and_only_the_latest_is_kept(time: Time) -> None:
    time.step(1)
    time.steps()
    time.step(2)
    time.now += FLUSH_S / 2
    time.step(3)
    time.step(1, index=1)
    assert time.steps() == []
    assert time.reports.due_at() == 100.0 + FLUSH_S
    time.now = 100.0 + FLUSH_S
    assert time.steps() == [(0, 3), (1, 1)]


def test_at_most_two_previews_a_second_and_output(time: Time) -> None:
    time.preview(b"1")
    time.preview(b"other", index=1)
    assert time.images() == [b"1", b"other"]
    time.preview(b"2")
    time.preview(b"3")
    assert time.images() == []
    assert time.reports.due_at() == 100.0 + PREVIEW_INTERVAL_S
    time.now += PREVIEW_INTERVAL_S
    assert time.images() == [b"3"]
    time.preview(b"4")
    assert time.reports.due_at() == 100.0 + 2 * PREVIEW_INTERVAL_S


def test_a_bundle_of_previews_fits_into_a_message(time: Time) -> None:
    for index in range(64):
        time.preview(b"p" * 65536, index=index)
    sizes = []
    while time.reports.due_at() is not None:
        sizes.append(sum(map(len, time.images())))
    assert sum(sizes) == 64 * 65536
    assert max(sizes) <= 1 << 20


def test_text_is_merged_and_says_where_it_begins(time: Time) -> None:
    time.reports.text(REF, "提")
    time.reports.text(REF, "灯 ")
    [first] = time.reports.take()
    time.reports.text(REF, "more")
    time.now += FLUSH_S
    [second] = time.reports.take()
    assert (first.text.offset, first.text.text) == (0, "提灯 ")
    assert (second.text.offset, second.text.text) == (3, "more")


def test_text_that_waits_for_a_session_is_not_lost(time: Time) -> None:
    for _ in range(1000):
        time.reports.text(REF, "ab")
        time.now += 1.0
    [only] = time.reports.take()
    assert (only.text.offset, only.text.text) == (0, "ab" * 1000)


def test_only_the_last_lines_of_a_log_are_kept(time: Time) -> None:
    for number in range(200):
        time.reports.log(REF, f"{number}" + "x" * 5000)
    lines = [report.log for report in time.reports.take()]
    assert len(lines) == 50
    assert lines[-1].startswith("199")
    assert max(map(len, lines)) == 2000


def test_what_is_left_goes_before_the_outcome_without_previews(time: Time) -> None:
    time.step(1)
    time.steps()
    time.step(2)
    time.reports.text(REF, "end")
    time.preview(b"p")
    kinds = [report.WhichOneof("report") for report in time.reports.close(REF)]
    assert kinds == ["progress", "text"]
    # Whoever still speaks for the lease is not heard.
    time.step(3)
    time.preview(b"q")
    time.reports.text(REF, "late")
    time.reports.log(REF, "late")
    assert time.reports.due_at() is None
    assert time.reports.close(REF) == []
