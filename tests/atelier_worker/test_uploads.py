"""How bytes come in and out: resumed, repeated, checked, and given up in a sentence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from atelier.type.v1 import error_pb2, media_pb2
from atelier.worker.v1 import worker_service_pb2 as pb
from service_kit.errors import ErrorReason, InvalidArgument
from tests.atelier_worker.conftest import StartWorker, pass_gate
from tests.atelier_worker.fake_router import FakeRouter, within
from tests.atelier_worker.leases import REFERENCE, lease, with_reference

MIB = 1 << 20


async def test_a_broken_upload_goes_on_where_it_stopped(router: FakeRouter, start_worker: StartWorker) -> None:
    router.assets.break_writes_after = 2 * MIB
    await start_worker()
    session = await router.session()
    await session.say(lease=lease(f"deliver 0 {3 * MIB + 5}"))
    assert (await session.expect("outcome")).outputs.outputs[0].receipt == "receipt-0"
    # The fake refuses bytes at a wrong offset, so a second upload from the start would have failed.
    assert router.assets.calls == ["StartUpload", "WriteUpload", "StartUpload", "WriteUpload", "FinishUpload"]
    assert len(router.assets.content(0)) == 3 * MIB + 5


@pytest.mark.parametrize("rpc", ["StartUpload", "WriteUpload", "FinishUpload"])
async def test_a_service_that_is_away_for_a_moment_costs_nothing(
    router: FakeRouter, start_worker: StartWorker, rpc: str
) -> None:
    router.assets.failures[rpc].extend([grpc.StatusCode.UNAVAILABLE] * 3)
    await start_worker()
    session = await router.session()
    await session.say(lease=lease("deliver 0 5"))
    assert (await session.expect("outcome")).outputs.outputs[0].receipt == "receipt-0"


async def test_an_output_is_uploaded_while_the_next_one_is_made(
    router: FakeRouter, start_worker: StartWorker, gate: Callable[[str], Path]
) -> None:
    await start_worker()
    session = await router.session()
    here = gate("here")
    await session.say(lease=lease(f"deliver 0 5; wait {here}; deliver 1 5", quantity=2))
    await within(router.assets.writing.wait())
    assert "outcome" not in session.kinds()
    await pass_gate(here)
    assert len((await session.expect("outcome")).outputs.outputs) == 2


async def test_the_engine_is_free_while_outputs_are_uploaded(
    router: FakeRouter, start_worker: StartWorker, gate: Callable[[str], Path]
) -> None:
    router.assets.write_gate = asyncio.Event()
    await start_worker(worker__slots=1)
    session = await router.session()
    assert (await session.expect("credits")).free == 1
    here = gate("here")
    await session.say(lease=lease(f"wait {here}; deliver 0 5"))
    assert (await session.expect("credits")).free == 0
    await pass_gate(here)
    assert (await session.expect("credits")).free == 1
    assert "outcome" not in session.kinds()
    await within(router.assets.writing.wait())
    router.assets.writing.clear()
    # A second one may start; a third waits, so that unfinished uploads do not pile up.
    await session.say(lease=lease("deliver 0 6", job_id="second"))
    assert (await session.expect("credits")).free == 0
    await within(router.assets.writing.wait())
    await session.say(lost=pb.Lost(ref=pb.LeaseRef(job_id="unknown")))
    assert (await session.expect("credits")).free == 0
    router.assets.write_gate.set()
    await session.expect("outcome")
    await session.expect("outcome")


async def test_an_output_that_cannot_be_stored_fails_alone(router: FakeRouter, start_worker: StartWorker) -> None:
    router.assets.failures["StartUpload"].append(grpc.StatusCode.PERMISSION_DENIED)
    await start_worker()
    session = await router.session()
    await session.say(lease=lease("deliver 0 5; deliver 1 5", quantity=2))
    entries = (await session.expect("outcome")).outputs.outputs
    lost = [entry for entry in entries if entry.HasField("failure")]
    assert [entry.failure.reason for entry in lost] == [error_pb2.ERROR_REASON_OUTPUT_LOST]
    assert len([entry for entry in entries if entry.receipt]) == 1


async def test_when_no_output_can_be_stored_another_attempt_may(router: FakeRouter, start_worker: StartWorker) -> None:
    router.assets.failures["StartUpload"].append(grpc.StatusCode.PERMISSION_DENIED)
    await start_worker()
    session = await router.session()
    await session.say(lease=lease("deliver 0 5"))
    failure = (await session.expect("outcome")).failure
    assert (failure.failure.reason, failure.retryable) == (error_pb2.ERROR_REASON_OUTPUT_LOST, True)


async def test_a_file_that_nobody_takes_is_told_and_not_made_again(
    router: FakeRouter, start_worker: StartWorker
) -> None:
    router.assets.refusals["FinishUpload"] = InvalidArgument("It is a song.", ErrorReason.UNSUPPORTED_MEDIA)
    await start_worker()
    session = await router.session()
    await session.say(lease=lease("deliver 0 5"))
    failure = (await session.expect("outcome")).failure
    assert (failure.failure.reason, failure.retryable) == (error_pb2.ERROR_REASON_ENGINE_FAILED, False)
    assert failure.failure.message == "The engine delivered a file that is not taken. It is a song."


async def test_renditions_go_with_their_output(router: FakeRouter, start_worker: StartWorker) -> None:
    await start_worker()
    session = await router.session()
    await session.say(lease=lease("thumb 0"))
    await session.expect("outcome")
    assert router.assets.content(0, media_pb2.RENDITION_KIND_THUMB_256) == b"thumb"
    [(index, renditions)] = router.assets.finished
    assert (index, len(renditions)) == (0, 1)


async def test_a_rendition_that_is_refused_does_not_cost_the_output(
    router: FakeRouter, start_worker: StartWorker
) -> None:
    await start_worker()
    session = await router.session()
    router.assets.refuse_renditions = True
    await session.say(lease=lease("thumb 0"))
    assert (await session.expect("outcome")).outputs.outputs[0].receipt == "receipt-0"
    assert router.assets.finished == [(0, [])]


async def test_references_lie_on_the_disk_of_the_engine(router: FakeRouter, start_worker: StartWorker) -> None:
    router.assets.references[REFERENCE] = b"a picture"
    router.assets.failures["ReadReference"].append(grpc.StatusCode.UNAVAILABLE)
    await start_worker()
    session = await router.session()
    await session.say(lease=with_reference(b"a picture"))
    await session.expect("outcome")
    assert router.assets.content(0) == b"init:0.25:a picture"


@pytest.mark.parametrize("found", [None, b"a pictura", b"a pictur"])
async def test_a_reference_that_cannot_be_read_fails_the_stage(
    router: FakeRouter, start_worker: StartWorker, found: bytes | None
) -> None:
    if found is not None:
        router.assets.references[REFERENCE] = found
    await start_worker()
    session = await router.session()
    await session.say(lease=with_reference(b"a picture"))
    failure = (await session.expect("outcome")).failure
    assert (failure.failure.reason, failure.retryable) == (error_pb2.ERROR_REASON_REFERENCE_UNREADABLE, False)
    assert "StartUpload" not in router.assets.calls


async def test_cancel_ends_the_reading_of_references(router: FakeRouter, start_worker: StartWorker) -> None:
    router.assets.references[REFERENCE] = b"a picture"
    router.assets.read_gate = asyncio.Event()
    await start_worker()
    session = await router.session()
    made = with_reference(b"a picture")
    await session.say(lease=made)
    await within(router.assets.reading.wait())
    await session.say(cancel=pb.Cancel(ref=made.ref))
    assert (await session.expect("outcome")).WhichOneof("result") == "cancelled"
