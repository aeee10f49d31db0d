"""What the engine's process may do to the worker: nothing, however it behaves."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from atelier.engine.v1 import engine_host_pb2 as pb
from atelier_worker.engine import Task
from atelier_worker.engine_client import EngineClient
from atelier_worker.engine_events import EngineUnavailable, TaskEnd
from tests.atelier_worker.conftest import open_gate, pass_gate
from tests.atelier_worker.fake_router import within
from tests.atelier_worker.scripted_engine import ENGINE


@dataclass(slots=True)
class Notes:
    """A sink that notes what it hears."""

    heard: list[tuple[Any, ...]] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)
    anything: asyncio.Event = field(default_factory=asyncio.Event)

    def _note(self, *what: Any) -> None:
        self.heard.append(what)
        self.anything.set()

    def on_progress(self, asset_index: int | None, step: int, steps: int, phase: str) -> None:
        self._note("progress", asset_index, step, steps)

    def on_preview(self, asset_index: int, step: int, content_type: str, image: bytes) -> None:
        self._note("preview", asset_index, step, content_type, len(image))

    def on_text(self, text: str) -> None:
        self._note("text", text)

    def on_finish(self, finish: pb.TaskFinish) -> None:
        self._note("finish", finish.reason)

    def on_log(self, line: str) -> None:
        self._note("log", line)

    def on_warning(self, message: str) -> None:
        self._note("warning", message)

    def on_delivered(self, asset_index: int, path: Path, renditions: Any) -> None:
        self.paths.append(path)
        self._note("delivered", asset_index, path.stat().st_size)

    def on_failed(self, asset_index: int, reason: str, retryable: bool) -> None:
        self._note("failed", asset_index, reason, retryable)


@pytest.fixture
async def engine() -> AsyncIterator[EngineClient]:
    client = EngineClient(ENGINE, {})
    await within(client.start())
    yield client
    await client.stop()


def task(script: str, quantity: int = 1) -> Task:
    return Task(
        stage="generate", format="image", model="m", prompt=script, negative_prompt="", seed=0, quantity=quantity,
        width=8, height=8, steps=1, quality="draft", references=(), frames=0, fps=0, indexes=tuple(range(quantity)),
    )  # fmt: skip


async def ended(engine: EngineClient, folder: Path, script: str, notes: Notes | None = None) -> TaskEnd:
    await asyncio.to_thread(folder.mkdir)
    end: TaskEnd = await within(engine.run(task(script, quantity=2), folder, notes or Notes()))
    return end


async def test_what_an_engine_says_arrives_in_order(engine: EngineClient, tmp_path: Path) -> None:
    notes = Notes()
    script = "progress 0 1 2; preview 0 9; write a\ud800; log line; warn careful; deliver 0 3; fail 1 Refused."
    assert await ended(engine, tmp_path / "t", script.encode("utf-8", "replace").decode(), notes) == TaskEnd("finished")
    assert notes.heard == [
        ("progress", 0, 1, 2),
        ("preview", 0, 1, "image/webp", 9),
        ("text", "a?"),
        ("log", "line"),
        ("warning", "careful"),
        ("delivered", 0, 3),
        ("failed", 1, "Refused.", False),
    ]


async def test_a_sentence_that_cannot_be_encoded_ends_its_task(engine: EngineClient, tmp_path: Path) -> None:
    # The engine has four threads: a thread that such a sentence had ended would be missed by the fifth task.
    for number in range(5):
        assert await ended(engine, tmp_path / str(number), "half odd") == TaskEnd("failed", "odd?")


async def test_a_preview_that_is_too_large_is_dropped_with_a_line(engine: EngineClient, tmp_path: Path) -> None:
    notes = Notes()
    await ended(engine, tmp_path / "t", "preview 0 65537; preview 0 65536", notes)
    assert notes.heard == [
        ("log", "a preview of 65537 bytes was dropped: at most 65536 can be shown"),
        ("preview", 0, 0, "image/webp", 65536),
    ]


async def test_what_an_engine_prints_is_not_taken_for_a_message(
    engine: EngineClient, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    notes = Notes()
    assert await ended(engine, tmp_path / "t", "print loading the weights; write done", notes) == TaskEnd("finished")
    assert notes.heard == [("text", "done")]


async def test_a_crash_fails_only_what_was_running(
    engine: EngineClient, tmp_path: Path, gate: Callable[[str], Path]
) -> None:
    changes: list[bool] = []
    back = asyncio.Event()

    def on_change() -> None:
        changes.append(engine.ready)
        if engine.ready:
            back.set()

    engine.on_change = on_change
    here = gate("here")
    beside = asyncio.create_task(ended(engine, tmp_path / "a", f"wait {here}; hang"))
    await pass_gate(here)
    pid = engine.pid
    crashed = TaskEnd("crashed", "The engine's process died while it worked.", retryable=True)
    assert await ended(engine, tmp_path / "b", "die") == crashed
    assert await within(beside) == crashed
    await within(back.wait())
    assert changes == [False, True]
    assert engine.pid != pid
    assert await ended(engine, tmp_path / "c", "write again") == TaskEnd("finished")


async def test_garbage_ends_the_process_and_not_the_worker(engine: EngineClient, tmp_path: Path) -> None:
    assert (await ended(engine, tmp_path / "a", "garbage")).kind == "crashed"


async def test_an_engine_that_is_down_takes_nothing(engine: EngineClient, tmp_path: Path) -> None:
    await engine.stop()
    with pytest.raises(EngineUnavailable, match="is being started again"):
        await engine.run(task("write a"), tmp_path, Notes())


async def test_an_overdue_task_does_not_cost_its_neighbour(
    engine: EngineClient, tmp_path: Path, gate: Callable[[str], Path]
) -> None:
    here = gate("here")
    hung = Notes()
    stuck = asyncio.create_task(ended(engine, tmp_path / "a", "progress 0 1 1; hang", hung))
    await within(hung.anything.wait())
    neighbour = asyncio.create_task(ended(engine, tmp_path / "b", f"wait {here}; write done"))
    writer = await open_gate(here)
    engine.cancel(hung, grace_s=0.0)
    # The neighbour only ends because nobody killed the process; then nothing keeps the process any more.
    os.write(writer, b"go")
    os.close(writer)
    assert await within(neighbour) == TaskEnd("finished")
    assert await within(stuck) == TaskEnd("cancelled")


async def test_cancelling_the_caller_cancels_the_task(engine: EngineClient, tmp_path: Path) -> None:
    notes = Notes()
    running = asyncio.create_task(ended(engine, tmp_path / "t", f"endless {tmp_path / 'end'}", notes))
    await within(notes.anything.wait())
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    # The four threads of the engine are free again: four tasks that wait for each other can all run.
    gates = [tmp_path / f"gate-{number}" for number in range(4)]
    for path in gates:
        os.mkfifo(path)
    waiting = [asyncio.create_task(ended(engine, tmp_path / f"of-{path.name}", f"wait {path}")) for path in gates]
    for writer in await within(asyncio.gather(*map(open_gate, gates))):
        os.write(writer, b"go")
        os.close(writer)
    assert [end.kind for end in await within(asyncio.gather(*waiting))] == ["finished"] * 4
    assert (tmp_path / "end").read_text() == "Cancelled"


async def test_an_output_is_taken_out_of_the_engines_hands(engine: EngineClient, tmp_path: Path) -> None:
    notes = Notes()
    # Both outputs are written to one path; the first is not overwritten by the second.
    await ended(engine, tmp_path / "t", "deliver 0 3; deliver 1 3", notes)
    assert [path.read_bytes() for path in notes.paths] == [b"\x00\x00\x00", b"\x01\x01\x01"]


@pytest.mark.parametrize("script", ["deliver 0 3; deliver 0 3", "deliver 7 3", "deliver 0 0", "fail 0 a; deliver 0 3"])
async def test_an_impossible_delivery_is_the_engines_fault(engine: EngineClient, tmp_path: Path, script: str) -> None:
    end = await ended(engine, tmp_path / "t", script)
    assert (end.kind, end.message) == (
        "failed",
        "The engine failed with ValueError; the worker's log says where.",
    )


async def test_an_engine_that_cannot_be_made_says_why() -> None:
    engine = EngineClient(ENGINE.replace("Scripted", "Broken"), {})
    with pytest.raises(EngineUnavailable, match="cannot be made: OSError: the weights are missing"):
        await within(engine.start())
    await engine.stop()


async def test_who_is_cancelled_while_an_engine_stops_is_cancelled_when_it_has() -> None:
    engine = EngineClient(ENGINE, {})
    await within(engine.start())
    stopping = asyncio.create_task(engine.stop())
    await asyncio.sleep(0)
    stopping.cancel()
    await within(asyncio.wait({stopping}))
    assert stopping.cancelled()
    assert engine.pid is None


async def test_secrets_do_not_reach_the_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ATELIER_WORKER_KEY", "atl_secret")
    engine = EngineClient(ENGINE, {})
    await within(engine.start())
    try:
        notes = Notes()
        await ended(engine, tmp_path / "t", "environment", notes)
        assert notes.heard
        assert all("ATELIER" not in str(line) and "atl_secret" not in str(line) for line in notes.heard)
    finally:
        await engine.stop()
