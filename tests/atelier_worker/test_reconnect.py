"""What survives the loss of a session, of the router, and of the worker itself."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from atelier.router.v1 import job_pb2
from atelier.worker.v1 import worker_service_pb2 as pb
from atelier_worker import connection
from atelier_worker.journal import Journal
from atelier_worker.spool import Spool
from tests.atelier_worker import scripted_engine
from tests.atelier_worker.conftest import StartWorker, pass_gate
from tests.atelier_worker.fake_router import LIMIT_S, FakeRouter, within
from tests.atelier_worker.leases import lease, ref

Gate = Callable[[str], Path]


async def test_the_engine_works_on_without_a_session(router: FakeRouter, start_worker: StartWorker, gate: Gate) -> None:
    await start_worker()
    first = await router.session()
    here = gate("here")
    await first.say(lease=lease(f"wait {here}; deliver 0 5"))
    await first.expect("lease_ack")
    first.end()
    router.welcome.kept.add().CopyFrom(ref())

    second = await router.session()
    assert list(second.hello.leases) == [ref()]
    assert (second.hello.worker_id, second.hello.instance_id) == (first.hello.worker_id, first.hello.instance_id)
    assert second.token != first.token
    assert (await second.expect("credits")).free == 3
    await pass_gate(here)
    assert (await second.expect("outcome")).outputs.outputs[0].receipt == "receipt-0"


async def test_what_the_welcome_calls_lost_is_stopped(
    router: FakeRouter, start_worker: StartWorker, tmp_path: Path
) -> None:
    await start_worker()
    first = await router.session()
    await first.say(lease=lease(f"endless {tmp_path / 'end'}"))
    await first.report("progress")
    router.welcome.lost.add().CopyFrom(ref())
    first.end()
    second = await router.session()
    while (await second.expect("credits")).free < 4:
        pass
    assert (tmp_path / "end").read_text() == "Cancelled"
    assert "outcome" not in second.kinds()


async def test_an_outcome_is_said_again_until_it_is_answered(router: FakeRouter, start_worker: StartWorker) -> None:
    await start_worker()
    session = await router.session()
    await session.say(lease=lease("deliver 0 5"))
    first = await session.expect("outcome")
    for _ in range(2):
        session.end()
        session = await router.session()
        assert list(session.hello.leases) == [ref()]
        assert await session.expect("outcome") == first
    await session.answer(first, pb.OUTCOME_STATUS_DUPLICATE)
    await session.say(reconnect=pb.Reconnect())
    session = await router.session()
    assert list(session.hello.leases) == []
    assert await session.expect("credits")
    assert "outcome" not in session.kinds()


async def test_an_outcome_that_the_welcome_calls_lost_is_still_offered(
    router: FakeRouter, start_worker: StartWorker
) -> None:
    router.welcome.heartbeat_interval.FromTimedelta(timedelta(milliseconds=20))
    await start_worker()
    first = await router.session()
    await first.say(lease=lease("deliver 0 5"))
    outcome = await first.expect("outcome")
    router.welcome.lost.add().CopyFrom(ref())
    first.end()
    second = await router.session()
    # Perhaps it was recorded, which ends a lease too: only an answer tells.
    assert await second.expect("outcome") == outcome
    assert list((await second.expect("heartbeat")).leases) == []


@pytest.mark.parametrize("status", [pb.OUTCOME_STATUS_RECORDED, pb.OUTCOME_STATUS_STALE])
async def test_an_outcome_survives_the_worker(
    router: FakeRouter, start_worker: StartWorker, tmp_path: Path, status: pb.OutcomeStatus.ValueType
) -> None:
    worker = await start_worker(worker__name="one")
    first = await router.session()
    await first.say(lease=lease("deliver 0 5"))
    outcome = await first.expect("outcome")
    await worker.kill()
    await within(first.closed.wait())

    again = await start_worker(worker__name="one")
    second = await router.session()
    assert second.hello.worker_id == first.hello.worker_id
    assert second.hello.instance_id != first.hello.instance_id
    assert list(second.hello.leases) == [ref()]
    assert await second.expect("outcome") == outcome
    await second.answer(outcome, status)
    await second.say(reconnect=pb.Reconnect())
    assert list((await router.session()).hello.leases) == []
    await again.kill()
    assert Journal(tmp_path / "worker" / "one" / "outcomes").kept() == []


async def test_a_spooled_outcome_that_cannot_be_read_is_put_aside(
    router: FakeRouter, start_worker: StartWorker, tmp_path: Path
) -> None:
    outcomes = tmp_path / "worker" / "one" / "outcomes"
    outcomes.mkdir(parents=True)
    (outcomes / "a.outcome").write_bytes(b"\xff\xff\xff")
    await start_worker(worker__name="one")
    assert list((await router.session()).hello.leases) == []
    assert [file.name for file in outcomes.iterdir()] == ["a.unreadable"]


async def test_a_damaged_journal_on_a_full_disk_is_told_in_one_sentence(
    start_worker: StartWorker, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    outcomes = tmp_path / "worker" / "one" / "outcomes"
    outcomes.mkdir(parents=True)
    Journal(outcomes).change([pb.Outcome(ref=ref(), completion_id=name) for name in "ab"], [])
    content = (outcomes / "journal").read_bytes()
    (outcomes / "journal").write_bytes(b"#" + content[1:])
    (outcomes / "journal.unreadable").symlink_to("/dev/full")
    # The engine is not even tried: it could take minutes, and this one would be the reason that is told.
    worker = await start_worker(worker__name="one", worker__engine=f"{scripted_engine.__name__}:BrokenEngine")
    assert await worker.exit_code() == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith(f"The worker's journal {outcomes / 'journal'} is damaged (")
    assert "No space left on device. Free " in sentence
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_folder_that_cannot_be_made_is_told_in_one_sentence(
    start_worker: StartWorker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "worker").mkdir()
    (tmp_path / "worker" / "one").touch()
    worker = await start_worker(worker__name="one")
    assert await worker.exit_code() == 2
    assert capsys.readouterr().err == (
        f"The worker's folder cannot be used: {tmp_path / 'worker' / 'one'}: File exists. Mend that and start it "
        "again, or choose another folder (worker.spool_dir or ATELIER_WORKER_SPOOL_DIR).\n"
    )


@pytest.mark.parametrize("cut", [0, 1, 50, -1])
async def test_a_torn_outcome_is_put_aside_and_the_others_are_said(
    router: FakeRouter, start_worker: StartWorker, tmp_path: Path, cut: int
) -> None:
    outcomes = tmp_path / "worker" / "one" / "outcomes"
    outcomes.mkdir(parents=True)
    for name in ("torn", "whole"):
        failure = pb.StageFailure(failure=job_pb2.Failure(message="too bad"))
        content = pb.Outcome(ref=ref(), completion_id=name, failure=failure).SerializeToString()
        (outcomes / f"{name}.outcome").write_bytes(content[:cut] if name == "torn" else content)
    (outcomes / ".half.outcome.new").write_bytes(b"its process died")
    await start_worker(worker__name="one")
    session = await router.session()
    assert (await session.expect("outcome")).completion_id == "whole"
    assert sorted(file.name for file in outcomes.iterdir()) == ["torn.unreadable", "whole.outcome"]


async def test_a_full_disk_takes_nothing(
    router: FakeRouter, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = True
    monkeypatch.setattr(Spool, "has_room", lambda spool: room)
    await start_worker()
    session = await router.session()
    assert (await session.expect("credits")).free == 4
    room = False
    await session.say(lease=lease("deliver 0 5"))
    assert (await session.expect("lease_reject")).reason == "the worker's disk is full"
    assert (await session.expect("credits")).free == 0
    room = True

    def no_folder(spool: Spool) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Spool, "new_task_dir", no_folder)
    await session.say(lease=lease("deliver 0 5"))
    reason = (await session.expect("lease_reject")).reason
    assert reason == "the worker's disk cannot be written: No space left on device"


async def test_an_outcome_that_cannot_be_forgotten_does_not_end_the_session(
    router: FakeRouter, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "unlink", fails)
    await start_worker()
    session = await router.session()
    for job in ("one", "two"):
        await session.say(lease=lease("deliver 0 5", job_id=job))
        await session.answer(await session.expect("outcome"))
    assert router.no_session()


async def test_the_next_router_is_tried_when_one_fails(router: FakeRouter, start_worker: StartWorker) -> None:
    other = FakeRouter()
    await other.start()
    try:
        await start_worker(worker__connect=f"{router.target},{other.target}")
        sessions = {asyncio.ensure_future(one.session()): one for one in (router, other)}
        await asyncio.wait(sessions, return_when=asyncio.FIRST_COMPLETED)
        (missed,) = (session for session in sessions if not session.done())
        (met,) = (one for session, one in sessions.items() if session is not missed)
        await met.stop()
        await missed
    finally:
        await other.stop()


async def test_two_workers_of_one_name_do_not_fight_for_ever(
    router: FakeRouter,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(connection, "_AGAIN_AFTER", timedelta(0))
    router.refuse_work = grpc.StatusCode.ABORTED
    worker = await start_worker()
    assert await worker.exit_code() == 4
    assert router.exchanges == 3
    assert "refuses this worker" in capsys.readouterr().err


async def test_a_router_that_asks_for_a_pause_gets_it(
    router: FakeRouter, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection, "_AGAIN_AFTER", timedelta(milliseconds=300))
    router.refuse_work = grpc.StatusCode.RESOURCE_EXHAUSTED
    await start_worker()
    await within(router.exchanged.get())
    # Before it is refused, let alone waits: however late this test looks, the pause is behind it.
    asked = asyncio.get_running_loop().time()
    async with asyncio.timeout(LIMIT_S):
        while "session_refused" not in caplog.text:  # noqa: ASYNC110 - the log tells nobody
            await asyncio.sleep(0.001)
    router.refuse_work = None
    await router.session()
    assert asyncio.get_running_loop().time() - asked > 0.3


async def test_a_text_is_cut_where_the_router_stops_to_read(router: FakeRouter, start_worker: StartWorker) -> None:
    await start_worker()
    session = await router.session()
    await session.say(lease=lease(f"write {'a' * 31_999}; write bcd; write e", enhance=True))
    outcome = await session.expect("outcome")
    assert outcome.text == "a" * 31_999 + "b"
    assert list(outcome.warnings) == ["The engine wrote more than 32000 characters; the rest is cut off."]
    await session.answer(outcome)


async def test_labels_are_said(router: FakeRouter, start_worker: StartWorker) -> None:
    await start_worker(worker__labels=("gpu = a100", "rack=7"))
    assert dict((await router.session()).hello.labels) == {"gpu": "a100", "rack": "7"}


async def test_a_router_that_comes_back_is_found_and_its_absence_is_logged_once(
    router: FakeRouter, start_worker: StartWorker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await start_worker()
    session = await router.session()
    port = int(router.target.rpartition(":")[2])
    await session.expect("credits")
    exchanges = router.exchanges
    await router.stop()
    again = FakeRouter()
    await again.start(port)
    try:
        await again.session()
        # Before this router goes, too, which the worker may well say again.
        absences = [record for record in caplog.records if record.message == "router_unreachable"]
    finally:
        await again.stop()
    assert exchanges == 1
    assert again.exchanges == 1
    assert len(absences) <= 1


async def test_a_router_that_says_that_it_goes_is_not_told_missing_twice(
    router: FakeRouter, start_worker: StartWorker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await start_worker()
    session = await router.session()
    await session.expect("credits")
    router.refuse_work = grpc.StatusCode.UNAVAILABLE
    session.end(grpc.StatusCode.UNAVAILABLE)
    # It has come with its key once more after it was sent away.
    while await within(router.exchanged.get()) < 3:
        pass
    router.refuse_work = None
    await (await router.session()).expect("credits")
    assert len([record for record in caplog.records if record.message == "router_unreachable"]) == 1


async def test_a_session_that_begins_without_a_welcome_is_left(router: FakeRouter, start_worker: StartWorker) -> None:
    await start_worker()
    session = await router.session()
    await session.expect("credits")
    session.end(None)
    await router.session()


async def test_a_wrong_key_ends_the_worker_with_a_sentence(
    router: FakeRouter, start_worker: StartWorker, capsys: pytest.CaptureFixture[str]
) -> None:
    worker = await start_worker(worker__key="atl_0123456789abcdef_wrong")
    assert await worker.exit_code() == 4
    said = capsys.readouterr().err
    assert said.startswith(f"The router at {router.target} does not know the worker's key. Name the file of a key")
    assert "atelier keys create --kind worker" in said


async def test_a_refused_worker_type_ends_the_worker(
    router: FakeRouter, start_worker: StartWorker, capsys: pytest.CaptureFixture[str]
) -> None:
    router.refuse_work = grpc.StatusCode.PERMISSION_DENIED
    worker = await start_worker()
    assert await worker.exit_code() == 4
    assert f"The router at {router.target} refuses this worker: " in capsys.readouterr().err


async def test_a_token_that_is_refused_is_exchanged_again(router: FakeRouter, start_worker: StartWorker) -> None:
    worker = await start_worker()
    session = await router.session()
    session.end(grpc.StatusCode.UNAUTHENTICATED)
    assert (await router.session()).token == "Bearer token-2"
    assert not worker.task.done()


def test_no_other_user_sees_what_a_worker_makes(tmp_path: Path) -> None:
    folder = tmp_path / "worker" / "one"
    spool = Spool(folder)
    spool.open()
    assert [made.stat().st_mode & 0o777 for made in (folder, folder / "tasks")] == [0o700, 0o700]
    spool.close()
