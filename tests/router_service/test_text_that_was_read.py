"""Text that somebody has read: what cannot be taken back is not tried again."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from atelier.router.v1 import job_pb2
from atelier.worker.v1 import worker_service_pb2 as worker
from router_service.domain import JobState, LeaseRef
from router_service.first_words import AWAITED_S
from router_service.storage.jobs import Jobs
from tests.router_service.losing import lose_leases
from tests.router_service.support import Router, ScriptedWorker

TELLS = worker.TextPiece(offset=0, text="A lighthouse")

DATABASES = ("sqlite", "postgresql")


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


async def told_of(router: Router, lease: worker.Lease) -> bool:
    async with router.service.storage.read() as tx:
        job = await tx.jobs.get(lease.ref.job_id)
    assert job is not None
    return job.told


async def test_the_first_piece_goes_out_only_when_it_is_noted(router: Router) -> None:
    """Over a restart, and at any replica, it is known that somebody has read."""
    one = await router.worker()
    lease = await start_telling(router, one, cannot_restart=True, told=False)
    assert await told_of(router, lease), "the first piece waits for a transaction of its own"
    await router.service.reaper.round()
    assert await told_of(router, lease), "it has had no time to say anything"
    router.clock.advance(timedelta(seconds=AWAITED_S))
    await router.service.reaper.round()
    assert not await told_of(router, lease), "a stage that says nothing for long is not tried again after a crash"
    await one.say(reports=worker.Reports(reports=[worker.Report(ref=lease.ref, text=TELLS)]))
    await one.heartbeat(lease)
    assert await told_of(router, lease)
    with router.service.relay.watch_job(lease.ref.job_id) as pending:
        assert pending.text_end == len(TELLS.text)
    await router.service.reaper.round()
    assert await told_of(router, lease)


async def test_of_a_stage_that_was_lost_meanwhile_no_text_goes_out(router: Router) -> None:
    one = await router.worker()
    lease = await start_telling(router, one, cannot_restart=True, told=False)
    async with router.service.storage.write() as tx:
        jobs = await tx.jobs.lock([lease.ref.job_id])
        job = jobs[lease.ref.job_id]
        lost = replace(job, told=False, state=JobState.QUEUED)
        await tx.jobs.save([(job, lost)])
    router.service.relay.began(replace(job, told=False))
    await one.say(reports=worker.Reports(reports=[worker.Report(ref=lease.ref, text=TELLS)]))
    await one.heartbeat()
    with router.service.relay.watch_job(lease.ref.job_id) as pending:
        assert pending.text_end == 0


@pytest.mark.parametrize("end", ["stops", "hands back", "is lost", "comes back without it"])
async def test_what_nobody_has_read_is_tried_again_however_its_lease_ends(router: Router, end: str) -> None:
    one = await router.worker()
    lease = await start_telling(router, one, cannot_restart=True, told=False)
    assert await told_of(router, lease)
    if end == "stops":
        await one.finish(lease, cancelled=worker.Stopped())
    elif end == "hands back":
        await one.say(lease_reject=worker.LeaseReject(ref=lease.ref, reason="going down"))
        await one.heartbeat()
    elif end == "is lost":
        await lose_leases(router)
    else:
        await router.worker()
    assert (await router.job(lease.ref.job_id)).state in (job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_RUNNING)


@pytest.mark.parametrize("end", ["stops", "is lost"])
async def test_what_is_said_while_the_end_of_its_lease_is_written_goes_nowhere(
    router: Router, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job is tried again, so somebody would read two beginnings."""
    # It takes no second lease, which would be marked like the first.
    one = await router.worker(free=1)
    lease = await start_telling(router, one, cannot_restart=True, told=False)
    relay, save = router.service.relay, Jobs.save

    async def saved(jobs: Jobs, transitions: Any) -> None:
        if not relay.holds_text(lease.ref.job_id):
            relay.text(lease.ref.job_id, offset=TELLS.offset, text=TELLS.text)
        await save(jobs, transitions)

    monkeypatch.setattr(Jobs, "save", saved)
    with relay.watch_job(lease.ref.job_id) as pending:
        if end == "stops":
            await one.finish(lease, cancelled=worker.Stopped())
        else:
            await lose_leases(router)
        assert pending.text_end == 0
    assert not await told_of(router, lease)


async def test_text_that_is_being_noted_is_not_unsaid(router: Router) -> None:
    one = await router.worker()
    lease = await start_telling(router, one, cannot_restart=True, told=False)
    ref = LeaseRef(lease.ref.job_id, lease.ref.stage, lease.ref.fence)
    relay, (session,) = router.service.relay, router.service.sessions
    relay.hold_text(ref)
    await router.service.dispatch.text_begins(session, ref)
    assert not relay.has_told_nothing(ref, session.epoch)
    assert not relay.holds_text(ref.job_id)


async def test_another_session_of_the_worker_may_have_told_what_this_one_has_not(router: Router) -> None:
    """At another replica, of which this one hears nothing: the mark stays."""
    one = await router.worker()
    lease = await start_telling(router, one, cannot_restart=True, told=False)
    words = router.service.relay.first_words
    ref = LeaseRef(lease.ref.job_id, lease.ref.stage, lease.ref.fence)
    words.expect(ref, "an earlier session", router.clock.monotonic() - AWAITED_S)
    assert words.none_of(ref, "an earlier session")
    assert not words.none_of(ref, "this session")
    assert not words.none_of(replace(ref, fence=ref.fence + 1), "an earlier session")
    await router.service.dispatch.unmark_silent()
    assert await told_of(router, lease)
    assert not words.none_of(ref, "an earlier session")


@pytest.mark.parametrize("by", ["its holder", "another holder", "an older fence"])
async def test_only_the_holder_of_the_lease_that_counts_marks_the_text(router: Router, by: str) -> None:
    one = await router.worker()
    lease = await start_telling(router, one, cannot_restart=False, told=False)
    await router.worker("two")
    ref = LeaseRef(lease.ref.job_id, lease.ref.stage, lease.ref.fence)
    name = "two" if by == "another holder" else "one"
    (session,) = [each for each in router.service.sessions if each.worker.holder.endswith(f"/{name}")]
    if by == "an older fence":
        ref = replace(ref, fence=ref.fence - 1)
    await router.service.dispatch.text_begins(session, ref)
    assert await told_of(router, lease) is (by == "its holder")


async def test_a_silent_lease_of_an_older_fence_unmarks_nothing(router: Router) -> None:
    one = await router.worker()
    lease = await start_telling(router, one, cannot_restart=True, told=False)
    (session,) = router.service.sessions
    older = LeaseRef(lease.ref.job_id, lease.ref.stage, lease.ref.fence - 1)
    words = router.service.relay.first_words
    words.forget(older.job_id)
    words.expect(older, session.epoch, router.clock.monotonic() - AWAITED_S)
    await router.service.dispatch.unmark_silent()
    assert await told_of(router, lease)


async def test_what_was_told_of_an_enhancement_does_not_end_the_generation(router: Router) -> None:
    one = await router.worker()
    accepted = await router.submit(enhance_prompt=True, cannot_restart=True)
    lease = await one.take()
    await one.say(reports=worker.Reports(reports=[worker.Report(ref=lease.ref, text=TELLS)]))
    assert await one.finish(lease, text="A lighthouse at dusk") == "recorded"
    generation = await one.take()
    assert not await told_of(router, generation)
    failure = worker.StageFailure(failure=job_pb2.Failure(message="Out of memory."), retryable=True)
    await one.finish(generation, completion_id="c2", failure=failure)
    assert (await router.job(accepted.job_id)).state == job_pb2.JOB_STATE_QUEUED
