"""Tasks of one process and the pipe to it, without a process."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from atelier.engine.v1 import engine_host_pb2 as pb
from atelier_worker import frames
from atelier_worker.engine import Task
from atelier_worker.engine_events import TaskEnd
from atelier_worker.engine_process import EngineProcess
from atelier_worker.engine_tasks import EngineTasks, Tally
from atelier_worker.task_watch import Limits

LIMIT_S = 30.0


class Pipe:
    """What is written to a process."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.writes.append(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def kinds(self, number: int) -> list[str | None]:
        """Return what one write said."""
        stream = io.BytesIO(self.writes[number])
        found: list[str | None] = []
        while (request := frames.read(stream, pb.HostRequest())) is not None:
            found.append(request.WhichOneof("message"))
        return found

    def count(self, kind: str) -> int:
        """Return how often something was said."""
        return sum(self.kinds(number).count(kind) for number in range(len(self.writes)))


@pytest.fixture
async def pipe() -> Pipe:
    return Pipe()


@pytest.fixture
async def process(pipe: Pipe) -> EngineProcess:
    inner: Any = SimpleNamespace(stdin=pipe, stdout=None, stderr=None, pid=0, returncode=0)
    return EngineProcess("relay", inner)


def _task() -> Task:
    return Task(
        stage="chat", format=None, model="", prompt="", negative_prompt="", seed=0, quantity=1, width=0, height=0,
        steps=0, quality="", references=(), frames=0, fps=0, indexes=(),
    )  # fmt: skip


async def test_what_is_asked_in_one_turn_is_one_write(pipe: Pipe, process: EngineProcess) -> None:
    for _ in range(3):
        process.write(pb.HostRequest(run=pb.RunTask()))
    assert pipe.writes == []
    await asyncio.sleep(0)
    assert pipe.kinds(0) == ["run", "run", "run"]
    process.write(pb.HostRequest(cancel=pb.CancelTask()))
    process.ask_to_end()
    assert pipe.kinds(1) == ["cancel"]
    await asyncio.sleep(0)
    assert len(pipe.writes) == 2


async def test_each_task_that_is_silent_is_stopped_though_they_share_an_alarm(
    pipe: Pipe, process: EngineProcess, tmp_path: Path
) -> None:
    limits = Limits(stall_s=0.01, load_s=0.01)
    tasks = EngineTasks("relay", process, limits, Tally(), lambda: None)
    sink: Any = SimpleNamespace()
    loop = asyncio.get_running_loop()
    running = [asyncio.create_task(tasks.run(_task(), tmp_path, sink))]
    half_way = loop.time() + 0.005
    while loop.time() < half_way:  # noqa: ASYNC110 - the clock tells nobody
        await asyncio.sleep(0)
    # When the first is looked at, the patience with this one has not ended.
    running.append(asyncio.create_task(tasks.run(_task(), tmp_path, sink)))
    async with asyncio.timeout(LIMIT_S):
        while pipe.count("cancel") < 2:  # noqa: ASYNC110 - nobody is told of what is written
            await asyncio.sleep(0)
    # One that begins when the alarm has gone off needs another.
    running.append(asyncio.create_task(tasks.run(_task(), tmp_path, sink)))
    async with asyncio.timeout(LIMIT_S):
        while pipe.count("cancel") < 3:  # noqa: ASYNC110
            await asyncio.sleep(0)
    for name in "123":
        ended = pb.TaskEnded(task_id=name)
        ended.cancelled.SetInParent()
        tasks.hear("ended", ended)
    sentence = "The engine said nothing for 0.01 seconds while it loaded; it was stopped."
    assert await asyncio.gather(*running) == [TaskEnd("crashed", sentence, retryable=True)] * 3
