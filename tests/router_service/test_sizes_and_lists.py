"""Sizes that a client says itself, what it wants to find again, and how it lists and removes its jobs."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from atelier.router.v1 import job_pb2, model_pb2
from atelier.router.v1 import router_service_pb2 as pb
from atelier.type.v1 import generation_pb2
from service_kit.errors import AtelierError, ErrorReason
from service_kit.ids import new_id
from service_kit.rpc_errors import from_rpc_error
from tests.router_service.support import Router


async def refused(router: Router, **fields: Any) -> AtelierError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await router.submit(**fields)
    return from_rpc_error(caught.value)


@pytest.mark.parametrize(
    ("model", "width", "height"), [("sdxl", 1536, 1024), ("sdxl", 64, 4096), ("sdxl", 1536, 1536), ("wan", 1280, 720)]
)
async def test_a_size_is_made_as_it_was_said(router: Router, model: str, width: int, height: int) -> None:
    settings = (
        await router.submit(model=model, width=width, height=height, quality="QUALITY_DRAFT")
    ).generation_settings
    assert (settings.width, settings.height, settings.size) == (width, height, f"{width}x{height}")
    assert (settings.aspect_ratio, settings.steps) == ("", 8)


@pytest.mark.parametrize(
    ("fields", "reason", "names"),
    [
        ({"width": 512}, ErrorReason.MISSING_FIELD, ["height"]),
        ({"height": 512}, ErrorReason.MISSING_FIELD, ["width"]),
        ({"width": 0, "height": 512}, ErrorReason.OUT_OF_RANGE, ["width"]),
        ({"width": 56, "height": 512}, ErrorReason.OUT_OF_RANGE, ["width"]),
        ({"width": 516, "height": 512}, ErrorReason.INVALID_VALUE, ["width"]),
        ({"width": 512, "height": 4104}, ErrorReason.OUT_OF_RANGE, ["height"]),
        ({"width": 1544, "height": 1536}, ErrorReason.OUT_OF_RANGE, ["width", "height"]),
        ({"width": 1280, "height": 728, "model": "wan"}, ErrorReason.OUT_OF_RANGE, ["width", "height"]),
        ({"width": 512, "height": 512, "aspect_ratio": "1:1"}, ErrorReason.CONFLICTING_FIELDS, ["aspect_ratio"]),
        (
            {"width": 512, "height": 512, "enhancement_only": True, "format": None},
            ErrorReason.CONFLICTING_FIELDS,
            ["width"],
        ),
    ],
)
async def test_a_size_has_limits(router: Router, fields: dict[str, Any], reason: ErrorReason, names: list[str]) -> None:
    error = await refused(router, **fields)
    assert (error.reason, [problem.field for problem in error.fields]) == (reason, names)


async def test_the_most_that_a_model_makes_is_said(router: Router) -> None:
    row = model_pb2.Model(name="small", stage=job_pb2.STAGE_KIND_GENERATE, worker_type="t")
    row.formats.append(generation_pb2.FORMAT_IMAGE)
    row.base_size = 256
    await router.jobs.PutModel(pb.PutModelRequest(model=row))
    error = await refused(router, model="small", width=1024, height=1024)
    assert "at most 147456 pixels for the model small (384x384, say), got 1024x1024" in error.message


async def test_annotations_are_found_again_on_the_job(router: Router) -> None:
    notes = {"b": "2", "ä": "", "a" * 100: "x"}
    accepted = await router.submit(annotations=notes)
    assert dict((await router.job(accepted.job_id)).annotations) == notes
    assert dict((await router.job((await router.submit()).job_id)).annotations) == {}


@pytest.mark.parametrize(
    "annotations",
    [
        {str(number): "" for number in range(33)},
        {"a": "x" * (32 << 10)},
        {"a": "ü" * (16 << 10)},
        {"": "x"},
        {"a" * 101: "x"},
        {"a": "\0"},
    ],
    ids=["many", "long", "bytes", "unnamed", "long name", "nul"],
)
async def test_annotations_have_limits(router: Router, annotations: dict[str, str]) -> None:
    error = await refused(router, annotations=annotations)
    assert [problem.field for problem in error.fields] == ["annotations"]


async def test_a_request_with_other_annotations_is_another_request(router: Router) -> None:
    first = await router.submit(idempotency_key="k", annotations={"a": "1", "b": "2"})
    assert (await router.submit(idempotency_key="k", annotations={"b": "2", "a": "1"})).job_id == first.job_id
    assert (await refused(router, idempotency_key="k")).reason is ErrorReason.IDEMPOTENCY_KEY_REUSED


async def listed(router: Router, **wanted: Any) -> list[str]:
    reply = await router.jobs.ListJobs(pb.ListJobsRequest(**wanted))
    return [job.job_id for job in reply.jobs]


async def test_a_list_of_one_format_in_either_order(router: Router) -> None:
    image = (await router.submit()).job_id
    videos = [(await router.submit(model="wan", format="FORMAT_VIDEO")).job_id for _ in range(2)]
    assert await listed(router, format=generation_pb2.FORMAT_VIDEO) == videos[::-1]
    assert await listed(router, format=generation_pb2.FORMAT_VIDEO, oldest_first=True) == videos
    assert await listed(router, oldest_first=True) == [image, *videos]


async def test_a_list_goes_on_by_token_or_after_a_job_but_not_both(router: Router) -> None:
    jobs = [(await router.submit()).job_id for _ in range(4)]
    assert await listed(router, after_job_id=jobs[2]) == jobs[1::-1]
    assert await listed(router, after_job_id=jobs[2], oldest_first=True) == jobs[3:]
    page = await router.jobs.ListJobs(pb.ListJobsRequest(oldest_first=True, page_size=3, after_job_id=jobs[0]))
    assert ([job.job_id for job in page.jobs], page.next_page_token) == (jobs[1:], "")
    page = await router.jobs.ListJobs(pb.ListJobsRequest(oldest_first=True, page_size=2))
    token = page.next_page_token
    assert await listed(router, oldest_first=True, page_token=token) == jobs[2:]
    for wrong in (
        {"page_token": token},
        {"page_token": token, "oldest_first": True, "after_job_id": jobs[0]},
        {"after_job_id": "no id"},
        {"after_job_id": "5a1f0c3e-8b7d-5e42-a6c9-13d7f0b2e894"},
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await router.jobs.ListJobs(pb.ListJobsRequest(**wrong))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_list_goes_on_after_a_job_that_is_gone_or_somebody_elses(router: Router) -> None:
    first = (await router.submit()).job_id
    gone = (await router.submit()).job_id
    last = (await router.submit()).job_id
    await router.jobs.CancelJob(pb.CancelJobRequest(job_id=gone))
    await deleted(router, gone)
    assert await listed(router, after_job_id=gone) == [first]
    assert await listed(router, after_job_id=gone, oldest_first=True) == [last]
    bob = await router.stubs_of("bob")
    theirs = await bob.ListJobs(pb.ListJobsRequest(after_job_id=last))
    assert list(theirs.jobs) == []


async def deleted(router: Router, job_id: str) -> None:
    """Delete a job as soon as its end was told."""
    while True:
        try:
            await router.jobs.DeleteJob(pb.DeleteJobRequest(job_id=job_id))
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
            continue
        return


async def test_a_job_that_has_ended_and_was_told_is_deleted_for_good(router: Router) -> None:
    await router.stop_settling()
    accepted = await router.submit(idempotency_key="k")

    async def delete(job_id: str, jobs: Any = router.jobs) -> grpc.StatusCode:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await jobs.DeleteJob(pb.DeleteJobRequest(job_id=job_id))
        code: grpc.StatusCode = caught.value.code()
        return code

    assert await delete(accepted.job_id) is grpc.StatusCode.FAILED_PRECONDITION
    assert await delete(accepted.job_id, await router.stubs_of("bob")) is grpc.StatusCode.NOT_FOUND
    await router.jobs.CancelJob(pb.CancelJobRequest(job_id=accepted.job_id))
    assert await delete(accepted.job_id) is grpc.StatusCode.FAILED_PRECONDITION
    assert (await router.job(accepted.job_id)).state == job_pb2.JOB_STATE_CANCELLED
    await router.service.settlement.send_due()
    await router.jobs.DeleteJob(pb.DeleteJobRequest(job_id=accepted.job_id))
    assert await delete(accepted.job_id) is grpc.StatusCode.NOT_FOUND
    assert await delete(new_id()) is grpc.StatusCode.NOT_FOUND
    assert await listed(router) == []
    # That it was submitted stays known: the key makes no second job.
    assert "which was removed since" in (await refused(router, idempotency_key="k")).message
