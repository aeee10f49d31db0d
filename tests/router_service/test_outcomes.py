"""How a stage ends: what of an outcome counts, what is tried again, and who ends a job that runs."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import grpc
import pytest

from atelier.router.v1 import job_pb2
from atelier.router.v1 import router_service_pb2 as pb
from atelier.worker.v1 import worker_service_pb2 as worker
from service_kit.errors import ErrorReason
from service_kit.rpc_errors import from_rpc_error
from tests.router_service.support import Router

DATABASES = ("sqlite", "postgresql")


async def test_a_forged_receipt_and_the_receipt_of_another_output_count_as_no_output(router: Router) -> None:
    one = await router.worker()
    accepted = await router.submit(quantity=3)
    lease = await one.take()
    receipt = await one.upload(lease, 0)
    results = [
        worker.OutputResult(asset_index=0, receipt=receipt),
        worker.OutputResult(asset_index=1, receipt=receipt),
        worker.OutputResult(asset_index=2, receipt=receipt[:-4] + "AAAA"),
    ]
    await one.finish(lease, outputs=worker.OutputManifest(outputs=results))
    job = await router.ended(accepted.job_id)
    assert [output.state == job_pb2.OUTPUT_STATE_DELIVERED for output in job.outputs] == [True, False, False]
    assert [output.failure.message for output in job.outputs[1:]] == [
        "The worker reported this output with the receipt of another.",
        "The worker reported this output without a valid receipt.",
    ]
    assert await router.asset_ids(accepted.job_id) == [accepted.asset_ids[0]]


@pytest.mark.parametrize("what", ["not asked for", "not signed"])
async def test_an_outcome_of_which_no_output_is_left_is_tried_again(router: Router, what: str) -> None:
    one = await router.worker()
    accepted = await router.submit()
    lease = await one.take()
    capabilities = router.service.capabilities
    said = capabilities.verify_receipt(await one.upload(lease, 0))
    index = 5 if what == "not asked for" else 0
    receipt = capabilities.sign_receipt(replace(said, asset_index=5)) if index else "a receipt of its own"
    output = worker.OutputResult(asset_index=index, receipt=receipt)
    assert await one.finish(lease, outputs=worker.OutputManifest(outputs=[output])) == "recorded"
    assert (await router.job(accepted.job_id)).state == job_pb2.JOB_STATE_QUEUED


async def test_an_output_that_does_not_say_its_index_is_not_taken_for_the_first(router: Router) -> None:
    one = await router.worker()
    accepted = await router.submit(quantity=2)
    lease = await one.take()
    receipts = [await one.upload(lease, index) for index in range(2)]
    silent = worker.OutputResult(receipt=receipts[0])
    manifest = worker.OutputManifest(outputs=[silent, worker.OutputResult(asset_index=1, receipt=receipts[1])])
    assert await one.finish(lease, outputs=manifest) == "recorded"
    job = await router.ended(accepted.job_id)
    assert [output.state for output in job.outputs] == [job_pb2.OUTPUT_STATE_FAILED, job_pb2.OUTPUT_STATE_DELIVERED]
    assert await router.asset_ids(accepted.job_id) == [accepted.asset_ids[1]]


async def test_a_retryable_failure_waits_out_its_pause_and_runs_again(router: Router) -> None:
    one = await router.worker()
    accepted = await router.submit()
    lease = await one.take()
    failure = worker.StageFailure(failure=job_pb2.Failure(message="out of memory"), retryable=True)
    assert await one.finish(lease, failure=failure) == "recorded"
    await router.service.dispatch.lease_waiting()
    assert (await router.job(accepted.job_id)).state == job_pb2.JOB_STATE_QUEUED, "it was leased within its pause"
    router.clock.advance(timedelta(seconds=2))
    router.service.signals.queue_changed()
    again = await one.take()
    assert again.attempt == 2
    assert await one.deliver(again, completion_id="c2") == "recorded"


async def test_a_failure_that_is_not_retryable_ends_the_job_at_once(router: Router) -> None:
    one = await router.worker()
    accepted = await router.submit()
    failure = worker.StageFailure(failure=job_pb2.Failure(message="this prompt is refused"), retryable=False)
    await one.finish(await one.take(), failure=failure)
    job = await router.ended(accepted.job_id)
    assert (job.state, job.failure.message) == (job_pb2.JOB_STATE_FAILED, "this prompt is refused")


async def test_cancel_tells_the_worker_and_makes_its_outcome_stale(router: Router) -> None:
    one = await router.worker()
    accepted = await router.submit()
    lease = await one.take()
    job = (await router.jobs.CancelJob(pb.CancelJobRequest(job_id=accepted.job_id))).job
    assert job.state == job_pb2.JOB_STATE_CANCELLED
    assert (await one.hear("cancel")).cancel.ref == lease.ref
    await one.say(heartbeat=worker.Heartbeat(leases=[lease.ref]))
    assert list((await one.hear("heartbeat_ack")).heartbeat_ack.cancelled) == [lease.ref]
    assert await one.finish(lease, cancelled=worker.Stopped()) == "stale"
    again = (await router.jobs.CancelJob(pb.CancelJobRequest(job_id=accepted.job_id))).job
    assert (again.state, again.version) == (job_pb2.JOB_STATE_CANCELLED, job.version)
    assert await router.asset_ids(accepted.job_id) == []


async def test_a_recorded_job_cannot_be_cancelled_any_more(router: Router) -> None:
    await router.stop_settling()
    one = await router.worker()
    accepted = await router.submit()
    await one.deliver(await one.take())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await router.jobs.CancelJob(pb.CancelJobRequest(job_id=accepted.job_id))
    assert from_rpc_error(caught.value).reason is ErrorReason.TOO_LATE


async def test_a_hung_engine_with_a_live_heartbeat_ends_at_the_deadline(router: Router) -> None:
    one = await router.worker()
    accepted = await router.submit()
    lease = await one.take()
    router.clock.advance(timedelta(minutes=15, seconds=1))
    await one.heartbeat(lease)
    await router.service.reaper.round()
    job = await router.ended(accepted.job_id)
    assert (job.state, job.failure.message) == (
        job_pb2.JOB_STATE_FAILED,
        "The job did not end within 900 seconds.",
    )
    await one.hear("cancel")


async def test_an_outcome_of_an_unknown_job_is_stale(router: Router) -> None:
    one = await router.worker(free=0)
    lease = worker.Lease(ref=worker.LeaseRef(job_id="0" * 36, stage=0, fence=1))
    assert await one.finish(lease, text="x") == "stale"


async def test_a_job_stays_until_the_asset_service_knows_its_end(router: Router) -> None:
    await router.stop_settling()
    accepted = await router.submit()
    await router.jobs.CancelJob(pb.CancelJobRequest(job_id=accepted.job_id))
    router.clock.advance(timedelta(days=31))
    await router.service.reaper.purge()
    assert (await router.job(accepted.job_id)).state == job_pb2.JOB_STATE_CANCELLED
    await router.service.settlement.send_due()
    await router.service.reaper.purge()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await router.job(accepted.job_id)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
