"""`/videos`: a video is a job that makes one; its id is the job's."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

from atelier.asset.v1 import asset_pb2
from atelier.router.v1 import job_pb2, router_service_pb2
from atelier.type.v1 import generation_pb2, media_pb2
from gateway.dialects.call import Call, json_reply
from gateway.dialects.dialect import Endpoint
from gateway.dialects.fields import Kind, Upload, mapped, noted
from gateway.dialects.jobs import has_ended
from gateway.dialects.openai.requests import EXTRA_FIELDS, QUALITIES, add_reference, set_common, set_size, submit
from gateway.dialects.openai.video_objects import REMIXED, SECONDS, check_video, duration, video
from gateway.dialects.progress import peek
from gateway.http import Reply
from gateway.status import HttpProblem
from service_kit.errors import ErrorReason, FailedPrecondition, InvalidArgument, NotFound, Unavailable

_POLL_AFTER = {"openai-poll-after-ms": "500"}
_DELETE_TRIES = 20
_DELETE_PAUSE_S = 0.1
_THUMBNAILS = (media_pb2.RENDITION_KIND_POSTER, media_pb2.RENDITION_KIND_THUMB_1024)


async def create(call: Call) -> Reply:
    """Submit a video."""
    values = await call.values()
    request = router_service_pb2.GenerateContentRequest(format=generation_pb2.FORMAT_VIDEO)
    set_common(request, values)
    set_size(request, values.text("size"))
    notes = {}
    if "quality" in values:
        request.quality = QUALITIES[values.text("quality")]
    if "seconds" in values:
        request.duration_seconds = values.get("seconds")
        notes[SECONDS] = f"{values.get('seconds'):g}"
    if "input_reference" in values:
        source = _source(values.get("input_reference"))
        await add_reference(call, request, source, generation_pb2.REFERENCE_KIND_FIRST_FRAME, "input_reference")
    accepted = await submit(call, request, values, **notes)
    return json_reply(video(await call.jobs.get(accepted.job_id)))


async def remix(call: Call) -> Reply:
    """Submit a video that is made as another one was, of the same seed, with another prompt."""
    values = await call.values()
    source = await _completed(call)
    settings = source.generation_settings
    request = router_service_pb2.GenerateContentRequest(
        format=generation_pb2.FORMAT_VIDEO,
        prompt=values.text("prompt"),
        negative_prompt=source.negative_prompt,
        model=settings.model,
        seed=settings.seed,
        steps=settings.steps,
        width=settings.width,
        height=settings.height,
        duration_seconds=duration(settings),
        reference_images=source.reference_images,
    )
    notes = {REMIXED: source.job_id}
    if source.annotations.get(SECONDS):
        notes[SECONDS] = source.annotations[SECONDS]
    accepted = await submit(call, request, values, **notes)
    return json_reply(video(await call.jobs.get(accepted.job_id)))


async def retrieve(call: Call) -> Reply:
    """Answer a video as it is now; a poll is told when to come again."""
    job = check_video(await call.jobs.get(call.path["video_id"]))
    live, asset = await peek(call.jobs, job), None
    if job.state == job_pb2.JOB_STATE_SUCCEEDED:
        asset = await _asset(call, job)
    polled = "x-stainless-poll-helper" in call.headers and not has_ended(job)
    expires_at = asset.expires_at.seconds if asset is not None else None
    found = video(job, fraction=live.fraction, expires_at=expires_at)
    return json_reply(found, headers=_POLL_AFTER if polled else None)


async def find(call: Call) -> Reply:
    """Answer a page of videos."""
    query = call.query()
    request = router_service_pb2.ListJobsRequest(
        format=generation_pb2.FORMAT_VIDEO,
        page_size=query.get("limit", 20),
        oldest_first=query.get("order") == "asc",
        after_job_id=query.text("after"),
    )
    page = await call.jobs.find(request)
    return json_reply(
        {
            "object": "list",
            "data": [video(job) for job in page.jobs],
            "first_id": page.jobs[0].job_id if page.jobs else None,
            "last_id": page.jobs[-1].job_id if page.jobs else None,
            "has_more": bool(page.next_page_token),
        }
    )


async def delete(call: Call) -> Reply:
    """Delete a video and its bytes; one that is being made is cancelled first, or published and deleted at once.

    Raises:
        Unavailable: its end is not told to the workspace yet; the client repeats.
    """
    job = check_video(await call.jobs.get(call.path["video_id"]))
    if not has_ended(job):
        # Too late to be cancelled is not too late to be deleted.
        with suppress(FailedPrecondition):
            await call.jobs.cancel(job.job_id)
    await call.jobs.discard(output.asset_id for output in job.outputs)
    for _ in range(_DELETE_TRIES):
        with suppress(FailedPrecondition):
            await call.jobs.delete(job.job_id)
            return json_reply({"id": job.job_id, "object": "video.deleted", "deleted": True})
        # The workspace is told of the end of a job a moment after it.
        await asyncio.sleep(_DELETE_PAUSE_S)
    raise Unavailable("The video has not ended yet; repeat.", retry_after=timedelta(seconds=1))


async def content(call: Call) -> Reply | None:
    """Answer the bytes of a video, or of its still."""
    variant = call.query().text("variant", "video")
    job = await _completed(call)
    asset = await _asset(call, job)
    if asset is None:
        raise NotFound("The video was discarded, or has expired.")
    if variant == "video":
        return await call.kit.media.serve_url(call.exchange, asset.url)
    stills = {rendition.kind: rendition for rendition in asset.renditions}
    still = next((stills[kind] for kind in _THUMBNAILS if kind in stills), None)
    if still is None:
        raise NotFound("There is no thumbnail of this video: it is being made, or could not be made.")
    return await call.kit.media.serve_url(call.exchange, still.url)


async def refuse(call: Call) -> Reply:
    """Refuse what is not made here."""
    raise HttpProblem(FailedPrecondition(call.endpoint.note, ErrorReason.INVALID_VALUE), status=400)


async def _completed(call: Call) -> job_pb2.Job:
    job = check_video(await call.jobs.get(call.path["video_id"]))
    if job.state != job_pb2.JOB_STATE_SUCCEEDED:
        raise FailedPrecondition(f"The video {job.job_id} is not completed.")
    return job


async def _asset(call: Call, job: job_pb2.Job) -> asset_pb2.Asset | None:
    return next((asset for asset in await call.jobs.assets(job.job_id) if asset.media.content_type), None)


def _source(value: Any) -> Upload | str:
    if isinstance(value, Mapping):
        known = {name: given for name, given in value.items() if given is not None}
        if set(known) == {"image_url"} and isinstance(known["image_url"], str):
            return known["image_url"]
        other = next((name for name in known if name != "image_url"), "image_url")
        message = "is not taken: send a file, or image_url with a URL or a data URI"
        raise InvalidArgument.field(f"input_reference.{other}", message)
    if isinstance(value, (Upload, str)) and value:
        return value
    raise InvalidArgument.field("input_reference", "must be a file, or an object with image_url")


_PROMPT = mapped("prompt", "`prompt`", "a heron takes off", required=True)

ENDPOINTS = (
    Endpoint(
        "POST",
        "/openai/v1/videos",
        create,
        (
            _PROMPT,
            mapped("model", "`model`: a name of the routing table", "wan", required=True),
            mapped("seconds", "`duration_seconds`", "4", Kind.NUMBER, minimum=1, maximum=10, also_text=True),
            mapped("size", "`width` and `height`; `auto` leaves it to the model", "1280x720"),
            mapped("quality", "`quality`, as of images", "high", choices=tuple(QUALITIES)),
            mapped(
                "input_reference",
                "a reference of the kind `first_frame`: a file, or `image_url` with a URL or a data URI",
                {"image_url": "https://example.com/a.png"},
                Kind.ANY,
            ),
            *EXTRA_FIELDS,
        ),
        note="A form or JSON. The id of a video is the id of its job.",
        large=True,
    ),
    Endpoint(
        "GET",
        "/openai/v1/videos",
        find,
        query=(
            mapped("after", "`after_job_id`", "0192f0c8-0000-7000-8000-000000000000"),
            mapped("limit", "`page_size`", "2", Kind.INTEGER, minimum=1, maximum=100),
            mapped("order", "`oldest_first`", "asc", choices=("asc", "desc")),
        ),
        note="Every video of the caller, whichever way it was submitted.",
    ),
    Endpoint("POST", "/openai/v1/videos/edits", refuse, note="Videos cannot be edited here: remix one, or start anew."),
    Endpoint("POST", "/openai/v1/videos/extensions", refuse, note="Videos cannot be extended here."),
    Endpoint("POST", "/openai/v1/videos/characters", refuse, note="There are no characters here."),
    Endpoint(
        "GET",
        "/openai/v1/videos/{video_id}",
        retrieve,
        note="A video that was cancelled has failed, with the code `canceled`.",
    ),
    Endpoint(
        "DELETE",
        "/openai/v1/videos/{video_id}",
        delete,
        note="Discards the bytes, too. A video that is being made is cancelled first.",
    ),
    Endpoint(
        "POST",
        "/openai/v1/videos/{video_id}/remix",
        remix,
        (_PROMPT, noted("user", "u-1")),
        note="Made as the other was: its model, seed, size, length, steps and references, with another prompt.",
    ),
    Endpoint(
        "GET",
        "/openai/v1/videos/{video_id}/content",
        content,
        query=(
            mapped(
                "variant",
                "the video, or its still; there is no spritesheet",
                "thumbnail",
                choices=("video", "thumbnail"),
            ),
        ),
        note="Takes `Range`.",
    ),
)
