"""`POST /images/generations` and `POST /images/edits`: one job each, waited for or streamed."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

from atelier.asset.v1 import asset_pb2
from atelier.router.v1 import job_pb2, router_service_pb2
from atelier.type.v1 import generation_pb2
from gateway.dialects.call import Call, json_reply
from gateway.dialects.dialect import Endpoint
from gateway.dialects.fields import Field, Kind, Upload, Values, mapped, noted, refused
from gateway.dialects.openai import image_stream, masks
from gateway.dialects.openai.requests import (
    EXTRA_FIELDS,
    QUALITIES,
    add_reference,
    quality_name,
    set_common,
    set_size,
    submit,
)
from gateway.http import Reply
from service_kit.errors import ErrorReason, NotFound

USAGE = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}
"""Engines that make pictures count no tokens. An answer says so by leaving `usage` out; events must have one."""

JOB_ID = "atelier-job-id"
"""The header that names the job behind an answer."""


async def generate(call: Call) -> Reply | None:
    """Make images of a prompt."""
    values = await call.values()
    return await _make(call, _request(values), values, "image_generation")


async def edit(call: Call) -> Reply | None:
    """Make images of a prompt and of images: the first is where they start, the others give their manner."""
    values = await call.values()
    request = _request(values)
    for index, image in enumerate(values.list("image")):
        kind = generation_pb2.REFERENCE_KIND_STYLE if index else generation_pb2.REFERENCE_KIND_INIT
        await add_reference(call, request, image, kind, "image")
    if "mask" in values:
        mask = Upload("mask.png", "image/png", await masks.from_transparency(values.get("mask").content))
        await add_reference(call, request, mask, generation_pb2.REFERENCE_KIND_MASK, "mask")
    return await _make(call, request, values, "image_edit")


def _request(values: Values) -> router_service_pb2.GenerateContentRequest:
    request = router_service_pb2.GenerateContentRequest(format=generation_pb2.FORMAT_IMAGE)
    set_common(request, values)
    set_size(request, values.text("size"))
    if "n" in values:
        request.quantity = values.get("n")
    if "quality" in values:
        request.quality = QUALITIES[values.text("quality")]
    return request


async def _make(
    call: Call, request: router_service_pb2.GenerateContentRequest, values: Values, event: str
) -> Reply | None:
    as_url = values.get("response_format") == "url"
    accepted = await submit(call, request, values, response_format="url" if as_url else "b64_json")
    if values.get("stream"):
        frames = image_stream.frames(call, accepted, event, values.get("partial_images", 0), USAGE)
        await call.stream(frames)
        return None
    job = await call.finished(accepted.job_id)
    assets = [asset for asset in await call.jobs.assets(job.job_id) if asset.media.content_type]
    if not assets:
        raise NotFound("The images of this job were discarded, or have expired.", ErrorReason.NOT_FOUND)
    return json_reply(await _answer(call, job, assets, as_url=as_url), headers={JOB_ID: job.job_id})


async def _answer(call: Call, job: job_pb2.Job, assets: list[asset_pb2.Asset], *, as_url: bool) -> Any:
    settings = job.generation_settings
    return {
        "created": int(job.created_at.seconds),
        "background": "opaque",
        "data": [await _image(call, job, asset, as_url=as_url) for asset in assets],
        "output_format": assets[0].media.content_type.removeprefix("image/"),
        "quality": quality_name(settings.quality),
        "size": settings.size,
    }


async def _image(call: Call, job: job_pb2.Job, asset: asset_pb2.Asset, *, as_url: bool) -> dict[str, str]:
    found = {"url": asset.url} if as_url else {"b64_json": await encoded(call, asset)}
    return {**found, "revised_prompt": job.enhanced_prompt} if job.enhanced_prompt else found


async def encoded(call: Call, asset: asset_pb2.Asset) -> str:
    """Return the bytes of an asset in base64. Raises NotFound when they are gone."""
    content = await call.content(asset.url)
    return (await asyncio.to_thread(base64.b64encode, content)).decode()


def image_fields(*more: Field) -> tuple[Field, ...]:
    """Return the fields that both endpoints take, and more."""
    return (
        mapped("prompt", "`prompt`", "a heron", required=True),
        *more,
        mapped("model", "`model`: a name of the routing table", "sdxl", required=True),
        mapped("n", "`quantity`", 2, Kind.INTEGER, minimum=1),
        mapped("size", "`width` and `height`, such as `1536x1024`; `auto` leaves it to the model", "1024x1024"),
        mapped(
            "quality",
            "`quality`: low is draft, medium, standard and auto are standard, high and hd are high",
            "high",
            choices=tuple(QUALITIES),
        ),
        mapped("background", "pictures are opaque", "auto", choices=("auto", "opaque")),
        mapped("output_format", "pictures are PNG", "png", choices=("png",)),
        mapped("response_format", "a signed URL, or the bytes", "url", choices=("b64_json", "url")),
        mapped("stream", "server-sent events", True, Kind.BOOLEAN),
        mapped(
            "partial_images",
            "how many previews of each image a stream has at most",
            2,
            Kind.INTEGER,
            minimum=0,
            maximum=3,
        ),
        *EXTRA_FIELDS,
        noted("moderation", "auto", choices=("auto",)),
        refused("output_compression", "cannot be chosen: PNG loses nothing", 50, harmless=(100,)),
        refused("complexity", "cannot be chosen", "high"),
        refused("svg", "is not made here", {"model": "x"}),
        refused("frame_count", "is of moving pictures, which are made by /openai/v1/videos", 4),
        refused("frame_duration_ms", "is of moving pictures, which are made by /openai/v1/videos", 200),
    )


_EDIT_FIELDS = (
    mapped(
        "image",
        "`reference_images`: the first as `init`, the others as `style`",
        Upload("a.png", "image/png", b"\x89PNG"),
        Kind.SOURCE,
        required=True,
        repeated=True,
    ),
    mapped(
        "mask",
        "a reference of the kind `mask`: transparent is where the image may change",
        Upload("m.png", "image/png", b"\x89PNG"),
        Kind.FILE,
    ),
    refused("input_fidelity", "cannot be chosen", "high", harmless=("low",)),
    refused("markup", "is not read here", Upload("m.png", "image/png", b"\x89PNG")),
)

ENDPOINTS = (
    Endpoint(
        "POST",
        "/openai/v1/images/generations",
        generate,
        image_fields(refused("style", "cannot be chosen: say it in the prompt", "vivid")),
        note="Without `response_format` the bytes are answered. Tokens are not counted for pictures: an answer has no "
        "`usage`, and in events, which must have one, it is 0.",
    ),
    Endpoint(
        "POST",
        "/openai/v1/images/edits",
        edit,
        image_fields(*_EDIT_FIELDS),
        note="A form, or JSON in which `image` is a URL or a data URI, or several of them. At most 32 MiB in all.",
        large=True,
    ),
)
