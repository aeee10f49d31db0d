"""Several engines in one process: each is a worker of its own, and what becomes of one is no matter of the others."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from atelier_worker import engine_tasks, member
from tests.atelier_worker import keeping_engine
from tests.atelier_worker.conftest import pass_gate
from tests.atelier_worker.fake_router import LIMIT_S, FakeRouter, within
from tests.atelier_worker.leases import lease
from tests.atelier_worker.scripted_engine import ENGINE, ScriptedEngine
from tests.atelier_worker.several import Several, start_several, write_file

TWO = f"""
[[engine]]
name = "one"
engine = "{ENGINE}"
slots = 2
labels = {{ gpu = "4090" }}
[[engine]]
name = "two"
engine = "{ENGINE}"
"""
BROKEN = f"""
[[engine]]
name = "broken"
engine = "{ENGINE.replace("Scripted", "Broken")}"
"""
KEEPING = f"""
[[engine]]
name = "pictures"
engine = "{keeping_engine.ENGINE}"
[[engine]]
name = "videos"
engine = "{keeping_engine.ENGINE}"
"""

Gate = Callable[[str], Path]
Start = Callable[..., Several]


@pytest.fixture
async def start(tmp_path: Path, router: FakeRouter) -> AsyncIterator[Start]:
    started: list[Several] = []

    def begin(engines: str, **worker: Any) -> Several:
        started.append(start_several(tmp_path, router, engines, **worker))
        return started[-1]

    yield begin
    for one in started:
        one.task.cancel()
        await asyncio.gather(one.task, return_exceptions=True)


async def test_each_engine_is_a_worker_of_its_own(start: Start, tmp_path: Path) -> None:
    workers = start(TWO + KEEPING)
    one = (await workers.session("attic-one")).hello
    two = (await workers.session("attic-two")).hello
    pictures = (await workers.session("attic-pictures")).hello
    assert (one.slots, two.slots, dict(one.labels), dict(two.labels)) == (2, 4, {"gpu": "4090"}, {})
    assert (list(pictures.worker_types), list(pictures.models)) == (["sdxl"], ["pictures-model"])
    assert {"attic-one", "attic-two"} <= {folder.name for folder in (tmp_path / "worker").iterdir()}


async def test_an_engines_crash_takes_no_other_engines_job_with_it(start: Start, gate: Gate) -> None:
    workers, here = start(TWO), gate("here")
    one, two = await workers.session("attic-one"), await workers.session("attic-two")
    await two.say(lease=lease(f"wait {here}; deliver 0 5", job_id="beside"))
    await two.expect("lease_ack")
    await one.say(lease=lease("die"))
    failed = await one.expect("outcome")
    assert failed.failure.retryable
    assert failed.failure.failure.message == "The engine's process died while it worked."
    await one.answer(failed)
    while (await one.expect("credits")).free == 0:
        pass
    await one.say(lease=lease("deliver 0 5", job_id="again"))
    assert (await one.expect("outcome")).outputs.outputs[0].receipt
    await pass_gate(here)
    assert (await two.expect("outcome")).outputs.outputs[0].receipt
    assert not two.closed.is_set()


async def test_an_engine_that_cannot_be_used_leaves_the_others_at_work(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    workers, errors = start(BROKEN + TWO), ""
    sentence = f"broken: The engine '{ENGINE.replace('Scripted', 'Broken')}' cannot be made: "
    async with asyncio.timeout(LIMIT_S):
        while f"{sentence}OSError: the weights are missing.\n" not in errors:
            errors += capsys.readouterr().err
            await asyncio.sleep(0.005)
    two = await workers.session("attic-two")
    await two.say(lease=lease("deliver 0 5"))
    await two.answer(await two.expect("outcome"))
    workers.stop.set()
    assert await workers.exit_code() == 0


async def test_an_unknown_key_is_refused_by_the_engine_by_name(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await start('[[engine]]\nname = "pictures"\nengine = "sketch"\nstep_dely = "0s"\n').exit_code() == 2
    assert capsys.readouterr().err.endswith("[[engine]] pictures: step_dely is not known. Did you mean step_delay?\n")


async def test_the_process_ends_when_no_engine_can_be_used(start: Start) -> None:
    assert await start(BROKEN + BROKEN.replace('"broken"', '"other"')).exit_code() == 2


class LateEngine(ScriptedEngine):
    """Can be made as soon as a file is there, as weights on a disk that comes late."""

    name = "late"

    def __init__(self, options: dict[str, str]) -> None:
        if not Path(options["weights"]).exists():
            raise OSError("the weights are missing")


async def test_an_engine_that_could_not_be_used_is_tried_again(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member, "AGAIN_AFTER_S", 0.05)
    late = f'[[engine]]\nname = "late"\nengine = "{__name__}:LateEngine"\nweights = "{tmp_path / "weights"}"\n'
    workers = start(TWO + late)
    await workers.session("attic-one")
    (tmp_path / "weights").touch()
    assert (await workers.session("attic-late")).hello.worker_id == "attic-late"


async def test_a_fault_of_one_worker_leaves_the_others_at_work(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    introduce = member.Member._introduce

    def break_one(self: member.Member, spool: Any, info: Any) -> Any:
        if self.plan.name == "one":
            raise RuntimeError("a fault")
        return introduce(self, spool, info)

    monkeypatch.setattr(member.Member, "_introduce", break_one)
    workers = start(TWO)
    two = await workers.session("attic-two")
    await two.say(lease=lease("deliver 0 5"))
    assert (await two.expect("outcome")).outputs.outputs[0].receipt
    async with asyncio.timeout(LIMIT_S):
        while "worker_fault" not in caplog.text:  # noqa: ASYNC110 - the log tells nobody
            await asyncio.sleep(0.001)


async def test_the_process_ends_when_every_worker_has_a_fault(
    start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("a fault")

    monkeypatch.setattr(member.Member, "_introduce", broken)
    assert await start(TWO).exit_code() == 70
    assert "one: A fault in the worker ended it; its log says where.\n" in capsys.readouterr().err


async def test_the_process_ends_when_every_worker_is_refused(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.key").write_text("atl_0123456789abcdef_wrong")
    assert await start(TWO + BROKEN, key_file="other.key").exit_code() == 4
    errors = capsys.readouterr().err
    assert "one: The router at " in errors
    assert "two: The router at " in errors


async def test_room_is_made_between_the_engines_of_a_process(start: Start, router: FakeRouter) -> None:
    workers = start(KEEPING)
    pictures, videos = await workers.session("attic-pictures"), await workers.session("attic-videos")
    await pictures.say(lease=lease("load base 700"))
    await pictures.answer(await pictures.expect("outcome"))
    await videos.say(lease=lease("need 500", job_id="film"))
    outcome = await videos.expect("outcome")
    assert outcome.outputs.outputs[0].receipt
    # Both outputs have the index 0: what room was made is the latter.
    assert sorted(bytes(content) for content in router.assets.bytes.values()) == [b"700", b"none"]


async def test_what_one_engine_was_promised_counts_in_the_others_process(start: Start, router: FakeRouter) -> None:
    workers = start(KEEPING)
    pictures, videos = await workers.session("attic-pictures"), await workers.session("attic-videos")
    await pictures.say(lease=lease(f"promise {3 << 20}"))
    await pictures.answer(await pictures.expect("outcome"))
    await videos.say(lease=lease("promise 0", job_id="film"))
    await videos.answer(await videos.expect("outcome"))
    assert sorted(bytes(content) for content in router.assets.bytes.values()) == [b"0", str(3 << 20).encode()]


async def test_a_job_on_an_engine_that_hangs_fails_with_a_sentence_and_the_worker_lives(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_tasks, "DEFAULT_CANCEL_GRACE_S", 0.05)
    workers = start(f'[[engine]]\nname = "one"\nengine = "{ENGINE}"\nstall_limit = "1s"\n')
    one = await workers.session("attic-one")
    await one.say(lease=lease("progress 0 1 9; hang"))
    failed = await one.expect("outcome")
    assert failed.failure.failure.message == "The engine made no progress for 1 seconds; it was stopped."
    assert failed.failure.retryable
    await one.answer(failed)
    while (await one.expect("credits")).free == 0:
        pass
    await one.say(lease=lease("deliver 0 5", job_id="again"))
    assert (await one.expect("outcome")).outputs.outputs[0].receipt


async def test_a_stop_does_not_wait_for_an_engine_that_is_being_made(start: Start, gate: Gate) -> None:
    here = gate("here")
    workers = start(f'[[engine]]\nengine = "{__name__}:SlowEngine"\ngate = "{here}"\n')
    async with asyncio.timeout(LIMIT_S):
        while not (here.parent / "making").exists():  # noqa: ASYNC110 - the engine's process tells nobody
            await asyncio.sleep(0.005)
    workers.stop.set()
    assert await workers.exit_code() == 0


class SlowEngine:
    """Is never done with being made."""

    def __init__(self, options: dict[str, str]) -> None:
        gate = Path(options["gate"])
        (gate.parent / "making").touch()
        gate.read_text()


async def spawn(tmp_path: Path, router: FakeRouter, engines: str, **worker: Any) -> asyncio.subprocess.Process:
    file = write_file(tmp_path, router, engines, **worker)
    return await spawn_command(tmp_path, "atelier_worker", "--config", str(file))


async def spawn_command(tmp_path: Path, *command: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", *command,
        env={**os.environ, "ATELIER_DATA_DIR": str(tmp_path / "data"), "ATELIER_LOG_LEVEL": "warning"},
        stderr=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


async def test_a_signal_drains_every_engine(router: FakeRouter, tmp_path: Path, gate: Gate) -> None:
    process = await spawn(tmp_path, router, TWO)
    sessions = {gate(name): await router.session() for name in ("first", "second")}
    for here, session in sessions.items():
        await session.say(lease=lease(f"wait {here}; deliver 0 5", job_id=here.name))
        await session.expect("lease_ack")
    os.killpg(process.pid, signal.SIGTERM)
    for here, session in sessions.items():
        await session.expect("drain")
        await pass_gate(here)
        await session.answer(await session.expect("outcome"))
    _, errors = await within(process.communicate())
    assert (process.returncode, errors) == (0, b"")


async def test_what_does_not_end_within_the_grace_is_handed_back_by_every_engine(
    router: FakeRouter, tmp_path: Path
) -> None:
    process = await spawn(tmp_path, router, TWO, drain_grace="1ms")
    sessions = [await router.session(), await router.session()]
    for number, session in enumerate(sessions):
        await session.say(lease=lease(f"endless {tmp_path / f'end-{number}'}", job_id=f"job-{number}"))
        await session.report("progress")
    process.terminate()
    for session in sessions:
        assert (await session.expect("lease_reject")).reason == "the worker goes down before it has finished"
    assert await within(process.wait()) == 0


async def test_a_second_signal_ends_everything_at_once(router: FakeRouter, tmp_path: Path) -> None:
    process = await spawn(tmp_path, router, TWO, drain_grace="1h")
    session = await router.session()
    await session.say(lease=lease("progress 0 1 2; hang"))
    await session.report("progress")
    process.terminate()
    await session.expect("drain")
    process.terminate()
    assert await within(process.wait()) == 128 + signal.SIGTERM


async def test_a_file_that_cannot_be_used_ends_the_process_with_a_sentence(router: FakeRouter, tmp_path: Path) -> None:
    process = await spawn(tmp_path, router, TWO, stats="x")
    _, errors = await within(process.communicate())
    assert process.returncode == 2
    assert errors == b"worker.toml, [worker]: stats is not known. Did you mean status?\n"


async def test_the_command_runs_the_workers_of_a_file(router: FakeRouter, tmp_path: Path) -> None:
    file = write_file(tmp_path, router, TWO)
    process = await spawn_command(tmp_path, "atelier_cli", "worker", "--config", str(file))
    names = {(await router.session()).hello.worker_id for _ in range(2)}
    assert names == {"attic-one", "attic-two"}
    process.terminate()
    _, errors = await within(process.communicate())
    assert (process.returncode, errors) == (0, b"")


async def test_a_flag_whose_place_is_in_the_file_is_refused(router: FakeRouter, tmp_path: Path) -> None:
    file = write_file(tmp_path, router, TWO)
    process = await spawn_command(tmp_path, "atelier_cli", "worker", "--config", str(file), "--slots", "3")
    _, errors = await within(process.communicate())
    assert (process.returncode, errors) == (2, b"atelier: --slots does not go with worker.toml: write it there.\n")
