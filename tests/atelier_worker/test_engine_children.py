"""What an engine starts itself does not outlive it: it may hold memory of a device that the next one needs."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from atelier_worker.engine import Context, Task
from atelier_worker.engine_client import EngineClient
from atelier_worker.engine_process import EngineProcess, end_left_behind
from tests.atelier_worker.fake_router import within
from tests.atelier_worker.test_engine_process import Notes, task


class ParentEngine:
    """Starts a child, writes its number down, and dies where it is told to."""

    name = "parent"
    concurrency = 1

    def __init__(self, options: Mapping[str, object]) -> None:
        self._note = Path(str(options["note"]))

    def run(self, task: Task, context: Context) -> None:
        child = subprocess.Popen(["sleep", "600"])
        self._note.write_text(str(child.pid))
        if task.prompt == "die":
            os._exit(3)


async def gone(number: int) -> None:
    """Wait until a process has ended; at once if there is none."""
    try:
        watched = os.pidfd_open(number)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(watched, ended.set)
    try:
        await within(ended.wait())
    finally:
        loop.remove_reader(watched)
        os.close(watched)


@pytest.mark.parametrize("script", ["die", "live"])
async def test_the_children_of_an_engine_end_with_it(tmp_path: Path, script: str) -> None:
    note = tmp_path / "child"
    engine = EngineClient(f"{__name__}:ParentEngine", {"note": str(note)})
    await within(engine.start())
    try:
        end = await within(engine.run(task(script, quantity=0), tmp_path, Notes()))
        assert end.kind == ("crashed" if script == "die" else "finished")
    finally:
        await engine.stop()
    await gone(int(await asyncio.to_thread(note.read_text)))


def test_a_group_of_somebody_else_that_has_the_number_by_now_is_left_alone() -> None:
    with subprocess.Popen(["sleep", "600"], process_group=0) as somebody:
        end_left_behind(somebody.pid)
        somebody.terminate()
        # Of two signals the first to arrive says how it ended.
        assert somebody.wait() == -signal.SIGTERM


async def test_an_engine_that_is_killed_is_over_though_a_child_of_it_holds_its_pipes() -> None:
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", "sleep 600 & echo $!; exec 1>&-; sleep 600"),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0,
    )  # fmt: skip
    assert process.stdout is not None
    child = int(await process.stdout.readline())
    engine = EngineProcess("parent", process)
    assert await within(engine.reap()) == "it was killed: it closed its pipe and went on"
    await within(gone(child))
