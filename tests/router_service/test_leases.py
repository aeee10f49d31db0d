"""Leases and fences: who may report, what a lost worker leaves behind, and what a repeat changes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import grpc
import pytest

from atelier.router.v1 import job_pb2
from atelier.router.v1 import router_service_pb2 as pb
from atelier.worker.v1 import worker_service_pb2 as worker
from router_service.domain import JobState
from router_service.registry_domain import ConnectedWorker
from service_kit.errors import Aborted, ErrorReason
from service_kit.rpc_errors import from_rpc_error
from tests.router_service.support import Router, ScriptedWorker

DATABASES = ("sqlite", "postgresql")

TTL = timedelta(seconds=30)


async def lose_leases(router: Router) -> None:
    """Let the time of a lease pass without a heartbeat, and the reaper see it."""
    router.clock.advance(TTL + timedelta(seconds=1))
    await router.service.reaper.round()


async def waiting(router: Router) -> int:
    """Return how many stages wait for a worker."""
    async with router.service.storage.read() as tx:
        return sum((await tx.queue.count_waiting()).values())


async def test_an_outcome_that_is_sent_twice_is_recorded_once(router: Router) -> None:
    one = await router.worker()
    accepted = await router.submit(quantity=2)
    lease = await one.take()
    assert await one.deliver(lease) == "recorded"
    assert await one.deliver_again(lease) == "duplicate"
    job = await router.ended(accepted.job_id)
    version = job.version
    assert await one.deliver_again(lease) == "duplicate"
    assert (await router.job(accepted.job_id)).version == version
    assert len(await router.asset_ids(accepted.job_id)) == 2


async def test_two_workers_that_ran_the_same_stage_leave_one_outcome(router: Router) -> None:
    first = await router.worker("first")
    accepted = await router.submit()
    old = await first.take()
    await first.heartbeat(old)
    await lose_leases(router)
    second = await router.worker("second")
    new = await second.take()
    assert new.ref.fence == old.ref.fence + 1
    assert new.attempt == 2
    await first.hear("lost")
    receipt = await first.upload(old, 0)
    manifest = worker.OutputManifest(outputs=[worker.OutputResult(asset_index=0, receipt=receipt)])
    assert await first.finish(old, outputs=manifest) == "stale"
    assert await second.deliver(new, completion_id="c2") == "recorded"
    job = await router.ended(accepted.job_id)
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED
    assert await router.asset_ids(accepted.job_id) == list(accepted.asset_ids)


async def test_a_lost_worker_may_still_record_until_somebody_else_has_the_stage(router: Router) -> None:
    one = await router.worker()
    accepted = await router.submit()
    lease = await one.take()
    await one.say(credits=worker.Credits(free=0))
    await one.heartbeat()
    await lose_leases(router)
    assert (await router.job(accepted.job_id)).state == job_pb2.JOB_STATE_QUEUED
    await one.hear("lost")
    assert await waiting(router) == 1
    assert await one.deliver(lease) == "recorded"
    assert await waiting(router) == 0
    assert (await router.ended(accepted.job_id)).state == job_pb2.JOB_STATE_SUCCEEDED


async def test_a_heartbeat_renews_exactly_the_leases_that_it_names(router: Router) -> None:
    one = await router.worker()
    named, unnamed = await router.submit(), await router.submit()
    leases = [await one.take(), await one.take()]
    kept = next(lease for lease in leases if lease.ref.job_id == named.job_id)
    await one.say(credits=worker.Credits(free=0))
    await one.heartbeat(*leases)
    router.clock.advance(TTL - timedelta(seconds=1))
    await one.heartbeat(kept)
    router.clock.advance(timedelta(seconds=2))
    await router.service.reaper.round()
    assert (await router.job(named.job_id)).state == job_pb2.JOB_STATE_RUNNING
    assert (await router.job(unnamed.job_id)).state == job_pb2.JOB_STATE_QUEUED


async def test_a_worker_that_comes_back_keeps_what_it_names_and_loses_what_it_does_not(router: Router) -> None:
    one = await router.worker()
    kept, dropped = await router.submit(), await router.submit()
    leases = {lease.ref.job_id: lease for lease in [await one.take(), await one.take()]}
    await one.disconnect()
    again = await router.worker(leases=[leases[kept.job_id].ref], free=0)
    assert list(again.welcome.kept) == [leases[kept.job_id].ref]
    assert (await router.job(dropped.job_id)).state == job_pb2.JOB_STATE_QUEUED
    assert await again.deliver(leases[kept.job_id]) == "recorded"
    assert (await router.ended(kept.job_id)).state == job_pb2.JOB_STATE_SUCCEEDED


async def test_a_lost_lease_is_kept_when_its_worker_comes_back_before_another_takes_it(router: Router) -> None:
    one = await router.worker()
    accepted = await router.submit()
    lease = await one.take()
    await one.heartbeat(lease)
    await one.disconnect()
    await lose_leases(router)
    assert (await router.job(accepted.job_id)).state == job_pb2.JOB_STATE_QUEUED
    again = await router.worker(leases=[lease.ref], free=0)
    assert list(again.welcome.kept) == [lease.ref]
    assert (await router.job(accepted.job_id)).state == job_pb2.JOB_STATE_RUNNING
    assert await again.deliver(lease) == "recorded"


async def test_after_an_outage_of_the_database_workers_have_the_time_of_a_lease_to_be_heard(
    router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(**_: object) -> int:
        raise OSError("disk I/O error")

    one = await router.worker()
    accepted = await router.submit()
    await one.heartbeat(await one.take())
    monkeypatch.setattr(router.service.ending, "fail_overdue", fail)
    monkeypatch.setattr(router.service.dispatch, "take_back_expired", fail)
    router.clock.advance(TTL + timedelta(seconds=1))
    await router.service.reaper.try_round()
    monkeypatch.undo()
    await router.service.reaper.try_round()
    assert (await router.job(accepted.job_id)).state == job_pb2.JOB_STATE_RUNNING
    await one.say(credits=worker.Credits(free=0))
    await one.heartbeat()
    await lose_leases(router)
    assert (await router.job(accepted.job_id)).state == job_pb2.JOB_STATE_QUEUED


async def test_an_unacknowledged_lease_reverts_and_burns_no_attempt(router: Router) -> None:
    silent = await router.worker("silent")
    accepted = await router.submit()
    await silent.hear("lease")
    # After a start nobody is believed lost for the life of a lease.
    router.clock.advance(TTL + timedelta(seconds=1))
    await router.service.reaper.round()
    job = await router.job(accepted.job_id)
    assert (job.state, job.stages[0].attempt) == (job_pb2.JOB_STATE_QUEUED, 0)
    second = await router.worker("second")
    assert (await second.take()).attempt == 1


async def test_a_rejected_lease_burns_no_attempt(router: Router) -> None:
    one = await router.worker(free=1)
    await router.submit()
    lease = (await one.hear("lease")).lease
    await one.say(lease_reject=worker.LeaseReject(ref=lease.ref, reason="no memory"))
    # Nothing more comes before it says again how much it takes; the heartbeat's answer would come behind a lease.
    await one.heartbeat()
    await one.say(credits=worker.Credits(free=1))
    again = await one.take()
    assert (again.attempt, again.ref.fence) == (1, lease.ref.fence + 1)


async def test_a_worker_that_is_lost_in_every_attempt_fails_the_job_and_says_why(router: Router) -> None:
    accepted = await router.submit()
    for attempt in range(1, 4):
        one = await router.worker(f"worker {attempt}")
        lease = await one.take()
        assert lease.attempt == attempt
        await one.heartbeat(lease)
        await one.disconnect()
        await lose_leases(router)
    job = await router.ended(accepted.job_id)
    assert job.state == job_pb2.JOB_STATE_FAILED
    assert job.failure.message == "The worker was lost in each of 3 attempts."


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


async def test_a_heartbeat_keeps_its_worker_and_changes_nothing_of_it(router: Router) -> None:
    async def connected() -> list[ConnectedWorker]:
        async with router.service.storage.read() as tx:
            return await tx.registry.list_workers(seen_within=TTL)

    one = await router.worker("one", worker_types=["sdxl"], models=["sdxl"], slots=3)
    await router.worker("other")
    before = {worker.holder: worker for worker in await connected()}
    router.clock.advance(TTL - timedelta(seconds=1))
    await one.heartbeat()
    router.clock.advance(timedelta(seconds=2))
    (after,) = await connected()
    assert len(before) == 2
    assert after == before[after.holder]
    assert (after.worker_types, after.models, after.slots) == (("sdxl",), ("sdxl",), 3)


async def test_another_worker_cannot_report_under_a_lease_that_is_not_its_own(router: Router) -> None:
    one = await router.worker("one")
    accepted = await router.submit()
    lease = await one.take()
    thief = await router.worker("thief", free=0)
    failure = worker.StageFailure(failure=job_pb2.Failure(message="no"), retryable=False)
    assert await thief.finish(lease, failure=failure) == "stale"
    step = worker.StepProgress(asset_index=0, step=1, steps=2)
    await thief.say(reports=worker.Reports(reports=[worker.Report(ref=lease.ref, progress=step)]))
    await thief.heartbeat()
    assert router.service.relay.latest_progress(accepted.job_id) == []
    assert await one.deliver(lease) == "recorded"


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


TELLS = worker.TextPiece(offset=0, text="A lighthouse")
NOT_AGAIN = "Its text was being read already, so it is not tried again."


async def start_telling(router: Router, one: ScriptedWorker, *, cannot_restart: bool, told: bool) -> worker.Lease:
    """Lease an enhancement, and have its worker say a piece of the text. Returns the lease."""
    await router.submit(enhancement_only=True, cannot_restart=cannot_restart)
    lease = await one.take()
    if told:
        await one.say(reports=worker.Reports(reports=[worker.Report(ref=lease.ref, text=TELLS)]))
    await one.heartbeat(lease)
    return lease


@pytest.mark.parametrize("end", ["fails", "stops", "hands back", "is lost"])
async def test_what_cannot_be_taken_back_is_not_tried_again_after_its_first_piece(router: Router, end: str) -> None:
    one = await router.worker()
    lease = await start_telling(router, one, cannot_restart=True, told=True)
    if end == "fails":
        failure = worker.StageFailure(failure=job_pb2.Failure(message="Out of memory."), retryable=True)
        await one.finish(lease, failure=failure)
    elif end == "stops":
        await one.finish(lease, cancelled=worker.Stopped())
    elif end == "hands back":
        await one.say(lease_reject=worker.LeaseReject(ref=lease.ref, reason="going down"))
    else:
        await lose_leases(router)
    job = await router.ended(lease.ref.job_id)
    assert job.state == job_pb2.JOB_STATE_FAILED
    assert job.failure.message.endswith(NOT_AGAIN)


@pytest.mark.parametrize(("cannot_restart", "told"), [(True, False), (False, True)])
async def test_what_was_not_told_or_can_be_taken_back_is_tried_again(
    router: Router, cannot_restart: bool, told: bool
) -> None:
    one = await router.worker()
    lease = await start_telling(router, one, cannot_restart=cannot_restart, told=told)
    failure = worker.StageFailure(failure=job_pb2.Failure(message="Out of memory."), retryable=True)
    await one.finish(lease, failure=failure)
    assert (await router.job(lease.ref.job_id)).state == job_pb2.JOB_STATE_QUEUED


async def test_the_first_piece_goes_out_only_when_it_is_noted(router: Router) -> None:
    """Over a restart, and at any replica, it is known that somebody has read."""
    one = await router.worker()
    lease = await start_telling(router, one, cannot_restart=True, told=True)
    async with router.service.storage.read() as tx:
        job = await tx.jobs.get(lease.ref.job_id)
    assert job is not None
    assert job.told
    with router.service.relay.watch_job(lease.ref.job_id) as pending:
        assert pending.text_end == len(TELLS.text)
    # Of a stage that was lost meanwhile nothing more goes out.
    router.service.relay.began(replace(job, told=False))
    lost = replace(job, told=False, state=JobState.QUEUED)
    async with router.service.storage.write() as tx:
        await tx.jobs.save([(job, lost)])
    more = worker.TextPiece(offset=0, text="Nobody reads this")
    await one.say(reports=worker.Reports(reports=[worker.Report(ref=lease.ref, text=more)]))
    await one.heartbeat()
    with router.service.relay.watch_job(lease.ref.job_id) as pending:
        assert pending.text_end == 0


async def test_what_was_told_of_an_enhancement_does_not_end_the_generation(router: Router) -> None:
    one = await router.worker()
    accepted = await router.submit(enhance_prompt=True, cannot_restart=True)
    lease = await one.take()
    await one.say(reports=worker.Reports(reports=[worker.Report(ref=lease.ref, text=TELLS)]))
    assert await one.finish(lease, text="A lighthouse at dusk") == "recorded"
    generation = await one.take()
    failure = worker.StageFailure(failure=job_pb2.Failure(message="Out of memory."), retryable=True)
    await one.finish(generation, completion_id="c2", failure=failure)
    assert (await router.job(accepted.job_id)).state == job_pb2.JOB_STATE_QUEUED


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


async def test_a_worker_that_drains_gets_no_more_and_finishes_what_it_has(router: Router) -> None:
    one = await router.worker("one")
    first = await router.submit()
    lease = await one.take()
    await one.say(drain=worker.Drain())
    await one.heartbeat(lease)
    second = await router.submit()
    other = await router.worker("other")
    assert (await other.take()).ref.job_id == second.job_id
    assert await one.deliver(lease) == "recorded"
    assert (await router.ended(first.job_id)).state == job_pb2.JOB_STATE_SUCCEEDED


async def test_a_router_that_stops_asks_its_workers_to_connect_again(router: Router) -> None:
    one = await router.worker()
    accepted = await router.submit()
    lease = await one.take()
    stopping = asyncio.create_task(router.service.server.stop())
    await one.hear("drain")
    assert (await one.hear("reconnect")).reconnect.within.ToTimedelta() > timedelta(0)
    await stopping
    async with router.service.storage.read() as tx:
        job = await tx.jobs.get(accepted.job_id)
    # What it holds stays its own: it names the lease when it is back.
    assert job is not None
    assert (job.state, job.fence) == (JobState.RUNNING, lease.ref.fence)


async def test_the_first_request_of_a_session_must_be_hello(router: Router) -> None:
    key = router.service.rings.read_key_file("worker.key").reveal()
    channel = await router.channel_with(key, router.target)
    session = ScriptedWorker(channel, router)
    await session.say(credits=worker.Credits(free=1))
    assert await session.end() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_missing_worker_is_visible_and_says_what_to_start(router: Router) -> None:
    accepted = await router.submit()
    stage = (await router.job(accepted.job_id)).stages[0]
    assert "No worker of type sdxl is connected" in stage.waits_for
    assert f"--connect {router.target}" in stage.waits_for
    models = {model.name: model for model in (await router.jobs.ListModels(pb.ListModelsRequest())).models}
    assert models["sdxl"].connected_workers == 0
    one = await router.worker(worker_types=["sdxl"], free=0)
    models = {model.name: model for model in (await router.jobs.ListModels(pb.ListModelsRequest())).models}
    assert (models["sdxl"].connected_workers, models["sdxl"].free_slots, models["sdxl"].hint) == (1, 4, "")
    assert models["wan"].connected_workers == 0
    await one.disconnect()


async def test_an_operator_sees_the_workers_and_what_is_written_on_them(router: Router) -> None:
    one = await router.worker("attic", worker_types=["sdxl"], models=["sdxl"], labels={"room": "attic"}, version="9")
    await router.submit()
    await one.heartbeat(await one.take())
    await router.service.reaper.refresh_pools()
    (seen,) = (await router.jobs.ListWorkers(pb.ListWorkersRequest())).workers
    assert (seen.name, dict(seen.labels), seen.version) == ("attic", {"room": "attic"}, "9")
    assert (list(seen.worker_types), list(seen.models), seen.slots, seen.leases) == (["sdxl"], ["sdxl"], 4, 1)
    assert seen.key_id
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await (await router.stubs_of("ada")).ListWorkers(pb.ListWorkersRequest())
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_job_that_waits_for_a_busy_worker_says_so(router: Router) -> None:
    one = await router.worker(slots=1, free=1)
    await router.submit()
    await one.take()
    waiting = await router.submit()
    await router.service.reaper.refresh_pools()
    stage = (await router.job(waiting.job_id)).stages[0]
    assert stage.waits_for == "All workers of type sdxl are busy; 1 waiting."
    other = await router.worker("two", slots=4, free=0)
    stage = (await router.job(waiting.job_id)).stages[0]
    assert stage.waits_for == "A worker of type sdxl is free; it starts in a moment, if no limit holds it."
    await other.disconnect()


async def test_no_more_is_leased_than_the_worker_said_it_takes(router: Router) -> None:
    one = await router.worker(free=2)
    for _ in range(4):
        await router.submit()
    leases = [await one.take(), await one.take()]
    # The next thing that the router says is the answer, not a third lease, also after a round.
    assert not (await one.heartbeat(*leases)).lost
    assert await router.service.dispatch.lease_waiting() == 0
    assert not (await one.heartbeat(*leases)).lost
    await one.say(credits=worker.Credits(free=1))
    leases.append(await one.take())
    assert not (await one.heartbeat(*leases)).lost
    assert await router.service.dispatch.lease_waiting() == 0
    assert not (await one.heartbeat(*leases)).lost


async def test_an_old_fence_changes_nothing_even_from_the_worker_that_has_the_new_one(router: Router) -> None:
    one = await router.worker(free=1)
    accepted = await router.submit()
    old = (await one.hear("lease")).lease
    await one.say(lease_reject=worker.LeaseReject(ref=old.ref, reason="not now"))
    await one.say(credits=worker.Credits(free=1))
    new = await one.take()
    assert new.ref.fence == old.ref.fence + 1
    failure = worker.StageFailure(failure=job_pb2.Failure(message="late"), retryable=False)
    assert await one.finish(old, failure=failure) == "stale"
    assert await one.deliver(new, completion_id="c2") == "recorded"
    assert (await router.ended(accepted.job_id)).state == job_pb2.JOB_STATE_SUCCEEDED


async def test_a_transition_is_written_only_if_the_row_still_is_what_it_began_with(router: Router) -> None:
    accepted = await router.submit()
    async with router.service.storage.write() as tx:
        before = await tx.jobs.get(accepted.job_id)
        assert before is not None
        await tx.jobs.save([(before, before.requeued(began=True))])
        with pytest.raises(Aborted):
            await tx.jobs.save([(before, before.requeued(began=True))])


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
