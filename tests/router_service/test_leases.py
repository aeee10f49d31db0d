"""Leases and fences: who may report, what a lost worker leaves behind, and what a repeat changes."""

from __future__ import annotations

from datetime import timedelta

import pytest

from atelier.router.v1 import job_pb2
from atelier.worker.v1 import worker_service_pb2 as worker
from router_service.registry_domain import ConnectedWorker
from service_kit.errors import Aborted
from tests.router_service.losing import TTL, lose_leases, waiting
from tests.router_service.support import Router

DATABASES = ("sqlite", "postgresql")


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
    first = await router.worker("first", free=1)
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
    # It has room for one, so that the job does not come back to it.
    silent = await router.worker("silent", free=1)
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
    with router.service.relay.watch_job(accepted.job_id) as pending:
        assert not pending.progress
    assert await one.deliver(lease) == "recorded"


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
    with pytest.raises(Aborted):
        async with router.service.storage.write() as tx:
            before = await tx.jobs.get(accepted.job_id)
            assert before is not None
            await tx.jobs.save([(before, before.requeued(began=True))])
            # SQLite says so no later than with the commit.
            await tx.jobs.save([(before, before.requeued(began=True))])
    async with router.service.storage.read() as tx:
        assert await tx.jobs.get(accepted.job_id) == before, "neither is written"
