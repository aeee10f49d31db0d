"""The life of a job, told by a scripted worker: lease, reports, outcome, settlement, and what watchers see of it."""

from __future__ import annotations

import asyncio
import gc
import sys
from typing import Any

import pytest

from atelier.asset.v1 import asset_pb2, asset_service_pb2
from atelier.router.v1 import job_pb2
from atelier.router.v1 import router_service_pb2 as pb
from atelier.type.v1 import generation_pb2
from atelier.worker.v1 import worker_service_pb2 as worker
from router_service import watch
from service_kit.events.watching import NEWS, ONCE, WATCH
from tests.router_service.support import WAIT_S, Router


async def test_a_job_succeeds_and_its_assets_are_the_announced_ones(router: Router) -> None:
    one = await router.worker()
    accepted = await router.submit(quantity=2, seed=0)
    lease = await one.take()
    assert (lease.ref.job_id, lease.ref.stage, lease.ref.fence, lease.attempt) == (accepted.job_id, 0, 1, 1)
    assert await one.deliver(lease) == "recorded"
    job = await router.ended(accepted.job_id)
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED
    assert (job.requested, job.delivered) == (2, 2)
    assert sorted(await router.asset_ids(job.job_id)) == sorted(accepted.asset_ids)


async def test_nothing_staged_is_visible_and_success_comes_after_the_assets(router: Router) -> None:
    one = await router.worker()
    accepted = await router.submit()
    lease = await one.take()
    receipt = await one.upload(lease, 0)
    assert await router.asset_ids(accepted.job_id) == []
    manifest = worker.OutputManifest(outputs=[worker.OutputResult(asset_index=0, receipt=receipt)])
    await one.finish(lease, outputs=manifest)
    async for event in router.jobs.WatchJob(pb.WatchJobRequest(job_id=accepted.job_id)):
        job = event.snapshot if event.HasField("snapshot") else event.state
        if job.state == job_pb2.JOB_STATE_SUCCEEDED:
            assert await router.asset_ids(accepted.job_id) == list(accepted.asset_ids)
        else:
            assert all(output.state != job_pb2.OUTPUT_STATE_DELIVERED for output in job.outputs)


async def test_a_partial_batch_keeps_its_indexes(router: Router) -> None:
    one = await router.worker()
    accepted = await router.submit(quantity=3)
    lease = await one.take()
    refused = job_pb2.Failure(message="The engine refused this one.")
    results = [
        worker.OutputResult(asset_index=2, receipt=await one.upload(lease, 2)),
        worker.OutputResult(asset_index=1, failure=refused),
    ]
    await one.finish(lease, outputs=worker.OutputManifest(outputs=results))
    job = await router.ended(accepted.job_id)
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED
    assert [output.state for output in job.outputs] == [
        job_pb2.OUTPUT_STATE_FAILED,
        job_pb2.OUTPUT_STATE_FAILED,
        job_pb2.OUTPUT_STATE_DELIVERED,
    ]
    assert job.outputs[0].failure.message == "The worker did not report this output."
    assert job.outputs[1].failure.message == refused.message
    assert await router.asset_ids(job.job_id) == [accepted.asset_ids[2]]


async def test_watchers_see_progress_previews_and_every_change_in_order(router: Router) -> None:
    one = await router.worker()
    accepted = await router.submit(quantity=2)
    stream = router.jobs.WatchJob(pb.WatchJobRequest(job_id=accepted.job_id))
    lease = await one.take()
    step = worker.StepProgress(asset_index=1, step=3, steps=12)
    preview = worker.PreviewImage(asset_index=1, step=3, content_type="image/webp", image=b"a picture")
    reports = [worker.Report(ref=lease.ref, progress=step), worker.Report(ref=lease.ref, preview=preview)]
    await one.say(reports=worker.Reports(reports=reports))
    seen: dict[str, pb.WatchJobResponse] = {}
    async with asyncio.timeout(WAIT_S):
        while not {"progress", "preview"} <= set(seen):
            event: Any = await stream.read()
            seen[event.WhichOneof("event")] = event
    assert seen["progress"].progress.fraction == 3 / 12 / 2
    assert seen["preview"].preview.image == b"a picture"
    await one.deliver(lease)
    versions = []
    async with asyncio.timeout(WAIT_S):
        async for event in router.jobs.WatchJob(
            pb.WatchJobRequest(job_id=accepted.job_id, after=seen["snapshot"].cursor)
        ):
            assert event.WhichOneof("event") == "state"
            versions.append(event.state.version)
    assert versions == sorted(set(versions))
    stream.cancel()


async def test_a_late_watcher_gets_the_newest_preview_and_the_text_so_far(router: Router) -> None:
    one = await router.worker()
    accepted = await router.submit(enhancement_only=True)
    lease = await one.take()
    pieces = [worker.TextPiece(offset=0, text="a red "), worker.TextPiece(offset=6, text="kite")]
    reports = [worker.Report(ref=lease.ref, text=piece) for piece in pieces]
    await one.say(reports=worker.Reports(reports=reports))
    # The heartbeat's answer proves that the reports before it were taken.
    await one.say(heartbeat=worker.Heartbeat(leases=[lease.ref]))
    await one.hear("heartbeat_ack")
    stream = router.jobs.WatchJob(pb.WatchJobRequest(job_id=accepted.job_id))
    async with asyncio.timeout(WAIT_S):
        event: Any = await stream.read()
        while not event.HasField("text_delta"):
            event = await stream.read()
    assert (event.text_delta.offset, event.text_delta.text) == (0, "a red kite")
    stream.cancel()
    # Whoever asks for what there is gets all of this, and then the end; of all jobs the changes only.
    once = ((WATCH, ONCE),)
    async with asyncio.timeout(WAIT_S):
        request = pb.WatchJobRequest(job_id=accepted.job_id)
        told = [event async for event in router.jobs.WatchJob(request, metadata=once)]
        assert [event.WhichOneof("event") for event in told] == ["snapshot", "text_delta"]
        everything = [event async for event in router.jobs.WatchJobs(pb.WatchJobsRequest(), metadata=once)]
        assert [event.WhichOneof("event") for event in everything] == ["snapshot"]


async def test_who_wants_news_alone_is_not_told_how_a_job_is_that_goes_on(router: Router) -> None:
    one = await router.worker()
    accepted = await router.submit(enhancement_only=True)
    lease = await one.take()
    request, news = pb.WatchJobRequest(job_id=accepted.job_id), ((WATCH, NEWS),)
    stream = router.jobs.WatchJob(request, metadata=news)
    # Then it has begun.
    await stream.initial_metadata()
    assert await one.finish(lease, text="a red kite") == "recorded"
    async with asyncio.timeout(WAIT_S):
        told = [event async for event in stream]
        assert [event.WhichOneof("event") for event in told] == ["state"]
        assert told[0].state.enhanced_prompt == "a red kite"
        again = [event async for event in router.jobs.WatchJob(request, metadata=news)]
    assert [event.snapshot for event in again] == [told[0].state]


async def test_a_watch_that_has_told_the_end_leaves_nothing_to_the_collector(router: Router) -> None:
    one = await router.worker()
    accepted = await router.submit(enhancement_only=True)
    lease = await one.take()
    before, left = sys.get_asyncgen_hooks(), []

    def note(generator: Any) -> None:
        left.append(generator.__qualname__)
        if before.finalizer is not None:
            before.finalizer(generator)

    sys.set_asyncgen_hooks(firstiter=before.firstiter, finalizer=note)
    try:
        stream = router.jobs.WatchJob(pb.WatchJobRequest(job_id=accepted.job_id))
        async with asyncio.timeout(WAIT_S):
            first: Any = await stream.read()
            assert first.WhichOneof("event") == "snapshot"
            await one.finish(lease, text="a red kite")
            assert [event.state.state async for event in stream] == [job_pb2.JOB_STATE_SUCCEEDED]
        gc.collect()
    finally:
        sys.set_asyncgen_hooks(*before)
    assert not [name for name in left if name.startswith("Watch.")]


async def test_a_snapshot_says_whether_more_jobs_have_not_ended(
    router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_MOST_JOBS", 2)
    once = ((WATCH, ONCE),)
    told = []
    accepted = []
    for _ in range(3):
        accepted.append((await router.submit()).job_id)
        async for event in router.jobs.WatchJobs(pb.WatchJobsRequest(), metadata=once):
            told.append(([job.job_id for job in event.snapshot.jobs], event.snapshot.more))
    first, second, third = accepted
    assert told == [([first], False), ([second, first], False), ([third, second], True)]


async def test_a_finished_stream_that_is_resumed_says_that_it_has_ended(router: Router) -> None:
    one = await router.worker()
    accepted = await router.submit()
    await one.deliver(await one.take())
    cursor = ""
    async for event in router.jobs.WatchJob(pb.WatchJobRequest(job_id=accepted.job_id)):
        cursor = event.cursor or cursor
    resumed = router.jobs.WatchJob(pb.WatchJobRequest(job_id=accepted.job_id, after=cursor))
    assert ("atelier-stream", "ended") in [(key, value) for key, value in await resumed.initial_metadata()]
    assert [event async for event in resumed] == []
    unknown = router.jobs.WatchJob(pb.WatchJobRequest(job_id=accepted.job_id, after="not-a-cursor"))
    assert [event.WhichOneof("event") async for event in unknown] == ["snapshot"]


async def assets_of(router: Router, job_id: str) -> list[asset_pb2.Asset]:
    return list((await router.assets.ListAssets(asset_service_pb2.ListAssetsRequest(job_id=job_id))).assets)


async def test_an_enhanced_job_has_two_stages_and_shows_both_prompts(router: Router) -> None:
    one = await router.worker()
    accepted = await router.submit(prompt="harbour at night", enhance_prompt=True)
    first = await one.take()
    assert (first.ref.stage, first.spec.prompt) == (0, "harbour at night")
    by = generation_pb2.EnhancedBy(engine="ignored", model="chat", template="enhance/sdxl", template_version="v" * 101)
    assert await one.finish(first, text="harbour at night, lamps on wet stone", enhanced_by=by) == "recorded"
    second = await one.take()
    assert second.ref.stage == 1
    assert second.ref.fence > first.ref.fence
    assert (second.spec.prompt, second.spec.original_prompt) == (
        "harbour at night, lamps on wet stone",
        "harbour at night",
    )
    await one.deliver(second, completion_id="c2")
    job = await router.ended(accepted.job_id)
    assert (job.prompt, job.enhanced_prompt) == ("harbour at night", "harbour at night, lamps on wet stone")
    assert [stage.state for stage in job.stages] == [job_pb2.STAGE_STATE_DONE, job_pb2.STAGE_STATE_DONE]
    kept = generation_pb2.EnhancedBy(
        engine="scripted", model="chat", template="enhance/sdxl", template_version="v" * 100
    )
    assert (first.spec.HasField("enhanced_by"), second.spec.enhanced_by, job.enhanced_by) == (False, kept, kept)
    [asset] = await assets_of(router, accepted.job_id)
    made = asset.provenance
    assert (made.enhanced_by, made.enhance_prompt, made.warn_on_enhancement_failure) == (kept, True, False)


async def test_a_worker_that_does_not_say_what_wrote_a_prompt_is_named_by_its_engine(router: Router) -> None:
    one = await router.worker()
    accepted = await router.submit(enhancement_only=True)
    await one.finish(await one.take(), text="harbour at night, lamps")
    assert (await router.ended(accepted.job_id)).enhanced_by == generation_pb2.EnhancedBy(engine="scripted")


async def test_a_failed_enhancement_is_a_warning_only_if_the_client_said_so(router: Router) -> None:
    one = await router.worker()
    broken = worker.StageFailure(failure=job_pb2.Failure(message="The upstream is down."), retryable=False)
    strict = await router.submit(enhance_prompt=True)
    await one.finish(await one.take(), failure=broken)
    job = await router.ended(strict.job_id)
    assert (job.state, job.failure.message) == (job_pb2.JOB_STATE_FAILED, "The upstream is down.")
    lenient = await router.submit(enhance_prompt=True, on_enhancement_failure="ON_ENHANCEMENT_FAILURE_WARN")
    await one.finish(await one.take(), completion_id="c2", failure=broken)
    await one.deliver(await one.take(), completion_id="c3")
    job = await router.ended(lenient.job_id)
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED
    assert [warning.code for warning in job.warnings] == ["enhancement_failed"]
    assert not job.HasField("enhanced_by")
    [asset] = await assets_of(router, lenient.job_id)
    made = asset.provenance
    assert (made.enhanced_prompt, made.enhance_prompt, made.warn_on_enhancement_failure) == ("", True, True)
