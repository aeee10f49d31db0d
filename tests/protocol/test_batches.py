"""Several messages in one, each way: what they mean stays the same, and only who takes them is sent them."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from atelier.router.v1 import job_pb2
from atelier.worker.v1 import worker_service_pb2 as pb
from atelier_worker import outbox as worker_outbox
from atelier_worker.outbox import Outbox
from router_service import conversation_servicer
from router_service.session_limits import MOST_MESSAGE_BYTES, MOST_UNITS
from tests.protocol.harness import LIMIT_S, System
from tests.protocol.test_bad_workers import end_of
from tests.router_service.support import Router


def batch(*requests: dict[str, Any]) -> dict[str, Any]:
    return {"batch": pb.RequestBatch(requests=[pb.WorkRequest(**request) for request in requests])}


async def waiting(router: Router, count: int) -> None:
    """Let jobs wait, so that one round leases them together."""
    for _ in range(count):
        await router.submit(prompt="a word", enhancement_only=True)


async def test_leases_acknowledgements_and_outcomes_travel_together(system: System) -> None:
    router = system.routers["a"]
    await waiting(router, 4)
    one = await router.worker(free=0, takes_batches=True)
    assert one.welcome.takes_batches
    await one.say(credits=pb.Credits(free=4))
    async with asyncio.timeout(LIMIT_S):
        given: Any = await one.call.read()
    leases = [response.lease for response in given.batch.responses]
    assert len(leases) == 4, "one round is one message"
    acks = [{"lease_ack": pb.LeaseAck(ref=lease.ref)} for lease in leases]
    ends = [
        {"outcome": pb.Outcome(ref=lease.ref, completion_id=f"c{index}", text="two words", engine="e")}
        for index, lease in enumerate(leases)
    ]
    # A repeat in the same message is one, as it would be in the next.
    await one.say(**batch(*acks, *ends, ends[0], {"credits": pb.Credits(free=4)}))
    answers: list[pb.OutcomeAck] = []
    async with asyncio.timeout(LIMIT_S):
        while len(answers) < 5:
            message: Any = await one.call.read()
            answers += [
                response.outcome_ack
                for response in (message.batch.responses if message.HasField("batch") else [message])
            ]
    statuses = sorted(pb.OutcomeStatus.Name(answer.status) for answer in answers)
    assert statuses == ["OUTCOME_STATUS_DUPLICATE", *["OUTCOME_STATUS_RECORDED"] * 4]
    for lease in leases:
        assert (await router.ended(lease.ref.job_id)).state == job_pb2.JOB_STATE_SUCCEEDED


def test_what_is_large_together_goes_in_parcels() -> None:
    """A worker takes messages of 4 MiB: never are so many leases put together that they would be more."""
    lease = pb.WorkResponse(lease=pb.Lease(spec=pb.StageSpec(prompt="p" * 400_000)))
    small = pb.WorkResponse(drain=pb.Drain())
    parcels = list(conversation_servicer._parcels([lease, lease, lease, small]))
    assert [len(parcel.batch.responses) for parcel in parcels] == [2, 2]
    assert [one for parcel in parcels for one in parcel.batch.responses] == [lease, lease, lease, small]
    huge = pb.WorkResponse(lease=pb.Lease(spec=pb.StageSpec(prompt="p" * 2_000_000)))
    assert list(conversation_servicer._parcels([huge])) == [huge]
    assert list(conversation_servicer._parcels([small, huge])) == [small, huge]


async def test_who_does_not_take_batches_is_sent_none(system: System) -> None:
    router = system.routers["a"]
    await waiting(router, 3)
    one = await router.worker(free=0)
    await one.say(credits=pb.Credits(free=3))
    for _ in range(3):
        await one.hear("lease")


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (batch({"hello": pb.Hello(worker_id="w", worker_types=["sdxl"], slots=1)}), grpc.StatusCode.INVALID_ARGUMENT),
        (batch(batch({"credits": pb.Credits(free=1)})), grpc.StatusCode.INVALID_ARGUMENT),
        (batch(*[{"credits": pb.Credits(free=1)}] * 257), grpc.StatusCode.INVALID_ARGUMENT),
        (
            batch(*[{"lease_reject": pb.LeaseReject(reason="x" * (MOST_MESSAGE_BYTES // 4))}] * 5),
            grpc.StatusCode.RESOURCE_EXHAUSTED,
        ),
    ],
    ids=["hello", "nested", "many", "large"],
)
async def test_a_batch_that_may_not_be_ends_the_session(
    system: System, message: dict[str, Any], code: grpc.StatusCode
) -> None:
    one = await system.routers["a"].worker()
    await one.say(**message)
    assert (await end_of(one))[0] is code


async def test_a_flood_of_empty_batches_is_a_flood(system: System) -> None:
    one = await system.routers["a"].worker(free=0)
    async with asyncio.timeout(LIMIT_S):
        # Its hello was free, and its clock stands still: one more than it may say.
        for _ in range(int(MOST_UNITS) + 1):
            await one.call.write(pb.WorkRequest(**batch()))
    assert (await end_of(one))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_what_waits_at_a_worker_goes_together_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = Outbox(lambda: 0.0)
    refs = [pb.LeaseRef(job_id=f"j{number}") for number in range(3)]
    for ref in refs:
        outbox.put(pb.WorkRequest(lease_ack=pb.LeaseAck(ref=ref)))
    outbox.set_credits(2)
    together = await outbox.next(64)
    assert [message.WhichOneof("message") for message in together] == ["lease_ack"] * 3 + ["credits"]
    assert [message.lease_ack.ref for message in together[:3]] == refs
    monkeypatch.setattr(worker_outbox, "_ENOUGH_BYTES", 1)
    for ref in refs:
        outbox.put(pb.WorkRequest(lease_ack=pb.LeaseAck(ref=ref)))
    apart = [await outbox.next(64) for _ in range(4)]
    assert [[message.WhichOneof("message") for message in some] for some in apart] == [["lease_ack"]] * 3 + [
        ["credits"]
    ]
    outbox.end()
    assert await outbox.next(64) == []
