"""What a worker says on its stream, and in which order."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

import atelier_worker.session
from atelier.type.v1 import generation_pb2
from atelier.worker.v1 import worker_service_pb2 as pb
from atelier.worker.v1.worker_service_pb2_grpc import WorkerServiceStub
from atelier_worker.dial import dial
from atelier_worker.outbox import Outbox
from tests.atelier_worker.conftest import StartWorker, files, pass_gate
from tests.atelier_worker.fake_router import LIMIT_S, FakeRouter, within
from tests.atelier_worker.leases import lease, ref

OTHER_JOB = "0197a000-0000-7000-8000-000000000002"
TIMES = 300
Gate = Callable[[str], Path]


async def test_one_stage_from_hello_to_its_outcome(router: FakeRouter, start_worker: StartWorker) -> None:
    worker = await start_worker()
    session = await router.session()
    assert session.hello.worker_types == ["chat", "sdxl"]
    assert session.hello.slots == 4
    assert (await session.expect("credits")).free == 4

    await session.say(
        lease=lease("progress 0 1 2; deliver 0 10; deliver 1 2000000; warn paler; warn paler", quantity=2)
    )
    outcome = await session.expect("outcome")
    await session.answer(outcome)

    # What is free now may be said before the outcome or after it.
    assert session.kinds()[:2] == ["credits", "lease_ack"]
    assert outcome.ref == ref()
    assert [(entry.asset_index, entry.receipt) for entry in outcome.outputs.outputs] == [
        (0, "receipt-0"),
        (1, "receipt-1"),
    ]
    assert (outcome.engine, list(outcome.warnings)) == ("scripted", ["paler"])
    assert router.assets.content(0) == b"\x00" * 10
    assert router.assets.content(1) == b"\x01" * 2_000_000
    assert router.assets.tokens == {"lease-token"}
    worker.drain()
    assert await worker.exit_code() == 0


async def test_credits_are_absolute_and_follow_the_engine(
    router: FakeRouter, start_worker: StartWorker, gate: Gate
) -> None:
    await start_worker(worker__slots=2)
    session = await router.session()
    assert (await session.expect("credits")).free == 2
    first, second = gate("first"), gate("second")
    await session.say(lease=lease(f"wait {first}; deliver 0 5"))
    assert (await session.expect("credits")).free == 1
    await session.say(lease=lease(f"wait {second}; deliver 0 5", job_id=OTHER_JOB))
    assert (await session.expect("credits")).free == 0
    await pass_gate(first)
    assert (await session.expect("credits")).free == 1
    await pass_gate(second)
    assert (await session.expect("credits")).free == 2


async def test_a_lease_without_a_free_slot_is_handed_back(
    router: FakeRouter, start_worker: StartWorker, gate: Gate
) -> None:
    await start_worker(worker__slots=1)
    session = await router.session()
    await session.say(lease=lease(f"wait {gate('never')}"))
    await session.expect("lease_ack")
    await session.say(lease=lease("deliver 0 5", job_id=OTHER_JOB))
    rejected = await session.expect("lease_reject")
    assert (rejected.ref, rejected.reason) == (ref(OTHER_JOB), "no slot is free")
    # The router counted the lease against the credits it knew; it has to be told anew.
    assert (await session.expect("credits")).free == 0


async def test_a_lease_sent_twice_is_run_once(router: FakeRouter, start_worker: StartWorker, gate: Gate) -> None:
    await start_worker()
    session = await router.session()
    here = gate("here")
    again = lease(f"progress 0 1 1; wait {here}; deliver 0 5")
    await session.say(lease=again)
    await session.expect("lease_ack")
    await session.say(lease=again)
    await session.expect("lease_ack")
    await pass_gate(here)
    outcome = await session.expect("outcome")
    await session.say(lease=again)
    await session.expect("lease_ack")
    await session.answer(outcome)
    assert router.assets.finished == [(0, [])]


async def test_heartbeats_name_exactly_what_is_held(router: FakeRouter, start_worker: StartWorker, gate: Gate) -> None:
    router.welcome.heartbeat_interval.FromTimedelta(timedelta(milliseconds=20))
    await start_worker()
    session = await router.session()
    assert list((await session.expect("heartbeat")).leases) == []
    here = gate("here")
    await session.say(lease=lease(f"wait {here}; deliver 0 5"))
    await session.expect("lease_ack")
    assert list((await session.expect("heartbeat")).leases) == [ref()]
    await pass_gate(here)
    outcome = await session.expect("outcome")
    # An outcome that nobody has answered is still a lease to renew.
    assert list((await session.expect("heartbeat")).leases) == [ref()]
    await session.answer(outcome)
    while list((await session.expect("heartbeat")).leases):
        pass


async def test_heartbeats_say_what_the_engine_keeps_in_memory(router: FakeRouter, start_worker: StartWorker) -> None:
    router.welcome.heartbeat_interval.FromTimedelta(timedelta(milliseconds=20))
    await start_worker()
    session = await router.session()
    assert list((await session.expect("heartbeat")).loaded) == []
    await session.say(lease=lease(f"keep {'n' * 300} 7; keep wan 0; deliver 0 5"))
    await session.answer(await session.expect("outcome"))
    while not (loaded := (await session.expect("heartbeat")).loaded):
        pass
    # No longer than the router takes: it would end the session.
    assert [(model.name, model.device, model.size_bytes) for model in loaded] == [
        ("n" * 200, "cpu", 7),
        ("wan", "cpu", 0),
    ]


async def test_what_steers_a_generation_reaches_the_engine(router: FakeRouter, start_worker: StartWorker) -> None:
    await start_worker()
    session = await router.session()
    assert session.hello.takes_steering
    loras = [generation_pb2.Lora(name="ink", weight=-0.5)]
    for given, said in (
        (generation_pb2.GenerationSettings(), "None '' [] []"),
        (
            generation_pb2.GenerationSettings(guidance=0, scheduler="euler", loras=loras),
            "0.0 'euler' ['ink:-0.5'] []",
        ),
    ):
        sent = lease("steered; deliver 0 5")
        sent.spec.settings.MergeFrom(given)
        await session.say(lease=sent)
        outcome = await session.expect("outcome")
        assert list(outcome.warnings) == [said]
        await session.answer(outcome)


async def test_what_the_router_warns_of_is_logged(
    router: FakeRouter, start_worker: StartWorker, caplog: pytest.LogCaptureFixture
) -> None:
    router.welcome.warnings.append("No job reaches the model flux of this worker.")
    await start_worker()
    await (await router.session()).expect("credits")
    (record,) = (record for record in caplog.records if record.message == "router_warns")
    assert "No job reaches the model flux" in str(vars(record))


@pytest.mark.parametrize("way", ["cancel", "heartbeat_ack"])
async def test_cancel_stops_the_engine_within_a_step(
    router: FakeRouter, start_worker: StartWorker, tmp_path: Path, way: str
) -> None:
    await start_worker()
    session = await router.session()
    await session.say(lease=lease(f"endless {tmp_path / 'end'}"))
    await session.report("progress")
    if way == "cancel":
        await session.say(cancel=pb.Cancel(ref=ref()))
    else:
        await session.say(heartbeat_ack=pb.HeartbeatAck(cancelled=[ref()]))
    outcome = await session.expect("outcome")
    assert outcome.WhichOneof("result") == "cancelled"
    assert (tmp_path / "end").read_text() == "Cancelled"


async def test_an_engine_that_ignores_a_cancel_is_killed_after_the_grace(
    router: FakeRouter, start_worker: StartWorker
) -> None:
    await start_worker()
    session = await router.session()
    await session.say(lease=lease("progress 0 1 2; hang"))
    await session.report("progress")
    cancel = pb.Cancel(ref=ref())
    cancel.grace.FromTimedelta(timedelta(milliseconds=10))
    await session.say(cancel=cancel)
    outcome = await session.expect("outcome")
    assert outcome.WhichOneof("result") == "cancelled"
    await session.answer(outcome)
    # The engine is started again and works.
    while (await session.expect("credits")).free < 4:
        pass
    await session.say(lease=lease("deliver 0 5", fence=2))
    assert (await session.expect("outcome")).outputs.outputs[0].receipt == "receipt-0"


@pytest.mark.parametrize("way", ["lost", "heartbeat_ack"])
async def test_a_lost_lease_is_dropped_without_a_word(
    router: FakeRouter, start_worker: StartWorker, tmp_path: Path, way: str
) -> None:
    router.welcome.heartbeat_interval.FromTimedelta(timedelta(milliseconds=20))
    router.assets.write_gate = asyncio.Event()
    await start_worker(worker__name="one")
    session = await router.session()
    await session.say(lease=lease(f"deliver 0 5; endless {tmp_path / 'end'}", quantity=2))
    await session.report("progress")
    await within(router.assets.writing.wait())
    if way == "lost":
        await session.say(lost=pb.Lost(ref=ref()))
    else:
        await session.say(heartbeat_ack=pb.HeartbeatAck(lost=[ref()]))
    while list((await session.expect("heartbeat")).leases):
        pass
    assert (tmp_path / "end").read_text() == "Cancelled"
    assert "outcome" not in session.kinds()
    assert router.assets.finished == []
    async with asyncio.timeout(LIMIT_S):
        while files(tmp_path, "worker/one/tasks/*"):  # noqa: ASYNC110 - it goes last, and nobody waits for that
            await asyncio.sleep(0.01)


async def test_a_newer_lease_of_the_same_stage_replaces_the_older(
    router: FakeRouter, start_worker: StartWorker, tmp_path: Path
) -> None:
    # Credits come again with every heartbeat: those of this very moment may have come before the outcome.
    router.welcome.heartbeat_interval.FromTimedelta(timedelta(milliseconds=50))
    await start_worker()
    session = await router.session()
    await session.say(lease=lease(f"endless {tmp_path / 'end'}", fence=1))
    await session.report("progress")
    await session.say(lease=lease("deliver 0 5", fence=3))
    outcome = await session.expect("outcome")
    assert outcome.ref.fence == 3
    assert outcome.outputs.outputs[0].receipt == "receipt-0"
    while (await session.expect("credits")).free < 4:
        pass
    assert (tmp_path / "end").read_text() == "Cancelled"


async def test_one_failed_output_does_not_fail_the_others(router: FakeRouter, start_worker: StartWorker) -> None:
    await start_worker()
    session = await router.session()
    await session.say(lease=lease("fail 0 It was refused.; deliver 1 5", quantity=3))
    entries = (await session.expect("outcome")).outputs.outputs
    assert [(entry.asset_index, entry.receipt, entry.failure.message) for entry in entries] == [
        (0, "", "It was refused."),
        (1, "receipt-1", ""),
        (2, "", "The engine ended without this output."),
    ]


@pytest.mark.parametrize(
    ("script", "enhance", "reason", "message", "retryable"),
    [
        ("error Too dark.", False, "ENGINE_FAILED", "Too dark.", False),
        ("deliver 0 5; retry Busy.", False, "ENGINE_FAILED", "Busy.", True),
        ("fail 0 Refused.", False, "ENGINE_FAILED", "Refused.", False),
        ("log nothing", False, "ENGINE_FAILED", "The engine ended without any output.", False),
        ("error No words.", True, "ENHANCEMENT_FAILED", "No words.", False),
        ("log nothing", True, "ENHANCEMENT_FAILED", "The engine wrote no text.", False),
        (
            "raise /secret/path",
            False,
            "ENGINE_FAILED",
            "The engine failed with RuntimeError; the worker's log says where.",
            True,
        ),
    ],
)
async def test_a_stage_that_fails_says_why(
    router: FakeRouter,
    start_worker: StartWorker,
    script: str,
    enhance: bool,
    reason: str,
    message: str,
    retryable: bool,
) -> None:
    from atelier.type.v1 import error_pb2

    await start_worker()
    session = await router.session()
    await session.say(lease=lease(script, enhance=enhance))
    failure = (await session.expect("outcome")).failure
    assert error_pb2.ErrorReason.Name(failure.failure.reason) == f"ERROR_REASON_{reason}"
    assert (failure.failure.message, failure.retryable) == (message, retryable)


async def test_a_permanent_error_keeps_what_was_delivered(router: FakeRouter, start_worker: StartWorker) -> None:
    await start_worker()
    session = await router.session()
    await session.say(lease=lease("deliver 0 5; error Out of paint.", quantity=2))
    entries = (await session.expect("outcome")).outputs.outputs
    assert [(entry.receipt, entry.failure.message) for entry in entries] == [("receipt-0", ""), ("", "Out of paint.")]


async def test_a_loss_of_what_is_not_held_is_answered_with_credits(
    router: FakeRouter, start_worker: StartWorker
) -> None:
    await start_worker()
    session = await router.session()
    assert (await session.expect("credits")).free == 4
    await session.say(lost=pb.Lost(ref=ref()))
    assert (await session.expect("credits")).free == 4


async def test_a_flood_of_previews_becomes_two_a_second(router: FakeRouter, start_worker: StartWorker) -> None:
    await start_worker()
    session = await router.session()
    began = time.monotonic()
    await session.say(lease=lease("flood 50; deliver 0 5"))
    await session.expect("outcome")
    previews = [report for report in session.reports() if report.HasField("preview")]
    assert 1 <= len(previews) <= 1 + 2 * (time.monotonic() - began)


async def test_a_router_that_falls_silent_is_left(
    router: FakeRouter, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atelier_worker.session, "_SILENCE_SLACK_S", 0.0)
    router.welcome.heartbeat_interval.FromTimedelta(timedelta(milliseconds=20))
    await start_worker()
    first = await router.session()
    await router.session()
    await within(first.closed.wait())


async def test_a_write_that_the_end_of_the_call_cancels_is_a_lost_session() -> None:
    class Call:
        """A call that is cancelled under a write, as it is when the reader gives up at the same moment."""

        writes = 0

        async def write(self, message: pb.WorkRequest) -> None:
            self.writes += 1
            if self.writes > 1:
                raise asyncio.CancelledError

        async def read(self) -> pb.WorkResponse:
            if self.writes == 1:
                self.writes += 1
                return pb.WorkResponse(welcome=pb.Welcome(session_epoch="e"))
            return await asyncio.Future[pb.WorkResponse]()

        def cancel(self) -> None:
            return None

        def add_done_callback(self, callback: object) -> None:
            return None

    with pytest.raises(atelier_worker.session.SessionLost):
        await within(speak(Call()))


async def test_why_a_session_is_refused_is_heard_though_the_worker_still_speaks(router: FakeRouter) -> None:
    router.refuse_work = grpc.StatusCode.ABORTED
    heard: Counter[grpc.StatusCode] = Counter()
    async with dial(router.target) as channel:
        for _ in range(TIMES):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await within(speak(WorkerServiceStub(channel).Work()))
            heard[caught.value.code()] += 1
    assert heard == {grpc.StatusCode.ABORTED: TIMES}


async def speak(call: Any) -> None:
    """Hold a session of a worker that has something to say."""
    outbox = Outbox(lambda: 0.0)
    outbox.put(pb.WorkRequest(drain=pb.Drain()))
    holdings: Any = SimpleNamespace(refs=list, welcome=lambda welcome: None, session_ended=lambda: None)
    introduction: Any = SimpleNamespace(hello=lambda leases: pb.Hello(worker_id="w"), worker_id="w")
    await atelier_worker.session.Session(call, introduction, holdings, outbox).run()


async def test_an_outbox_that_nobody_empties_says_so() -> None:
    outbox = Outbox(lambda: 0.0)
    for _ in range(1000):
        outbox.put(pb.WorkRequest(drain=pb.Drain()))
    assert not outbox.stuck.is_set()
    outbox.put(pb.WorkRequest(drain=pb.Drain()))
    assert outbox.stuck.is_set()
    outbox.reset()
    outbox.set_credits(3)
    assert not outbox.stuck.is_set()
    [message] = await outbox.next()
    assert message is not None
    assert message.credits.free == 3


@pytest.mark.parametrize(
    "answer", [pb.WorkRequest(lease_ack=pb.LeaseAck()), pb.WorkRequest(lease_reject=pb.LeaseReject())]
)
async def test_a_stage_that_is_over_before_its_lease_is_answered_gives_its_slot_back(answer: pb.WorkRequest) -> None:
    outbox = Outbox(lambda: 0.0)
    outbox.set_credits(1)
    assert [message.WhichOneof("message") for message in await outbox.next(9)] == ["credits"]
    outbox.put(answer)
    outbox.set_credits(0)
    outbox.set_credits(1)
    said = await outbox.next(9)
    assert said == [answer, pb.WorkRequest(credits=pb.Credits(free=1))]
