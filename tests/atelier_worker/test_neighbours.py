"""Memory between engines: who needs room has the others free what they keep, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from atelier_worker.engine import LoadedModel
from atelier_worker.engine_client import EngineClient
from atelier_worker.neighbours import Neighbours
from tests.atelier_worker.conftest import open_gate
from tests.atelier_worker.fake_router import within
from tests.atelier_worker.keeping_engine import DEVICE, ENGINE
from tests.atelier_worker.test_engine_process import Notes, task

Start = Callable[..., Awaitable[EngineClient]]


@pytest.fixture
def neighbours() -> Neighbours:
    return Neighbours(give_limit_s=1.0)


@pytest.fixture
async def start(neighbours: Neighbours) -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def begin(name: str, **options: object) -> EngineClient:
            engine = EngineClient(ENGINE, {"name": name, **options})
            neighbours.join(engine)
            stack.push_async_callback(engine.stop)
            await within(engine.start())
            return engine

        yield begin


async def do(engine: EngineClient, folder: Path, script: str) -> str:
    """Run a script and return what room was made, as the engine delivers it."""
    await asyncio.to_thread(folder.mkdir, parents=True)
    notes = Notes()
    end = await within(engine.run(task(script), folder, notes))
    assert end.kind == "finished", end
    return notes.paths[0].read_text()


async def test_room_is_made_by_who_was_idle_longest_and_no_more_than_needed(start: Start, tmp_path: Path) -> None:
    first, second, asking = [await start(name) for name in ("first", "second", "asking")]
    await do(first, tmp_path / "1", "load a 100")
    await do(second, tmp_path / "2", "load b 100")
    assert await do(asking, tmp_path / "3", "need 60") == "100"
    assert (first.loaded, second.loaded) == ((), (LoadedModel("b", DEVICE, 100),))
    assert await do(asking, tmp_path / "4", "need 500") == "100"
    assert second.loaded == ()
    assert await do(asking, tmp_path / "5", "need 500") == "0"


async def test_the_order_follows_the_last_work(start: Start, tmp_path: Path) -> None:
    first, second, asking = [await start(name) for name in ("first", "second", "asking")]
    await do(second, tmp_path / "1", "load b 100")
    await do(first, tmp_path / "2", "load a 100")
    await do(asking, tmp_path / "3", "need 60")
    assert (len(first.loaded), len(second.loaded)) == (1, 0)


async def test_who_works_is_asked_last(start: Start, tmp_path: Path) -> None:
    busy, idle, asking = [await start(name) for name in ("busy", "idle", "asking")]
    await do(busy, tmp_path / "1", "load a 100")
    await do(idle, tmp_path / "2", "load b 100")
    gate = tmp_path / "gate"
    await asyncio.to_thread(os.mkfifo, gate)
    working = asyncio.create_task(do(busy, tmp_path / "3", f"wait {gate}"))
    writer = await open_gate(gate)
    assert await do(asking, tmp_path / "4", "need 100") == "100"
    assert (len(busy.loaded), len(idle.loaded)) == (1, 0)
    os.close(writer)
    await working


async def test_an_engine_that_hangs_or_dies_has_freed_nothing(start: Start, tmp_path: Path) -> None:
    hanging = await start("hanging", gives="never")
    dying = await start("dying", dies_when_asked=True)
    willing, asking = await start("willing"), await start("asking")
    for engine in (hanging, dying, willing):
        await do(engine, tmp_path / str(id(engine)), "load a 100")
    assert await do(asking, tmp_path / "need", "need 1000") == "100"
    assert hanging.ready


async def test_two_that_ask_each_other_at_once_both_go_on(start: Start, tmp_path: Path) -> None:
    one, two = await start("one"), await start("two")
    await do(one, tmp_path / "1", "load a 100")
    await do(two, tmp_path / "2", "load b 100")
    asked = asyncio.gather(do(one, tmp_path / "3", "need_locked 100"), do(two, tmp_path / "4", "need_locked 100"))
    # Each holds the lock that the other's answer waits for. Whoever is let go first may still give in time.
    assert set(await within(asked)) <= {"0", "100"}


async def test_an_engine_without_neighbours_is_given_nothing(start: Start, tmp_path: Path) -> None:
    assert await do(await start("alone"), tmp_path / "1", "load a 5; need 100") == "0"


async def test_a_task_that_waits_for_room_can_be_cancelled(start: Start, tmp_path: Path) -> None:
    hanging, asking = await start("hanging", gives="never"), await start("asking")
    await do(hanging, tmp_path / "1", "load a 100")
    asked = asyncio.Event()

    async def never(device: str, wanted_bytes: int) -> int:
        asked.set()
        await asyncio.Event().wait()
        return 0

    asking.on_need_room = never
    notes = Notes()
    waiting = asyncio.create_task(asking.run(task("need 5"), tmp_path, notes))
    await within(asked.wait())
    asking.cancel(notes)
    assert (await within(waiting)).kind == "cancelled"


async def test_what_a_dead_process_held_is_no_longer_told(start: Start, tmp_path: Path) -> None:
    engine = await start("one")
    await do(engine, tmp_path / "1", "load a 100")
    assert engine.loaded == (LoadedModel("a", DEVICE, 100),)
    await within(engine.run(task("die"), tmp_path, Notes()))
    assert len(engine.loaded) == 0
