"""`/fal/run`: requests whose client waits for the result, or reads it while it is made."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import timedelta
from typing import Any

from atelier.router.v1 import job_pb2, router_service_pb2
from gateway.dialects.call import Call
from gateway.dialects.dialect import Endpoint, says_422
from gateway.dialects.fal import answers
from gateway.dialects.fal.inputs import FIELDS
from gateway.dialects.fal.queue import accept, broken, data, ended, in_time
from gateway.dialects.jobs import has_ended, job_of
from gateway.http import Reply
from gateway.status import HttpProblem
from service_kit.errors import AtelierError, DeadlineExceeded, Unavailable

LONGEST = timedelta(hours=1)
"""How long a client that waits is kept. Its job goes on after that."""

_STREAM = "/stream"


@says_422
async def run(call: Call) -> Reply | None:
    """Submit a request and answer its result, or stream it when the path ends in `/stream`.

    The job goes on when the client goes.
    """
    path = call.path["app"]
    streamed = path.endswith(_STREAM)
    call.path = {**call.path, "app": path.removesuffix(_STREAM)}
    submitted = await accept(call)
    if streamed:
        call.exchange.common_headers[answers.REQUEST_ID] = submitted.job_id
        await call.stream(_pieces(call, submitted.job_id))
        return None
    try:
        job = await call.while_connected(_wait(call, submitted.job_id))
    except (DeadlineExceeded, Unavailable) as error:
        # Clients repeat 503 and 504 unasked, and unmarked: that would be another job.
        said = DeadlineExceeded(f"Request {submitted.job_id} goes on: ask for it under {answers.ROOT}.")
        raise HttpProblem(said, status=504, headers={answers.TIMEOUT_TYPE: "user"}) from error
    return await ended(call, job)


async def _wait(call: Call, job_id: str) -> job_pb2.Job:
    """Return a job that has ended. Raises DeadlineExceeded when that takes too long."""
    job = await call.jobs.get(job_id)
    limit = answers.start_limit(job)
    if limit is not None:
        job = await _wait_for_start(call, job_id, limit)
    if not has_ended(job):
        job = await call.jobs.wait(job_id, LONGEST)
    if not has_ended(job):
        raise DeadlineExceeded
    return job


async def _wait_for_start(call: Call, job_id: str, limit: timedelta) -> job_pb2.Job:
    """Return a job once a worker has taken it; one that waited for longer than it may, cancelled."""
    try:
        async with asyncio.timeout(limit.total_seconds()), aclosing(call.jobs.watch(job_id)) as events:
            async for event in events:
                job = job_of(event)
                if job is not None and (has_ended(job) or job.HasField("started_at")):
                    return job
    except TimeoutError:
        return await in_time(call, await call.jobs.get(job_id))
    return await call.jobs.get(job_id)


async def _pieces(call: Call, job_id: str) -> AsyncGenerator[bytes, None]:
    """Give previews, or the text so far, as results that are not whole yet; then the result, or why there is none."""
    text = ""
    try:
        async with aclosing(call.jobs.watch(job_id)) as events:
            async for event in events:
                kind, job = event.WhichOneof("event"), job_of(event)
                if kind == "text_delta":
                    text = text[: event.text_delta.offset] + event.text_delta.text
                    yield data({"output": text, "partial": True, "error": None})
                elif kind == "preview":
                    yield data(_preview(event.preview))
                elif job is not None and has_ended(job):
                    yield data(await _last(call, job))
                    return
    except AtelierError as error:
        yield broken(error)


def _preview(preview: router_service_pb2.Preview) -> dict[str, Any]:
    image = base64.b64encode(preview.image).decode("ascii")
    file = {"url": f"data:{preview.content_type};base64,{image}", "content_type": preview.content_type}
    return {"images": [file], "index": preview.asset_index, "step": preview.step}


async def _last(call: Call, job: job_pb2.Job) -> dict[str, Any]:
    if job.state != job_pb2.JOB_STATE_SUCCEEDED:
        return {"error": answers.error_of(job), "error_type": answers.error_type(job)}
    assets = await call.jobs.assets(job.job_id) if job.outputs else []
    return answers.result_of(job, assets)


ENDPOINTS = (
    Endpoint(
        "POST",
        "/fal/run/{app...}",
        run,
        FIELDS,
        note="Waits for the result, an hour at most. With `/stream` at the end of the path it streams it instead.",
        large=True,
    ),
)
