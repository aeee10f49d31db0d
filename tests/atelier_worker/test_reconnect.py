"""What survives the loss of a session, of the router, and of the worker itself."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from atelier.worker.v1 import worker_service_pb2 as pb
from tests.atelier_worker.conftest import StartWorker, files, pass_gate
from tests.atelier_worker.fake_router import FakeRouter, within
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
    worker = await start_worker()
    first = await router.session()
    await first.say(lease=lease("deliver 0 5"))
    outcome = await first.expect("outcome")
    await worker.kill()
    await within(first.closed.wait())

    await start_worker()
    second = await router.session()
    assert second.hello.worker_id == first.hello.worker_id
    assert second.hello.instance_id != first.hello.instance_id
    assert list(second.hello.leases) == [ref()]
    assert await second.expect("outcome") == outcome
    await second.answer(outcome, status)
    await second.say(reconnect=pb.Reconnect())
    assert list((await router.session()).hello.leases) == []
    assert files(tmp_path, "worker/*/outcomes/*") == []


async def test_a_spooled_outcome_that_cannot_be_read_is_put_aside(
    router: FakeRouter, start_worker: StartWorker, tmp_path: Path
) -> None:
    outcomes = tmp_path / "worker" / "one" / "outcomes"
    outcomes.mkdir(parents=True)
    (outcomes / "a.outcome").write_bytes(b"\xff\xff\xff")
    await start_worker(worker__name="one")
    assert list((await router.session()).hello.leases) == []
    assert [file.name for file in outcomes.iterdir()] == ["a.unreadable"]


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
    finally:
        await again.stop()
    assert exchanges == 1
    assert again.exchanges == 1
    assert len([record for record in caplog.records if record.message == "router_unreachable"]) <= 1


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
    assert capsys.readouterr().err == f"The router at {router.target} does not know the worker's key.\n"


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
