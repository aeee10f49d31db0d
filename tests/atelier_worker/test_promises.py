"""Memory between processes: who was let in counts for everybody, and nobody waits for the dead or for ever."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from atelier_worker.engine import Cancelled, EngineError
from atelier_worker.engines.residency.errors import NotEnoughMemory
from atelier_worker.engines.residency.residency import Residency
from atelier_worker.promises import Promises
from tests.support.fake_device import FakeDevice, RememberingContext, Weights

GIB = 1 << 30
MIB = 1 << 20
# Holds the turn after it was promised 3 GiB, and says so.
HOLDER = """
import sys, time
from pathlib import Path
from atelier_worker.promises import Promises
promises = Promises(Path(sys.argv[1]))
with promises.turn(lambda: None):
    promises.keep(3 << 30)
    print("holds", flush=True)
    time.sleep(60)
"""


class Device(FakeDevice):
    """A device of which each of two processes sees what is free of it, and only what it uses itself."""

    def __init__(self, total: int, other: FakeDevice | None = None) -> None:
        super().__init__(total)
        self.other = other

    def free_bytes(self) -> int:
        return super().free_bytes() - (self.other.used if self.other else 0)


def residency(device: FakeDevice, folder: Path, size: int, waits_s: float = 0) -> Residency[Weights]:
    made: Residency[Weights] = Residency(device, "cuda", memory_wait_s=waits_s, promises=Promises(folder))
    made.register("model", load=lambda: Weights(device, size), weights_bytes=size)
    return made


@pytest.fixture
def devices() -> tuple[Device, Device]:
    first, second = Device(10 * GIB), Device(10 * GIB)
    first.other, second.other = second, first
    return first, second


def refusal(residency: Residency[Weights], working_bytes: int = 0) -> str:
    """Return why a task is not let in; an empty text when it is."""
    try:
        with residency.use("model", RememberingContext(), working_bytes=working_bytes):
            return ""
    except NotEnoughMemory as error:
        assert error.retryable
        return str(error)


def fits(residency: Residency[Weights], working_bytes: int = 0) -> bool:
    return not refusal(residency, working_bytes)


def others(promises: Promises) -> int:
    with promises.turn(lambda: None) as found:
        return found


@contextmanager
def held(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a process that has its turn, until the end of the block."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "holds\n"
            yield process
        finally:
            process.kill()


def test_who_loads_in_another_process_counts_before_the_device_shows_it(
    devices: tuple[Device, Device], tmp_path: Path
) -> None:
    first, second = (residency(device, tmp_path / "cuda-0", 6 * GIB) for device in devices)
    while_loading: list[str] = []

    def load() -> Weights:
        assert devices[1].free_bytes() == 10 * GIB
        while_loading.append(refusal(second))
        return Weights(devices[0], GIB)

    first.register("slow", load=load, weights_bytes=6 * GIB)
    with first.use("slow", RememberingContext(), working_bytes=0):
        pass
    (sentence,) = while_loading
    assert "4.0 GiB of 10.0 GiB are free for it, other engines were promised 6.0 GiB, and" in sentence
    # It took less than it was promised, which is nobody's any more.
    assert fits(second)


def test_what_a_task_was_promised_to_work_with_counts_until_it_has_it(
    devices: tuple[Device, Device], tmp_path: Path
) -> None:
    first, second = (residency(device, tmp_path / "cuda-0", 2 * GIB) for device in devices)
    with first.use("model", RememberingContext(), working_bytes=4 * GIB):
        assert not fits(second, 3 * GIB)
        devices[0].take(4 * GIB)
        assert not fits(second, 3 * GIB)
        # The worker asks every few seconds.
        first.device_room()
        assert not fits(second, 3 * GIB)
        assert fits(second, 2 * GIB)
        devices[0].give(4 * GIB)
    assert fits(second, 3 * GIB)


def test_a_load_that_fails_was_promised_nothing(devices: tuple[Device, Device], tmp_path: Path) -> None:
    first, second = (residency(device, tmp_path / "cuda-0", 6 * GIB) for device in devices)

    def load() -> Weights:
        raise EngineError("a file is broken")

    first.register("broken", load=load, weights_bytes=6 * GIB)
    with (
        pytest.raises(EngineError, match="a file is broken"),
        first.use("broken", RememberingContext(), working_bytes=2 * GIB),
    ):
        pass
    assert fits(second, 4 * GIB)


def test_other_devices_do_not_count(devices: tuple[Device, Device], tmp_path: Path) -> None:
    first = residency(devices[0], tmp_path / "cuda-0", 6 * GIB)
    with first.use("model", RememberingContext(), working_bytes=4 * GIB):
        assert others(Promises(tmp_path / "cuda-1")) == 0
        assert others(Promises(tmp_path / "cuda-0")) == 4 * GIB


def test_the_promise_of_a_killed_process_is_nobodys_and_neither_is_its_turn(tmp_path: Path) -> None:
    promises = Promises(tmp_path)
    with held(tmp_path) as process:
        process.kill()
        process.wait()
        assert others(promises) == 0
    # The lock, and its own.
    assert len(list(tmp_path.iterdir())) == 2


def test_who_waits_for_a_turn_can_be_cancelled_and_does_not_wait_for_ever(tmp_path: Path) -> None:
    context = RememberingContext()
    context.cancelled.set()
    with held(tmp_path):
        with pytest.raises(Cancelled), Promises(tmp_path).turn(context.check_cancelled):
            pass
        impatient = Promises(tmp_path, turn_limit_s=0)
        with pytest.raises(EngineError, match="does not say how much; try again later") as refused:
            others(impatient)
    assert refused.value.retryable


def test_a_folder_that_cannot_be_used_fails_the_task_and_not_the_engine(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EngineError, match="cannot write down") as refused:
        others(Promises(tmp_path / "file" / "cuda-0"))
    assert refused.value.retryable


def test_a_promise_is_never_written_smaller_than_it_is(tmp_path: Path) -> None:
    promises = Promises(tmp_path)
    with promises.turn(lambda: None):
        promises.keep(MIB + 1)
    assert others(Promises(tmp_path)) == 2 * MIB
