"""Workers that lie, flood, do not read, or send garbage: they cost themselves, and nobody else."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc
import pytest

from atelier.router.v1 import job_pb2
from atelier.worker.v1 import worker_service_pb2 as pb
from router_service import conversation_servicer
from router_service.reports import TextDelta
from router_service.session_limits import BYTES_PER_UNIT, DATABASE_UNITS, MOST_UNITS, NAMED_LEASE_UNITS, Allowance
from service_kit import interceptors
from service_kit.errors import ResourceExhausted
from service_kit.ids import new_id
from service_kit.rpc_errors import from_rpc_error
from tests.protocol.harness import LIMIT_S, System, until
from tests.router_service.support import Router, ScriptedWorker

NOBODYS = pb.LeaseRef(job_id="01a20417-5c28-7394-bdef-61f4c6fb8a24", stage=0, fence=7)
PATIENCE = timedelta(seconds=5)


async def end_of(worker: ScriptedWorker) -> tuple[grpc.StatusCode, str, timedelta]:
    """Return how the router has ended a session: the code, the sentence, and when to come again."""
    return await end_of_call(worker.call)


async def end_of_call(call: Any) -> tuple[grpc.StatusCode, str, timedelta]:
    """Return how a stream of bytes or messages has ended; its status comes behind what was not read."""
    async with asyncio.timeout(LIMIT_S):
        try:
            while await call.read() is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError as error:
            return told_by(error)
    raise AssertionError("the session ended in peace")


def told_by(error: grpc.aio.AioRpcError) -> tuple[grpc.StatusCode, str, timedelta]:
    """Return what a refusal says: the code, the sentence, and when to come again."""
    return error.code(), error.details() or "", from_rpc_error(error).retry_after or timedelta(0)


async def flood(worker: ScriptedWorker, message: pb.WorkRequest, costs: float) -> None:
    """Say one thing until the router has heard enough, and not once more: a write that fails would hide why."""
    units = 1 + message.ByteSize() / BYTES_PER_UNIT + costs
    async with asyncio.timeout(LIMIT_S):
        for _ in range(int(MOST_UNITS / units) + 1):
            await worker.call.write(message)


async def works(router: Router, good: ScriptedWorker) -> None:
    """See a job through with a worker that behaves."""
    await good.say(credits=pb.Credits(free=1))
    accepted = await router.submit()
    lease = await good.take()
    assert lease.ref.job_id == accepted.job_id
    assert await good.deliver(lease, completion_id=new_id()) == "recorded"
    assert (await router.ended(accepted.job_id)).state == job_pb2.JOB_STATE_SUCCEEDED


PREVIEW = pb.Report(ref=NOBODYS, preview=pb.PreviewImage(image=b"p" * 65536))
CREDITS = pb.WorkRequest(credits=pb.Credits(free=2**31 - 1))
ACKS = pb.WorkRequest(lease_ack=pb.LeaseAck(ref=NOBODYS))
# What is said, and what it costs beside its size.
FLOODS = {
    "reports": (pb.WorkRequest(reports=pb.Reports(reports=[PREVIEW])), 0.0),
    "heartbeats": (
        pb.WorkRequest(heartbeat=pb.Heartbeat(leases=[NOBODYS] * 100)),
        DATABASE_UNITS + 100 * NAMED_LEASE_UNITS,
    ),
    "credits": (CREDITS, 0.0),
    "acks": (ACKS, DATABASE_UNITS),
    "rejects": (pb.WorkRequest(lease_reject=pb.LeaseReject(ref=NOBODYS, reason="no" * 500)), DATABASE_UNITS),
    "outcomes": (
        pb.WorkRequest(outcome=pb.Outcome(ref=NOBODYS, completion_id="c", text="x" * 500_000)),
        1 + DATABASE_UNITS,
    ),
    "nothing": (pb.WorkRequest(), 0.0),
    # Each of what is in it costs what it costs alone.
    "batches": (pb.WorkRequest(batch=pb.RequestBatch(requests=[CREDITS] * 256)), 256.0),
    "large batches": (
        pb.WorkRequest(batch=pb.RequestBatch(requests=[pb.WorkRequest(reports=pb.Reports(reports=[PREVIEW]))] * 31)),
        31.0,
    ),
    # It is paid for by number alone.
    "empty batches": (pb.WorkRequest(batch=pb.RequestBatch()), -2 / BYTES_PER_UNIT),
}


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_ends_the_session_and_nothing_else(system: System, kind: str) -> None:
    router = system.routers["a"]
    good, bad = await router.worker("good", free=0), await router.worker("bad", free=0)
    flooding = asyncio.create_task(flood(bad, *FLOODS[kind]))
    code, sentence, wait = await end_of(bad)
    await flooding
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "The worker says more than the router takes" in sentence
    assert wait == PATIENCE
    await works(router, good)


async def test_who_was_sent_away_waits(system: System) -> None:
    router = system.routers["a"]
    bad = await router.worker("bad", free=0)
    await flood(bad, ACKS, DATABASE_UNITS)
    await end_of(bad)
    assert "sent away for saying too much: connect again in 5.0 seconds" in (await refused(router, "bad"))[1]
    await works(router, await router.worker("good", free=0))
    system.clock.advance(PATIENCE)
    await router.worker("bad", free=0)


async def test_a_message_that_is_too_large_ends_the_session(system: System) -> None:
    bad = await system.routers["a"].worker("bad", free=0)
    await bad.say(outcome=pb.Outcome(ref=NOBODYS, completion_id="c", text="x" * (3 << 20)))
    code, sentence, wait = await end_of(bad)
    assert (code, wait) == (grpc.StatusCode.RESOURCE_EXHAUSTED, PATIENCE)
    assert sentence.startswith("A message of a worker has at most 2097152 bytes, got 31457")


async def test_an_outcome_is_cut_to_what_a_job_keeps(system: System) -> None:
    router = system.routers["a"]
    chatty = await router.worker("chatty")
    accepted = await router.submit(enhancement_only=True)
    lease = await chatty.take()
    outcome = pb.Outcome(ref=lease.ref, completion_id="c", text="\0" + "x" * 1_000_000, engine="e" * 1000)
    outcome.warnings.extend(["a warning \0" * 1000] * 50)
    await chatty.say(outcome=outcome)
    await chatty.hear("outcome_ack")
    job = await router.ended(accepted.job_id)
    assert (job.state, len(job.enhanced_prompt)) == (job_pb2.JOB_STATE_SUCCEEDED, 32_000)
    assert (len(job.warnings), max(len(warning.message) for warning in job.warnings)) == (20, 910)


async def test_a_worker_that_begins_session_after_session_is_refused(system: System) -> None:
    router = system.routers["a"]
    for _ in range(10):
        await router.worker("restless", free=0)
    code, sentence, wait = await refused(router, "restless")
    assert (code, wait) == (grpc.StatusCode.RESOURCE_EXHAUSTED, PATIENCE)
    assert "begins more than 10 sessions in a row" in sentence
    await works(router, await router.worker("good", free=0))


async def test_the_workers_of_one_key_have_so_many_sessions(system: System) -> None:
    system.flags["router.max_sessions_per_key"] = "2"
    await system.stop_router()
    router = await system.start_router()
    first, _ = await router.worker("first", free=0), await router.worker("second", free=0)
    code, sentence, wait = await refused(router, "third")
    assert (code, wait) == (grpc.StatusCode.RESOURCE_EXHAUSTED, PATIENCE)
    assert "at most 2 sessions with a router at a time (router.max_sessions_per_key)" in sentence
    await first.disconnect()
    async with asyncio.timeout(10):
        # The stream counts until the router has forgotten the session.
        while (third := await welcomed(router, "third")) is None:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
    await works(router, third)


async def test_one_that_does_not_read_is_cut_off(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation_servicer, "_LAST_WORDS_S", 0.05)
    monkeypatch.setattr(interceptors, "_ABORT_LIMIT_S", 0.05)
    router = system.routers["a"]
    good, deaf = await router.worker("good", free=0), await router.worker("deaf", free=0)
    session = router.service.sessions.get(deaf.welcome.session_epoch)
    assert session is not None
    seconds = itertools.count()
    session.allowance = Allowance(lambda: 1000.0 * next(seconds))
    renew, answered = router.service.dispatch.renew, 0

    async def counted(*what: Any) -> Any:
        nonlocal answered
        told = await renew(*what)
        answered += 1
        return told

    monkeypatch.setattr(router.service.dispatch, "renew", counted)
    while not session.closed:
        # One after the other: of those that wait only the newest is answered.
        asked = answered
        await deaf.say(heartbeat=pb.Heartbeat(leases=[NOBODYS] * 2000))
        await until(lambda asked=asked: answered > asked or session.closed)  # type: ignore[misc]
    await until(lambda: router.service.sessions.get(session.epoch) is None)
    assert isinstance(session.ended_by, ResourceExhausted)
    assert "messages unread" in session.ended_by.message
    await works(router, good)


async def test_garbage_ends_the_session(system: System) -> None:
    router = system.routers["a"]
    good = await router.worker("good", free=0)
    channel = await router.channel_with(system.key(), router.target)
    raw: Any = channel.stream_stream("/atelier.worker.v1.WorkerService/Work")

    async def said() -> AsyncIterator[bytes]:
        hello = pb.Hello(worker_id="bad", worker_types=["sdxl"], slots=1)
        yield pb.WorkRequest(hello=hello).SerializeToString()
        yield b"\xff\xfe garbage"

    code, sentence, _ = await end_of_call(raw(said()))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "not a message of this call" in sentence
    await works(router, good)


@pytest.mark.parametrize(
    ("hello", "problem"),
    [
        ({"worker_id": ""}, "hello.worker_id"),
        ({"worker_id": "w" * 101}, "hello.worker_id"),
        ({"slots": 2**31 - 1}, "hello.slots"),
        ({"slots": 0}, "hello.slots"),
        ({"worker_types": []}, "hello.worker_types"),
        ({"leases": [NOBODYS] * 10_001}, "hello.leases"),
        ({"labels": {str(number): "x" for number in range(33)}}, "hello.labels"),
        ({"labels": {"room": "x" * 201}}, "hello.labels"),
        ({"labels": {"ro\0m": "attic"}}, "hello.labels"),
        ({"worker_types": ["sdxl", "x" * 65]}, "hello.worker_types[1]"),
        ({"worker_types": ["sdxl\0"]}, "hello.worker_types[0]"),
        ({"worker_types": [""]}, "hello.worker_types[0]"),
        ({"models": ["x" * 201]}, "hello.models[0]"),
        ({"models": ["\0"]}, "hello.models[0]"),
    ],
)
async def test_an_impossible_hello_is_refused_by_its_field(system: System, hello: dict[str, Any], problem: str) -> None:
    code, sentence, _ = await refused(system.routers["a"], **hello)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert problem in sentence


async def test_no_worker_keeps_the_others_from_their_work(replicas: System) -> None:
    """A leasing round is for all workers of a replica: what one of them says must not make it fail."""
    router = replicas.routers["a"]
    good = await router.worker("good", free=0)
    for name in ("x" * 65, "\0"):
        await refused(router, worker_types=[name], models=[name])
    odd = await router.worker("odd", worker_types=["x" * 64, "'; --", "提灯"], models=["*", "ملونة"])
    await works(router, good)
    assert not (await odd.heartbeat()).lost


async def test_more_credits_than_slots_bring_no_more_leases(system: System) -> None:
    router = system.routers["a"]
    greedy = await router.worker("greedy", slots=1, free=2**31 - 1)
    accepted = [await router.submit() for _ in range(4)]
    await greedy.take()
    await greedy.say(credits=pb.Credits(free=2**31 - 1))
    await greedy.take()
    # Two for each slot: one may be uploaded while the other is made. The others are for somebody else.
    await greedy.say(credits=pb.Credits(free=2**31 - 1))
    await greedy.heartbeat()
    good = await router.worker("good", free=2)
    assert {(await good.take()).ref.job_id, (await good.take()).ref.job_id} <= {job.job_id for job in accepted}


async def test_text_without_a_place_is_dropped(system: System) -> None:
    router = system.routers["a"]
    odd = await router.worker("odd")
    accepted = await router.submit(enhancement_only=True)
    lease = await odd.take()
    pieces = [(0, "A light"), (-3, "no place"), (99, "a gap"), (2**62, "far"), (7, "house"), (3, "x" * 100_000)]
    texts = [pb.Report(ref=lease.ref, text=pb.TextPiece(offset=offset, text=text)) for offset, text in pieces]
    await odd.say(reports=pb.Reports(reports=texts))
    await odd.heartbeat(lease)
    with router.service.relay.watch_job(accepted.job_id) as pending:
        assert pending.text == TextDelta(accepted.job_id, 0, "A lighthouse")


async def test_lies_about_other_peoples_leases_change_nothing(system: System) -> None:
    router = system.routers["a"]
    victim = await router.worker("victim")
    accepted = await router.submit()
    lease = await victim.take()
    await victim.heartbeat(lease)
    liar = await router.worker("liar", free=0, leases=[lease.ref])
    assert list(liar.welcome.lost) == [lease.ref]
    later = pb.LeaseRef(job_id=lease.ref.job_id, stage=0, fence=lease.ref.fence + 1)
    for ref in (lease.ref, later):
        await liar.say(lease_ack=pb.LeaseAck(ref=ref))
        await liar.say(lease_reject=pb.LeaseReject(ref=ref, reason="not yours any more"))
        await liar.say(reports=pb.Reports(reports=[pb.Report(ref=ref, log="a lie")]))
        await liar.say(heartbeat=pb.Heartbeat(leases=[ref]))
        assert list((await liar.hear("heartbeat_ack")).heartbeat_ack.lost) == [ref]
        outcome = pb.Outcome(ref=ref, completion_id=new_id(), failure=pb.StageFailure(retryable=False))
        await liar.say(outcome=outcome)
        assert (await liar.hear("outcome_ack")).outcome_ack.status == pb.OUTCOME_STATUS_STALE
    assert not (await victim.heartbeat(lease)).lost
    assert await victim.deliver(lease) == "recorded"
    assert (await router.ended(accepted.job_id)).state == job_pb2.JOB_STATE_SUCCEEDED


async def test_what_names_no_job_ends_the_session(system: System) -> None:
    bad = await system.routers["a"].worker("bad", free=0)
    await bad.say(lease_ack=pb.LeaseAck(ref=pb.LeaseRef(job_id="a\0b", fence=1)))
    code, sentence, _ = await end_of(bad)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "ref.job_id must be the id of a job" in sentence


async def welcomed(router: Router, name: str) -> ScriptedWorker | None:
    """Connect a worker; None when it is refused."""
    try:
        return await router.worker(name, free=0)
    except grpc.aio.AioRpcError:
        return None


async def refused(router: Router, worker_id: str = "bad", **hello: Any) -> tuple[grpc.StatusCode, str, timedelta]:
    """Say hello, and return how the router refuses it."""
    key = router.service.rings.read_key_file("worker.key").reveal()
    worker = ScriptedWorker(await router.channel_with(key, router.target), router)
    fields = {"worker_id": worker_id, "worker_types": ["sdxl"], "slots": 1, **hello}
    try:
        await worker.say(hello=pb.Hello(**fields))
    except grpc.aio.AioRpcError as error:
        # Who may not have one more session is refused before the hello was read: the end may come first.
        return told_by(error)
    return await end_of(worker)
