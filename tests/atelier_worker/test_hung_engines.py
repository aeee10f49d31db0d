"""An engine that hangs, is too slow, or dies: the job ends with a sentence, and the worker lives."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from atelier_worker import engine_tasks
from atelier_worker.engine_client import EngineClient, restart_pause_s
from atelier_worker.engine_events import TaskEnd
from atelier_worker.engine_process import describe_end
from atelier_worker.task_watch import Limits
from tests.atelier_worker.conftest import open_gate
from tests.atelier_worker.fake_router import within
from tests.atelier_worker.scripted_engine import ENGINE
from tests.atelier_worker.test_engine_process import Notes, ended

Start = Callable[[Limits], Awaitable[EngineClient]]
SHORT = 0.05


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def begin(limits: Limits) -> EngineClient:
            engine = EngineClient(ENGINE, {}, limits=limits)
            stack.push_async_callback(engine.stop)
            await within(engine.start())
            return engine

        yield begin


def fields(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    """Return the fields of every line of the log that tells of an event."""
    return [record.__dict__["atelier_fields"] for record in caplog.records if record.getMessage() == event]


async def ready_again(engine: EngineClient) -> None:
    """Wait until the engine takes tasks, in a process that came after this one."""
    async with asyncio.timeout(30):
        while not engine.ready:  # noqa: ASYNC110 - `on_change` is the worker's
            await asyncio.sleep(0.005)


async def test_silence_ends_a_task_that_can_be_stopped_and_not_its_process(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = await start(Limits(load_s=SHORT))
    pid = engine.pid
    # `endless` would go on talking: to be silent and yet to be stopped, it looks at a pipe before.
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    silent = asyncio.create_task(ended(engine, tmp_path / "a", f"wait {gate}; endless {tmp_path / 'end'}"))
    writer = await open_gate(gate)
    async with asyncio.timeout(30):
        while "task_takes_too_long" not in caplog.text:  # noqa: ASYNC110 - only the log tells
            await asyncio.sleep(0.005)
    os.write(writer, b"go")
    os.close(writer)
    stopped = "The engine said nothing for 0.05 seconds while it loaded; it was stopped."
    assert await within(silent) == TaskEnd("crashed", stopped, retryable=True)
    assert (engine.pid, engine.ready) == (pid, True)
    assert (tmp_path / "end").read_text() == "Cancelled"


async def test_a_task_that_hangs_costs_its_process(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_tasks, "DEFAULT_CANCEL_GRACE_S", SHORT)
    engine = await start(Limits(stall_s=SHORT))
    pid = engine.pid
    stopped = "The engine made no progress for 0.05 seconds; it was stopped."
    assert await ended(engine, tmp_path / "a", "progress 0 1 9; hang") == TaskEnd("crashed", stopped, retryable=True)
    await ready_again(engine)
    assert engine.pid != pid
    assert engine.last_end == "it was killed: a task in it did not stop"
    # It says nothing that counts as progress, after which it would have to end within the limit.
    assert await ended(engine, tmp_path / "b", "print again") == TaskEnd("finished")


async def test_a_task_that_takes_too_long_is_not_tried_again(start: Start, tmp_path: Path) -> None:
    engine = await start(Limits(deadline_s=SHORT))
    end = await ended(engine, tmp_path / "a", f"endless {tmp_path / 'end'}")
    sentence = "The work took longer than the 0.05 seconds that the worker allows."
    assert end == TaskEnd("crashed", sentence, retryable=False)


async def test_an_engine_with_a_lost_thread_takes_no_more_until_it_is_new(start: Start, tmp_path: Path) -> None:
    engine = await start(Limits())
    changes: list[bool] = []
    engine.on_change = lambda: changes.append(engine.ready)
    gate, hung = tmp_path / "gate", Notes()
    os.mkfifo(gate)
    stuck = asyncio.create_task(ended(engine, tmp_path / "a", "progress 0 1 1; hang", hung))
    await within(hung.anything.wait())
    neighbour = asyncio.create_task(ended(engine, tmp_path / "b", f"wait {gate}; write done"))
    writer = await open_gate(gate)
    engine.cancel(hung, grace_s=0.0)
    # The job that was cancelled has ended, although its thread has not.
    assert await within(stuck) == TaskEnd("cancelled")
    assert (engine.ready, changes) == (False, [False])
    os.write(writer, b"go")
    os.close(writer)
    assert await within(neighbour) == TaskEnd("finished")
    await ready_again(engine)


async def test_how_a_process_ended_and_what_it_said_last_is_in_the_log(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    engine = await start(Limits())
    end = await ended(engine, tmp_path / "a", "print last words of the engine\n; die")
    assert end == TaskEnd("crashed", "The engine's process died while it worked.", retryable=True)
    assert engine.last_end == "it exited with code 3"
    (line,) = fields(caplog, "engine_ended")
    assert line["how"] == "it exited with code 3"
    assert "last words of the engine" in line["last_lines"]
    await ready_again(engine)
    os.kill(engine.pid or 0, signal.SIGKILL)
    async with asyncio.timeout(30):
        while "SIGKILL" not in engine.last_end:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.005)
    assert engine.last_end == "it was killed by the system or by somebody (SIGKILL): out of memory?"
    assert engine.restarts == 2


@pytest.mark.parametrize(
    ("code", "why", "sentence"),
    [
        (0, "", "it exited with code 0"),
        (-11, "", "it was ended by SIGSEGV"),
        (-9, "it did not end", "it was killed: it did not end"),
        (-200, "", "it was ended by signal 200"),
    ],
)
def test_an_end_in_words(code: int, why: str, sentence: str) -> None:
    assert describe_end(code, why) == sentence


async def test_an_engine_that_dies_again_and_again_is_given_pauses(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = await start(Limits())
    for number in range(2):
        await ended(engine, tmp_path / str(number), "die")
        await ready_again(engine)
    assert engine.restarts == 2
    assert [line["pause_s"] for line in fields(caplog, "engine_restarts")] == [0.0, 0.4]


async def test_an_engine_that_has_worked_is_started_again_at_once(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = await start(Limits())
    for number in range(2):
        await ended(engine, tmp_path / f"good-{number}", "write done")
        await ended(engine, tmp_path / f"bad-{number}", "die")
        await ready_again(engine)
    assert [line["pause_s"] for line in fields(caplog, "engine_restarts")] == [0.0, 0.0]


def test_the_pauses_grow_to_a_minute() -> None:
    pauses = [restart_pause_s(failures) for failures in (0, 1, 2, 3, 4, 9, 10, 10_000)]
    assert pauses == [0.0, 0.0, 0.4, 0.8, 1.6, 51.2, 60.0, 60.0]
