"""Models in memory: who is admitted, who is evicted, and what a task reads when the device is too small."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from atelier_worker.engine import Cancelled, DeviceRoom, EngineError, LoadedModel
from atelier_worker.engines.residency.errors import NotEnoughMemory
from atelier_worker.engines.residency.out_of_memory import Attempt, survive_out_of_memory
from atelier_worker.engines.residency.residency import Residency, tell_part
from tests.support.fake_device import FakeDevice, RememberingContext, Weights

GIB = 1 << 30
LIMIT_S = 10


class Clock:
    """Time passes only while somebody waits; `meanwhile` then happens."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.meanwhile: Callable[[], None] = lambda: None

    def now(self) -> float:
        return self.now_s

    def pause(self, condition: threading.Condition, seconds: float) -> None:
        self.now_s += seconds
        condition.release()
        try:
            self.meanwhile()
        finally:
            condition.acquire()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _residency(
    device: FakeDevice, clock: Clock, sizes: dict[str, int], limit: int | None = None
) -> tuple[Residency[Weights], list[str]]:
    loads: list[str] = []
    residency: Residency[Weights] = Residency(device, "cuda", limit, now=clock.now, pause=clock.pause)

    def load(name: str, size: int) -> Weights:
        loads.append(name)
        return Weights(device, size)

    for name, size in sizes.items():
        residency.register(name, load=lambda name=name, size=size: load(name, size), weights_bytes=size)  # type: ignore[misc]
    return residency, loads


def _names(residency: Residency[Weights]) -> list[str]:
    return [model.name for model in residency.loaded()]


def _fits(residency: Residency[Weights], name: str, working_bytes: int) -> bool:
    try:
        with residency.use(name, RememberingContext(), working_bytes=working_bytes):
            return True
    except NotEnoughMemory:
        return False


def test_a_model_is_loaded_once_and_kept(clock: Clock) -> None:
    device = FakeDevice(10 * GIB)
    residency, loads = _residency(device, clock, {"sdxl": 6 * GIB})
    context = RememberingContext()
    for _ in range(2):
        with residency.use("sdxl", context, working_bytes=2 * GIB) as model:
            assert isinstance(model, Weights)
    assert loads == ["sdxl"]
    assert context.phases == ["loading sdxl"]
    assert residency.loaded() == [LoadedModel("sdxl", "cuda:0", 6 * GIB)]
    assert device.used == 6 * GIB


def test_what_the_device_has_free_is_known_from_the_first_use(clock: Clock) -> None:
    device = FakeDevice(10 * GIB)
    device.others = GIB
    residency, _ = _residency(device, clock, {"sdxl": 6 * GIB})
    assert residency.device_room() is None
    with residency.use("sdxl", RememberingContext(), working_bytes=0):
        assert residency.device_room() == DeviceRoom("cuda:0", 3 * GIB, 10 * GIB)


def test_what_was_not_used_for_longest_makes_room(clock: Clock) -> None:
    device = FakeDevice(10 * GIB)
    residency, loads = _residency(device, clock, {"a": 3 * GIB, "b": 3 * GIB, "c": 3 * GIB})
    for name in ("a", "b", "a", "c"):
        with residency.use(name, RememberingContext(), working_bytes=2 * GIB):
            pass
    assert loads == ["a", "b", "c"]
    assert _names(residency) == ["a", "c"]


def test_nothing_is_evicted_when_that_would_not_help(clock: Clock) -> None:
    device = FakeDevice(10 * GIB)
    residency, _ = _residency(device, clock, {"a": 3 * GIB, "b": 7 * GIB})
    with residency.use("a", RememberingContext(), working_bytes=GIB):
        pass
    device.others = 5 * GIB
    with (
        pytest.raises(NotEnoughMemory),
        residency.use("b", RememberingContext(), working_bytes=GIB),
    ):
        pass
    assert _names(residency) == ["a"]


def test_a_model_in_use_stays(clock: Clock) -> None:
    device = FakeDevice(10 * GIB)
    residency, _ = _residency(device, clock, {"a": 6 * GIB, "b": 6 * GIB})
    with residency.use("a", RememberingContext(), working_bytes=GIB):
        assert residency.give_room("cuda:0", GIB) == 0
        with pytest.raises(NotEnoughMemory), residency.use("b", RememberingContext(), working_bytes=GIB):
            pass
        assert _names(residency) == ["a"]


def test_memory_of_others_counts_and_the_sentence_has_the_figures(clock: Clock) -> None:
    device = FakeDevice(24 * GIB)
    residency, loads = _residency(device, clock, {"wan": 6 * GIB, "sdxl": 7 * GIB})
    context = RememberingContext()
    with residency.use("wan", context, working_bytes=3 * GIB):
        device.others = 12 * GIB
        with pytest.raises(NotEnoughMemory) as refused, residency.use("sdxl", context, working_bytes=2 * GIB):
            pass
    assert refused.value.retryable
    assert str(refused.value) == (
        "sdxl needs 9.0 GiB (7.0 GiB of weights, 2.0 GiB to work with) on cuda:0; 3.0 GiB of 24.0 GiB are free for it, "
        "and this engine holds wan 6.0 GiB, running tasks 3.0 GiB; try again later"
    )
    assert loads == ["wan"]
    assert context.phases[-1] == "waiting for memory"
    assert clock.now_s == 30.0


@pytest.mark.parametrize(
    ("limit", "sentence"),
    [
        (None, "which has 8.0 GiB in all"),
        (7 * GIB, "of which this engine's memory_limit gives it 7.0 GiB"),
    ],
)
def test_what_never_fits_is_not_tried_again(clock: Clock, limit: int | None, sentence: str) -> None:
    residency, loads = _residency(FakeDevice(8 * GIB), clock, {"sdxl": 7 * GIB}, limit)
    with pytest.raises(NotEnoughMemory) as refused, residency.use("sdxl", RememberingContext(), working_bytes=2 * GIB):
        pass
    assert not refused.value.retryable
    assert sentence in str(refused.value)
    assert (loads, clock.now_s) == ([], 0.0)


def test_the_limit_counts_weights_and_working_memory(clock: Clock) -> None:
    residency, _ = _residency(FakeDevice(80 * GIB), clock, {"a": 5 * GIB, "b": 5 * GIB}, 12 * GIB)
    with residency.use("a", RememberingContext(), working_bytes=GIB):
        assert _fits(residency, "b", GIB)
        assert not _fits(residency, "b", GIB + 1)
    assert _fits(residency, "b", 7 * GIB)
    assert _names(residency) == ["b"]


def test_what_running_tasks_were_promised_is_not_promised_again(clock: Clock) -> None:
    device = FakeDevice(10 * GIB)
    residency, _ = _residency(device, clock, {"a": 4 * GIB})
    with residency.use("a", RememberingContext(), working_bytes=4 * GIB):
        with pytest.raises(NotEnoughMemory), residency.use("a", RememberingContext(), working_bytes=3 * GIB):
            pass
        device.take(4 * GIB)  # what was promised is taken now, and must not count twice
        with residency.use("a", RememberingContext(), working_bytes=2 * GIB):
            pass
        device.give(4 * GIB)


def test_other_engines_are_asked_before_anybody_waits(clock: Clock) -> None:
    device = FakeDevice(10 * GIB)
    device.others = 6 * GIB
    asked: list[tuple[str, int]] = []

    def make_room(wanted_device: str, wanted: int) -> int:
        asked.append((wanted_device, wanted))
        device.others = 0
        return 6 * GIB

    residency, _ = _residency(device, clock, {"a": 6 * GIB})
    context = RememberingContext(make_room=make_room)
    with residency.use("a", context, working_bytes=GIB):
        pass
    assert asked == [("cuda:0", 3 * GIB)]
    assert clock.now_s == 0.0


def test_nobody_is_asked_for_room_that_only_the_limit_denies(clock: Clock) -> None:
    asked: list[tuple[str, int]] = []

    def make_room(device: str, wanted: int) -> int:
        asked.append((device, wanted))
        return 0

    residency, _ = _residency(FakeDevice(80 * GIB), clock, {"a": 5 * GIB, "b": 5 * GIB}, 12 * GIB)
    context = RememberingContext(make_room=make_room)
    with residency.use("a", context, working_bytes=GIB):
        with pytest.raises(NotEnoughMemory, match=r"memory_limit is 12\.0 GiB"):
            residency.use("b", context, working_bytes=2 * GIB).__enter__()
    assert asked == []


def test_a_task_waits_for_memory_that_another_gives_back(clock: Clock) -> None:
    device = FakeDevice(10 * GIB)
    residency, _ = _residency(device, clock, {"a": 6 * GIB, "b": 6 * GIB})
    with ExitStack() as first:
        first.enter_context(residency.use("a", RememberingContext(), working_bytes=GIB))
        clock.meanwhile = first.close
        context = RememberingContext()
        with residency.use("b", context, working_bytes=GIB):
            assert _names(residency) == ["b"]
    assert context.phases == ["waiting for memory", "loading b"]


def test_who_waits_for_memory_can_be_cancelled(clock: Clock) -> None:
    device = FakeDevice(10 * GIB)
    device.others = 9 * GIB
    residency, _ = _residency(device, clock, {"a": 6 * GIB})
    context = RememberingContext()
    clock.meanwhile = context.cancelled.set
    with pytest.raises(Cancelled), residency.use("a", context, working_bytes=GIB):
        pass
    assert clock.now_s < 1


def test_a_load_that_fails_leaves_nothing_behind_and_is_tried_anew(clock: Clock) -> None:
    device = FakeDevice(10 * GIB)
    residency: Residency[Weights] = Residency(device, "cuda:0", now=clock.now, pause=clock.pause)
    outcomes: Iterator[Exception | None] = iter([EngineError("the file is damaged"), None])

    def load() -> Weights:
        half = Weights(device, 4 * GIB)
        failure = next(outcomes)
        if failure is not None:
            raise failure
        return half

    residency.register("a", load=load, weights_bytes=4 * GIB)
    with pytest.raises(EngineError, match="damaged"), residency.use("a", RememberingContext(), working_bytes=GIB):
        pass
    assert (device.used, residency.loaded()) == (0, [])
    with residency.use("a", RememberingContext(), working_bytes=6 * GIB):
        assert device.used == 4 * GIB


def test_a_load_that_runs_out_of_memory_is_a_refusal(clock: Clock) -> None:
    device = FakeDevice(10 * GIB)
    residency: Residency[Weights] = Residency(device, "cuda:0", now=clock.now, pause=clock.pause)
    residency.register("a", load=lambda: Weights(device, 11 * GIB), weights_bytes=GIB)
    with pytest.raises(NotEnoughMemory) as refused, residency.use("a", RememberingContext(), working_bytes=GIB):
        pass
    assert refused.value.retryable
    assert device.used == 0


def test_a_loader_tells_its_parts_and_can_be_cancelled(clock: Clock) -> None:
    device = FakeDevice(10 * GIB)
    residency: Residency[Weights] = Residency(device, "cuda:0", now=clock.now, pause=clock.pause)
    context = RememberingContext()

    def load() -> Weights:
        tell_part(1, 3)
        context.cancelled.set()
        tell_part(2, 3)
        return Weights(device, GIB)

    residency.register("a", load=load, weights_bytes=GIB)
    with pytest.raises(Cancelled), residency.use("a", context, working_bytes=GIB):
        pass
    assert context.steps == [(None, 0, 1), (None, 1, 3)]
    assert context.phases == ["loading a"]
    assert residency.loaded() == []
    tell_part(1, 1)  # nobody listens outside of a load


def test_two_tasks_load_a_model_once() -> None:
    device = FakeDevice(10 * GIB)
    second_waits = threading.Event()
    loads: list[str] = []

    def pause(condition: threading.Condition, seconds: float) -> None:
        second_waits.set()
        condition.wait(LIMIT_S)

    residency: Residency[Weights] = Residency(device, "cuda:0", pause=pause)

    def load() -> Weights:
        loads.append("a")
        if not second_waits.wait(LIMIT_S):
            raise AssertionError("nobody waited for the load")
        return Weights(device, 4 * GIB)

    residency.register("a", load=load, weights_bytes=4 * GIB)

    def use() -> list[str]:
        context = RememberingContext()
        with residency.use("a", context, working_bytes=GIB):
            return context.phases

    with ThreadPoolExecutor(2) as pool:
        phases = [task.result(LIMIT_S) for task in [pool.submit(use), pool.submit(use)]]
    assert loads == ["a"]
    assert phases == [["loading a"], ["loading a"]]


def test_a_measured_peak_corrects_an_estimate_that_was_too_low(clock: Clock) -> None:
    device = FakeDevice(20 * GIB)
    residency, _ = _residency(device, clock, {"a": 4 * GIB})
    with residency.use("a", RememberingContext(), working_bytes=2 * GIB):
        device.take(6 * GIB)
        device.give(6 * GIB)
    device.others = 11 * GIB
    with pytest.raises(NotEnoughMemory, match=r"6\.0 GiB to work with"):
        residency.use("a", RememberingContext(), working_bytes=2 * GIB).__enter__()


def test_a_peak_that_two_tasks_share_corrects_nothing(clock: Clock) -> None:
    device = FakeDevice(20 * GIB)
    residency, _ = _residency(device, clock, {"a": 4 * GIB})
    with residency.use("a", RememberingContext(), working_bytes=2 * GIB):
        with residency.use("a", RememberingContext(), working_bytes=8 * GIB):
            device.take(6 * GIB)
            device.give(6 * GIB)
    assert _fits(residency, "a", 16 * GIB)


def test_weights_that_are_larger_than_their_files_are_counted_as_they_are(clock: Clock) -> None:
    device = FakeDevice(20 * GIB)
    residency: Residency[Weights] = Residency(device, "cuda:0", now=clock.now, pause=clock.pause)
    residency.register("a", load=lambda: Weights(device, 5 * GIB), weights_bytes=4 * GIB)
    with residency.use("a", RememberingContext(), working_bytes=GIB):
        pass
    assert residency.loaded() == [LoadedModel("a", "cuda:0", 5 * GIB)]


def test_room_is_given_by_what_is_idle_and_only_on_this_device(clock: Clock) -> None:
    device = FakeDevice(20 * GIB)
    residency, _ = _residency(device, clock, {"a": 4 * GIB, "b": 4 * GIB, "c": 4 * GIB})
    for name in ("a", "b", "c"):
        with residency.use(name, RememberingContext(), working_bytes=GIB):
            pass
    assert residency.give_room("cpu", GIB) == 0
    assert residency.give_room("cuda", 5 * GIB) == 8 * GIB
    assert _names(residency) == ["c"]
    assert device.used == 4 * GIB


def test_on_a_cpu_where_nobody_counts_the_whole_promise_is_kept_free(clock: Clock) -> None:
    device = FakeDevice(10 * GIB, counts=False)
    residency, _ = _residency(device, clock, {"a": 4 * GIB})
    with residency.use("a", RememberingContext(), working_bytes=3 * GIB):
        device.used += 2 * GIB
        assert _fits(residency, "a", GIB)
        assert not _fits(residency, "a", GIB + 1)
        device.used -= 2 * GIB


def test_only_the_last_attempt_waits_for_memory(clock: Clock) -> None:
    device = FakeDevice(10 * GIB)
    device.others = 3 * GIB
    residency, _ = _residency(device, clock, {"a": 6 * GIB})
    context = RememberingContext()
    refused_at: list[float] = []

    def run(size: int) -> None:
        try:
            with residency.use("a", context, working_bytes=size):
                pass
        finally:
            refused_at.append(clock.now_s)

    attempts = [Attempt("four at once", lambda: run(4 * GIB)), Attempt("one at a time", lambda: run(2 * GIB))]
    with pytest.raises(NotEnoughMemory, match=r"8\.0 GiB"):
        survive_out_of_memory(context, attempts)
    assert refused_at == [0.0, 30.0]


def test_an_unknown_model_is_named(clock: Clock) -> None:
    residency, _ = _residency(FakeDevice(GIB), clock, {"a": 1, "b": 1})
    with pytest.raises(EngineError, match='no model is called "c" here; there are: a, b'):
        residency.use("c", RememberingContext(), working_bytes=1).__enter__()
