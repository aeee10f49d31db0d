"""How a worker goes: what runs may end, the rest is handed back, and a real process obeys SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from atelier_worker import connection
from tests.atelier_worker.conftest import StartWorker, files, open_gate, pass_gate
from tests.atelier_worker.fake_router import KEY, LIMIT_S, FakeRouter, within
from tests.atelier_worker.leases import lease, ref
from tests.atelier_worker.scripted_engine import ENGINE

Gate = Callable[[str], Path]


async def test_a_draining_worker_finishes_what_it_holds(
    router: FakeRouter, start_worker: StartWorker, gate: Gate
) -> None:
    worker = await start_worker()
    session = await router.session()
    here = gate("here")
    await session.say(lease=lease(f"wait {here}; deliver 0 5"))
    await session.expect("lease_ack")
    worker.drain()
    await session.expect("drain")
    assert (await session.expect("credits")).free == 0
    await session.say(lease=lease("deliver 0 5", job_id="another"))
    assert (await session.expect("lease_reject")).reason == "the worker is going down"
    await pass_gate(here)
    outcome = await session.expect("outcome")
    assert not worker.task.done()
    await session.answer(outcome)
    assert await worker.exit_code() == 0
    await within(session.closed.wait())


async def test_what_does_not_end_in_time_is_handed_back(
    router: FakeRouter, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = await start_worker(drain_grace=timedelta(0))
    session = await router.session()
    await session.say(lease=lease(f"endless {tmp_path / 'end'}"))
    await session.report("progress")
    worker.drain()
    reject = await session.expect("lease_reject")
    assert (reject.ref.fence, reject.reason) == (1, "the worker goes down before it has finished")
    assert await worker.exit_code() == 0
    assert (tmp_path / "end").read_text() == "Cancelled"


async def test_what_hangs_is_handed_back_too(router: FakeRouter, start_worker: StartWorker) -> None:
    worker = await start_worker(drain_grace=timedelta(0))
    session = await router.session()
    await session.say(lease=lease("progress 0 1 2; hang"))
    await session.report("progress")
    worker.drain()
    reject = await session.expect("lease_reject")
    assert reject.reason == "the worker goes down before it has finished"
    assert await worker.exit_code() == 0


async def test_what_could_not_be_handed_back_is_named_and_handed_back_later(
    router: FakeRouter, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = await start_worker(drain_grace=timedelta(0))
    session = await router.session()
    await session.say(lease=lease(f"endless {tmp_path / 'end'}"))
    await session.report("progress")
    router.refuse_work = grpc.StatusCode.UNAVAILABLE
    session.end()
    await within(session.closed.wait())
    worker.drain()
    async with asyncio.timeout(LIMIT_S):
        while not (tmp_path / "end").exists():  # noqa: ASYNC110 - the engine's process tells nobody
            await asyncio.sleep(0.005)
    router.refuse_work = None
    later = await router.session()
    assert list(later.hello.leases) == [ref()]
    assert (await later.expect("lease_reject")).ref == ref()
    assert await worker.exit_code() == 0


async def test_a_worker_that_goes_down_does_not_sit_out_a_long_pause_with_what_it_has_to_hand_back(
    router: FakeRouter, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_FIRST_PAUSE_S", 3600.0)
    monkeypatch.setattr(connection, "_LONGEST_PAUSE_S", 3600.0)
    worker = await start_worker(drain_grace=timedelta(0))
    session = await router.session()
    await session.say(lease=lease("progress 0 1 2; hang"))
    await session.report("progress")
    session.end()
    await within(session.closed.wait())
    worker.drain()
    later = await router.session()
    assert (await later.expect("lease_reject")).ref == ref()
    assert await worker.exit_code() == 0


async def test_a_worker_without_a_session_can_go(router: FakeRouter, start_worker: StartWorker) -> None:
    worker = await start_worker()
    session = await router.session()
    await session.expect("credits")
    await router.stop()
    worker.drain()
    assert await worker.exit_code() == 0


async def spawn(router: FakeRouter, data_dir: Path, **environ: str) -> asyncio.subprocess.Process:
    """Start a worker as its own process, as `atelier up` does."""
    given = {
        "ATELIER_DATA_DIR": str(data_dir),
        "ATELIER_WORKER_CONNECT": router.target,
        "ATELIER_WORKER_KEY": KEY,
        "ATELIER_WORKER_ENGINE": ENGINE,
        "ATELIER_LOG_LEVEL": "warning",
    }
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "atelier_worker",
        env={**os.environ, **given, **environ},
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_to_the_group_drains_the_process(
    router: FakeRouter, tmp_path: Path, number: int, gate: Gate
) -> None:
    process = await spawn(router, tmp_path)
    session = await router.session()
    here = gate("here")
    await session.say(lease=lease(f"wait {here}; deliver 0 5"))
    await session.expect("lease_ack")
    os.killpg(process.pid, number)
    await session.expect("drain")
    await pass_gate(here)
    await session.answer(await session.expect("outcome"))
    _, errors = await within(process.communicate())
    assert (process.returncode, errors) == (0, b"")


async def test_a_killed_worker_takes_its_engine_along(router: FakeRouter, tmp_path: Path, gate: Gate) -> None:
    process = await spawn(router, tmp_path)
    session = await router.session()
    # The engine holds this pipe open for reading until its process ends.
    held = gate("held")
    await session.say(lease=lease(f"hold {held}; progress 0 1 2; hang"))
    writer = await open_gate(held)
    await session.report("progress")
    process.kill()
    await within(process.communicate())
    with pytest.raises(BrokenPipeError):
        await within(_write_until_broken(writer))
    os.close(writer)


async def _write_until_broken(writer: int) -> None:
    while True:
        with contextlib.suppress(BlockingIOError):
            os.write(writer, b"x")
        await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("point", "script"),
    [
        ("worker.lease.acked", "hang"),
        ("worker.engine.delivered", "deliver 0 5"),
        ("worker.upload.finished", "deliver 0 5"),
        ("worker.outcome.spooled", "deliver 0 5"),
        ("worker.outcome.sent", "deliver 0 5"),
    ],
)
async def test_killed_between_any_two_steps(router: FakeRouter, tmp_path: Path, point: str, script: str) -> None:
    process = await spawn(router, tmp_path, ATELIER_CRASH_POINT=point)
    session = await router.session()
    await session.say(lease=lease(script))
    assert await within(process.wait()) == -signal.SIGKILL
    await within(session.closed.wait())

    again = await spawn(router, tmp_path)
    second = await router.session()
    kept = point in ("worker.outcome.spooled", "worker.outcome.sent")
    assert list(second.hello.leases) == ([ref()] if kept else [])
    if kept:
        outcome = await second.expect("outcome")
        assert outcome.outputs.outputs[0].receipt == "receipt-0"
        await second.answer(outcome)
    assert files(tmp_path, "worker/*/tasks/*") == []
    again.terminate()
    assert await within(again.wait()) == 0


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"ATELIER_WORKER_KEY": ""}, "There is no worker key: "),
        ({"ATELIER_WORKER_SLOTS": "0"}, "worker.slots must be 1 or more, got 0."),
        ({"ATELIER_WORKER_CONNECT": "http://127.0.0.1:7400"}, "worker.connect must be the router's host:port"),
        ({"ATELIER_WORKER_CONNECT": "router"}, "worker.connect must be the router's host:port"),
        ({"ATELIER_WORKER_CONNECT": "router:7401,"}, "worker.connect must be the router's host:port"),
        ({"ATELIER_WORKER_LABELS": "gpu"}, "worker.labels takes name=value of at most 100 characters, got 'gpu'."),
        ({"ATELIER_WORKER_NAME": "a/b"}, "worker.name (or ATELIER_WORKER_NAME) cannot be 'a/b'"),
        ({"ATELIER_WORKER_ENGINE": "skech"}, "There is no engine 'skech'. Installed: "),
        ({"ATELIER_WORKER_ENGINE": ENGINE.replace("Scripted", "Broken")}, "the weights are missing"),
        ({"ATELIER_WORKER_ENGIN": "x"}, "There is no setting ATELIER_WORKER_ENGIN. Did you mean"),
        ({"ATELIER_CRASH_POINT": "a:0"}, "a crash point's count starts at 1"),
    ],
)
async def test_what_cannot_be_used_is_said_in_a_sentence(
    router: FakeRouter, tmp_path: Path, environ: dict[str, str], sentence: str
) -> None:
    process = await spawn(router, tmp_path, **environ)
    _, errors = await within(process.communicate())
    assert process.returncode == 2
    assert sentence in errors.decode()
    assert KEY not in errors.decode()


async def test_two_workers_of_one_name_do_not_run_on_one_folder(router: FakeRouter, start_worker: StartWorker) -> None:
    await start_worker(worker__name="one")
    await router.session()
    second = await start_worker(worker__name="one")
    assert await second.exit_code() == 2


async def test_workers_without_a_name_find_a_folder_each(router: FakeRouter, start_worker: StartWorker) -> None:
    await start_worker()
    first = await router.session()
    await start_worker()
    second = await router.session()
    assert first.hello.worker_id != second.hello.worker_id
