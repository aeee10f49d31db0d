"""Images as they come: the worker's previews as partial images, then each image when the job has ended."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from atelier.router.v1 import job_pb2, router_service_pb2
from gateway.dialects.call import Call
from gateway.dialects.failures import problem_of
from gateway.dialects.jobs import has_ended, job_of
from gateway.dialects.openai.errors import error_body
from gateway.dialects.openai.requests import quality_name
from gateway.render import dump
from gateway.sse import frame
from gateway.status import http_status
from service_kit.errors import AtelierError, NotFound


class Partials:
    """Chooses among the previews of a job: at most `most` of each image, spread over its steps."""

    def __init__(self, most: int, steps: int) -> None:
        self._most = most
        self._steps = max(1, steps)
        self._sent: dict[int, int] = {}

    def take(self, preview: router_service_pb2.Preview) -> int | None:
        """Return the number of a preview among those of its image; None when it is not to be sent."""
        sent = self._sent.get(preview.asset_index, 0)
        if sent >= self._most or preview.step * (self._most + 1) < (sent + 1) * self._steps:
            return None
        self._sent[preview.asset_index] = sent + 1
        return sent


async def frames(
    call: Call,
    accepted: router_service_pb2.GenerateContentResponse,
    event: str,
    partial_images: int,
    usage: Mapping[str, Any],
) -> AsyncGenerator[bytes, None]:
    """Give the events of a job: `<event>.partial_image`, then `<event>.completed` for each image, or one `error`."""
    partials = Partials(partial_images, accepted.generation_settings.steps)
    try:
        async with aclosing(call.jobs.watch(accepted.job_id)) as events:
            async for message in events:
                if message.HasField("preview"):
                    number = partials.take(message.preview)
                    if number is not None:
                        yield _partial(call, accepted, event, message.preview, number)
                job = job_of(message)
                if job is not None and has_ended(job):
                    async with aclosing(_completed(call, job, event, usage)) as images:
                        async for image in images:
                            yield image
                    return
    except AtelierError as error:
        yield _error(error, http_status(error), call.exchange.request_id)


async def _completed(call: Call, job: job_pb2.Job, event: str, usage: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
    if job.state != job_pb2.JOB_STATE_SUCCEEDED:
        problem = problem_of(job)
        yield _error(problem.error, problem.status or 500, call.exchange.request_id)
        return
    sent = 0
    for asset in await call.jobs.assets(job.job_id):
        if not asset.media.content_type:
            continue
        content = await call.content(asset.url)
        output_format = asset.media.content_type.removeprefix("image/")
        shown = _shown(call, job.generation_settings.size, quality_name(job.generation_settings.quality), output_format)
        text = (await asyncio.to_thread(base64.b64encode, content)).decode()
        yield _frame(f"{event}.completed", {"b64_json": text, **shown, "usage": usage})
        sent += 1
    if not sent:
        raise NotFound("The images of this job were discarded, or have expired.")


def _partial(
    call: Call,
    accepted: router_service_pb2.GenerateContentResponse,
    event: str,
    preview: router_service_pb2.Preview,
    number: int,
) -> bytes:
    settings = accepted.generation_settings
    output_format = preview.content_type.removeprefix("image/")
    shown = _shown(call, settings.size, quality_name(settings.quality), output_format)
    text = base64.b64encode(preview.image).decode()
    return _frame(f"{event}.partial_image", {"b64_json": text, "partial_image_index": number, **shown})


def _shown(call: Call, size: str, quality: str, output_format: str) -> dict[str, Any]:
    return {
        "created_at": call.now,
        "size": size,
        "quality": quality,
        "background": "opaque",
        "output_format": output_format,
    }


def _frame(name: str, data: Mapping[str, Any]) -> bytes:
    return frame(name, dump({"type": name, **data}))


def _error(error: AtelierError, status: int, request_id: str) -> bytes:
    return frame("error", dump({"type": "error", **error_body(error, status, request_id)}))
