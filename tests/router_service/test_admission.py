"""What admission promises: a repeat is the same job, references are held before anything runs, refusals say why."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from hashlib import sha256
from typing import Any

import grpc
import pytest

from atelier.asset.v1 import asset_service_pb2, upload_service_pb2
from atelier.router.v1 import job_pb2, model_pb2
from atelier.router.v1 import router_service_pb2 as pb
from atelier.type.v1 import generation_pb2
from service_kit.errors import ErrorReason
from service_kit.rpc_errors import from_rpc_error
from service_kit.validation import default_of
from tests.router_service.support import WAIT_S, Router
from tests.support.tiny_engine import png

RETRY = (("atelier-retry-count", "1"),)


def request(**fields: Any) -> pb.GenerateContentRequest:
    """Return a request for a picture, with these fields in place of the usual ones."""
    return pb.GenerateContentRequest(**{"prompt": "x", "model": "sdxl", "format": "FORMAT_IMAGE", "seed": 1, **fields})


async def refused(router: Router, **fields: Any) -> Any:
    """Submit what must be refused; return the error."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await router.jobs.GenerateContent(request(**fields))
    return from_rpc_error(caught.value)


async def upload(router: Router) -> str:
    """Bring in a picture as the owner. Returns the asset's id."""
    stub = router.uploads_of_admin
    reply = await stub.CreateUpload(iter([upload_service_pb2.CreateUploadRequest(data=png(3), size_bytes=len(png(3)))]))
    return reply.asset.asset_id


async def test_a_key_that_is_sent_twice_is_one_job(router: Router) -> None:
    first = await router.jobs.GenerateContent(request(idempotency_key="k"))
    second = await router.jobs.GenerateContent(request(idempotency_key="k"))
    assert second.job_id == first.job_id
    assert len((await router.jobs.ListJobs(pb.ListJobsRequest())).jobs) == 1


async def test_eight_submits_at_once_with_one_key_are_one_job(router: Router) -> None:
    replies = await asyncio.gather(*(router.jobs.GenerateContent(request(idempotency_key="k")) for _ in range(8)))
    assert len({reply.job_id for reply in replies}) == 1


async def test_a_key_with_another_body_is_an_error(router: Router) -> None:
    await router.jobs.GenerateContent(request(idempotency_key="k"))
    error = await refused(router, idempotency_key="k", prompt="y")
    assert error.reason is ErrorReason.IDEMPOTENCY_KEY_REUSED


async def test_a_key_is_remembered_for_its_owner_only_and_for_seven_days(router: Router) -> None:
    mine = await router.jobs.GenerateContent(request(idempotency_key="k"))
    theirs = await (await router.stubs_of("bob")).GenerateContent(request(idempotency_key="k"))
    assert theirs.job_id != mine.job_id
    router.clock.advance(timedelta(days=7, seconds=1))
    await router.service.reaper.purge()
    assert (await router.jobs.GenerateContent(request(idempotency_key="k"))).job_id != mine.job_id


async def test_a_marked_retry_without_a_key_finds_its_job_within_ten_minutes(router: Router) -> None:
    first = await router.jobs.GenerateContent(request())
    assert (await router.jobs.GenerateContent(request(), metadata=RETRY)).job_id == first.job_id
    assert (await router.jobs.GenerateContent(request(prompt="other"), metadata=RETRY)).job_id != first.job_id
    router.clock.advance(timedelta(minutes=10, seconds=1))
    assert (await router.jobs.GenerateContent(request(), metadata=RETRY)).job_id != first.job_id


async def test_two_deliberate_equal_submits_are_two_jobs(router: Router) -> None:
    assert (await router.submit(seed=1)).job_id != (await router.submit(seed=1)).job_id


async def test_an_absent_seed_is_drawn_and_zero_is_a_seed(router: Router) -> None:
    drawn = {(await router.submit()).generation_settings.seed for _ in range(3)}
    assert len(drawn) == 3
    assert (await router.submit(seed=0)).generation_settings.seed == 0


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"format": 0}, "format", ErrorReason.MISSING_FIELD),
        ({"quantity": 0}, "quantity", ErrorReason.OUT_OF_RANGE),
        ({"model": "wan", "quantity": 5}, "quantity", ErrorReason.OUT_OF_RANGE),
        ({"seed": 2**53}, "seed", ErrorReason.OUT_OF_RANGE),
        ({"seed": 2**53 - 1, "quantity": 2}, "seed", ErrorReason.OUT_OF_RANGE),
        ({"aspect_ratio": "7:5"}, "aspect_ratio", ErrorReason.INVALID_VALUE),
        ({"duration_seconds": 4}, "duration_seconds", ErrorReason.CONFLICTING_FIELDS),
        ({"enhancement_only": True, "enhance_prompt": True}, "enhance_prompt", ErrorReason.CONFLICTING_FIELDS),
        ({"enhancement_only": True, "quantity": 2}, "quantity", ErrorReason.CONFLICTING_FIELDS),
        ({"model": "image"}, "model", ErrorReason.UNKNOWN_MODEL),
        ({"prompt": "x" * 8001}, "prompt", ErrorReason.OUT_OF_RANGE),
        ({"format": 77}, "format", ErrorReason.INVALID_VALUE),
    ],
)
async def test_a_field_that_cannot_be_is_named(
    router: Router, fields: dict[str, Any], field: str, reason: ErrorReason
) -> None:
    error = await refused(router, **fields)
    assert ([problem.field for problem in error.fields], error.reason) == ([field], reason)


async def test_a_format_that_is_sent_as_a_model_is_told_what_to_send(router: Router) -> None:
    error = await refused(router, model="video", format=0)
    assert 'send "format": "video" and a model such as "wan"' in error.message


async def test_limits_come_before_the_model_and_the_model_before_ownership(router: Router) -> None:
    foreign = {"asset_id": "nobody's", "kind": "REFERENCE_KIND_STYLE"}
    error = await refused(router, model="video", reference_images=[foreign | {"strength": 2}])
    assert [problem.field for problem in error.fields] == ["reference_images[0].strength"]
    error = await refused(router, model="video", reference_images=[foreign])
    assert [problem.field for problem in error.fields] == ["model"]
    error = await refused(router, reference_images=[foreign])
    assert [problem.field for problem in error.fields] == ["reference_images[0].asset_id"]
    assert error.reason is ErrorReason.NOT_FOUND


async def test_references_are_held_until_the_job_is_settled(router: Router) -> None:
    asset_id = await upload(router)
    reference = {"asset_id": asset_id, "kind": "REFERENCE_KIND_STYLE", "strength": 0}
    one = await router.worker()
    accepted = await router.submit(reference_images=[reference])
    lease = await one.take()
    leased = lease.spec.references[0]
    assert (leased.reference.asset_id, leased.reference.strength) == (asset_id, 0)
    assert leased.media.content_type == "image/png"
    assert (leased.media.size_bytes, leased.media.sha256) == (len(png(3)), sha256(png(3)).hexdigest())
    # Discarded meanwhile: gone for its owner, still there for the job.
    await router.assets.DiscardAsset(asset_service_pb2.DiscardAssetRequest(asset_id=asset_id))
    metadata = (("atelier-lease-token", lease.token),)
    read = router.uploads.ReadReference(upload_service_pb2.ReadReferenceRequest(asset_id=asset_id), metadata=metadata)
    assert b"".join([piece.data async for piece in read]) == png(3)
    await one.deliver(lease)
    job = await router.ended(accepted.job_id)
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED
    assert [image.asset_id for image in job.reference_images] == [asset_id]
    async with asyncio.timeout(WAIT_S):
        while await readable(router, asset_id, metadata):  # noqa: ASYNC110 - removal follows by itself, and tells nobody
            await asyncio.sleep(0.01)


async def readable(router: Router, asset_id: str, metadata: Any) -> bool:
    """Tell whether the bytes of a reference can be read under a lease."""
    read = router.uploads.ReadReference(upload_service_pb2.ReadReferenceRequest(asset_id=asset_id), metadata=metadata)
    try:
        return bool([piece async for piece in read])
    except grpc.aio.AioRpcError as error:
        assert error.code() is grpc.StatusCode.NOT_FOUND
        return False


async def test_nothing_is_leased_before_the_holds_are_confirmed(router: Router) -> None:
    asset_id = await upload(router)
    await router.stop_settling()
    reference = {"asset_id": asset_id, "kind": "REFERENCE_KIND_STYLE"}
    one = await router.worker()
    held = await router.submit(reference_images=[reference])
    free = await router.submit()
    assert (await one.take()).ref.job_id == free.job_id
    assert (await router.job(held.job_id)).state == job_pb2.JOB_STATE_QUEUED
    await router.service.settlement.send_due()
    assert (await one.take()).ref.job_id == held.job_id


async def test_a_reference_that_is_gone_before_the_confirmation_fails_the_job_and_says_so(router: Router) -> None:
    asset_id = await upload(router)
    await router.stop_settling()
    accepted = await router.submit(reference_images=[{"asset_id": asset_id, "kind": "REFERENCE_KIND_STYLE"}])
    router.clock.advance(timedelta(seconds=61))
    await router.assets.DiscardAsset(asset_service_pb2.DiscardAssetRequest(asset_id=asset_id))
    await router.service.settlement.send_due()
    job = await router.job(accepted.job_id)
    assert (job.state, "reference" in job.failure.message) == (job_pb2.JOB_STATE_FAILED, True)


async def test_what_is_absent_is_what_the_contract_says(router: Router) -> None:
    def said(field: str) -> str:
        return default_of(pb.GenerateContentRequest.DESCRIPTOR.fields_by_name[field])

    asset_id = await upload(router)
    one = await router.worker()
    image = await router.submit(reference_images=[{"asset_id": asset_id, "kind": "REFERENCE_KIND_STYLE"}])
    settings = image.generation_settings
    assert settings.quantity == int(said("quantity"))
    assert generation_pb2.Quality.Name(settings.quality).removeprefix("QUALITY_").lower() == said("quality")
    leased = (await one.take()).spec.references[0].reference
    strength = generation_pb2.ReferenceImage.DESCRIPTOR.fields_by_name["strength"]
    assert leased.HasField("strength")
    assert leased.strength == float(default_of(strength))
    video = (await router.submit(model="wan-2.1", format="FORMAT_VIDEO")).generation_settings
    assert video.frames == float(said("duration_seconds")) * video.frame_rate
    assert f"{settings.aspect_ratio} for an image, {video.aspect_ratio} for a video" == said("aspect_ratio")


async def test_each_model_has_a_deadline_of_its_own_and_an_enhancement_adds_to_it(router: Router) -> None:
    async def allowed(**fields: Any) -> timedelta:
        job_id = (await router.submit(**fields)).job_id
        async with router.service.storage.read() as tx:
            job = await tx.jobs.get(job_id)
        assert job is not None
        return job.deadline_at - job.created_at

    assert await allowed() == timedelta(minutes=15)
    assert await allowed(model="wan-2.1", format="FORMAT_VIDEO") == timedelta(minutes=30)
    assert await allowed(enhance_prompt=True) == timedelta(minutes=17)


async def test_a_request_may_have_an_earlier_deadline_but_no_later_one(router: Router) -> None:
    for seconds, kept in ((5, 5), (86_400, 900)):
        reply = await router.jobs.GenerateContent(request(deadline_seconds=seconds))
        job = (await router.jobs.GetJob(pb.GetJobRequest(job_id=reply.job_id))).job
        assert job.deadline_at.ToNanoseconds() - job.created_at.ToNanoseconds() == kept * 10**9
    error = await refused(router, deadline_seconds=0)
    assert [problem.field for problem in error.fields] == ["deadline_seconds"]


async def test_effective_values_are_in_the_reply(router: Router) -> None:
    reply = await router.submit(quality="QUALITY_HIGH", aspect_ratio="16:9", quantity=2)
    settings = reply.generation_settings
    assert (settings.size, settings.steps, settings.quantity) == ("1712x960", 20, 2)
    video = (await router.submit(model="wan-2.1", format="FORMAT_VIDEO", duration_seconds=4)).generation_settings
    assert (video.model, video.frames, video.frame_rate, video.aspect_ratio) == ("wan", 64, 16, "16:9")
    assert video.format == generation_pb2.FORMAT_VIDEO


async def test_a_video_has_the_frame_rate_of_its_model_or_the_one_that_is_asked_for(router: Router) -> None:
    row = model_pb2.Model(
        name="reel",
        stage=job_pb2.STAGE_KIND_GENERATE,
        worker_type="wan",
        formats=[generation_pb2.FORMAT_VIDEO],
        default_frame_rate=30,
    )
    for rate, given in ((30, row), (24, model_pb2.Model(name="old", **_without_rate(row)))):
        await router.jobs.PutModel(pb.PutModelRequest(model=given))
        listed = (await router.jobs.ListModels(pb.ListModelsRequest())).models
        assert [one.default_frame_rate for one in listed if one.name == given.name] == [rate]
        asked = {"model": given.name, "format": "FORMAT_VIDEO", "duration_seconds": 1.5}
        settings = (await router.submit(**asked)).generation_settings
        assert (settings.frame_rate, settings.frames) == (rate, 1.5 * rate)
        settings = (await router.submit(**asked, frame_rate=12)).generation_settings
        assert (settings.frame_rate, settings.frames) == (12, 18)
    for fields in ({"frame_rate": 61, "model": "reel", "format": "FORMAT_VIDEO"}, {"frame_rate": 16}):
        assert [problem.field for problem in (await refused(router, **fields)).fields] == ["frame_rate"]
    with pytest.raises(grpc.aio.AioRpcError, match=r"model\.default_frame_rate"):
        row.default_frame_rate = 61
        await router.jobs.PutModel(pb.PutModelRequest(model=row))


def _without_rate(row: model_pb2.Model) -> dict[str, Any]:
    return {"stage": row.stage, "worker_type": row.worker_type, "formats": row.formats}
