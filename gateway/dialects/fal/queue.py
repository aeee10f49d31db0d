"""`/fal/queue`: requests that are submitted, asked for again, followed and cancelled."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from atelier.router.v1 import job_pb2, router_service_pb2, webhook_pb2
from gateway.dialects.call import Call, json_reply
from gateway.dialects.dialect import Endpoint, says_422
from gateway.dialects.fal import answers
from gateway.dialects.fal.apps import App, choose, parse_app
from gateway.dialects.fal.inputs import FIELDS, NAMES, request_of
from gateway.dialects.fields import Field, Kind, mapped, renamed
from gateway.dialects.jobs import has_ended, job_of
from gateway.dialects.progress import Live, moment, peek
from gateway.http import Reply
from gateway.render import dump
from gateway.sse import unnamed
from gateway.status import http_status
from service_kit.clock import rfc3339
from service_kit.errors import AtelierError, FailedPrecondition, InvalidArgument

PRIORITIES = {"normal": 0, "low": -10}
"""fal's priorities as ours: they order only the jobs of the same owner."""

_LEAST_TIMEOUT = 1
_MOST_TIMEOUT = 86_400
_MOST_WAITING = 200
_HINT = "fal_runner_hint"
_UNAVAILABLE_HEADERS = ("x-fal-object-lifecycle-preference", "x-fal-object-lifecycle")

WEBHOOK: tuple[Field, ...] = (mapped("fal_webhook", "`webhook`, told of the end", "https://example.com/hook"),)
_LOGS: tuple[Field, ...] = (mapped("logs", "whether `logs` are answered", "1", Kind.BOOLEAN),)


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job that was accepted, and the app that it was submitted to."""

    app: App
    job_id: str
    waits: bool


@says_422
async def submit(call: Call) -> Reply:
    """Accept a request, and say where to ask for it."""
    submitted = await accept(call)
    urls = answers.urls_of(call.kit.public_url, submitted.app.base, submitted.job_id)
    position = await position_of(call, submitted.job_id) if submitted.waits else 0
    body = {"status": "IN_QUEUE", "request_id": submitted.job_id, **urls, "queue_position": position}
    return json_reply(body, headers={answers.REQUEST_ID: submitted.job_id})


async def accept(call: Call) -> Submitted:
    """Submit the job that a request asks for.

    Raises:
        AtelierError: it is refused.
    """
    app = parse_app(call.path["app"])
    values, query = await call.values(), call.query()
    notes = {**values.notes, answers.APP: app.names[0], **_headers_noted(call)}
    request = await request_of(call, values, app, choose(app, await call.jobs.models()))
    request.priority = _priority(call)
    if "fal_webhook" in query:
        request.webhook.url = query.text("fal_webhook")
        request.webhook.events.append(webhook_pb2.WEBHOOK_EVENT_COMPLETED)
        request.webhook.dialect = webhook_pb2.WEBHOOK_DIALECT_FAL
    try:
        accepted = await call.submit(request, notes)
    except InvalidArgument as error:
        raise renamed(error, NAMES) from error
    return Submitted(app, accepted.job_id, accepted.state == job_pb2.JOB_STATE_QUEUED)


def _priority(call: Call) -> int:
    said = call.headers.get("x-fal-queue-priority", "normal")
    if said not in PRIORITIES:
        raise InvalidArgument.field("X-Fal-Queue-Priority", f"must be normal or low, got {said[:40]!r}")
    return PRIORITIES[said]


def _headers_noted(call: Call) -> dict[str, str]:
    for name in _UNAVAILABLE_HEADERS:
        if name in call.headers:
            raise InvalidArgument.field(name, "cannot be chosen here: outputs are kept as the operator has set it")
    notes = {}
    hint, timeout = call.headers.get("x-fal-runner-hint"), call.headers.get("x-fal-request-timeout")
    if hint:
        notes[_HINT] = hint[:200]
    if timeout is not None:
        notes[answers.START_TIMEOUT] = f"{_timeout(timeout):g}"
    return notes


def _timeout(said: str) -> float:
    try:
        seconds = float(said)
    except ValueError:
        seconds = math.nan
    if not _LEAST_TIMEOUT <= seconds <= _MOST_TIMEOUT:
        raise InvalidArgument.field(
            "X-Fal-Request-Timeout", f"must be {_LEAST_TIMEOUT}..{_MOST_TIMEOUT} seconds, got {said[:40]!r}"
        )
    return seconds


async def current(call: Call) -> job_pb2.Job:
    """Return the job that the path names; one that waits for longer than it may is cancelled first.

    Raises:
        NotFound: there is none.
    """
    return await in_time(call, await call.jobs.get(call.path["request_id"]))


async def in_time(call: Call, job: job_pb2.Job) -> job_pb2.Job:
    """Return a job, cancelled when no worker took it within the time that it said."""
    limit = answers.start_limit(job)
    waited = call.kit.context.clock.now() - moment(job.created_at)
    if limit is None or job.state != job_pb2.JOB_STATE_QUEUED or job.HasField("started_at") or waited < limit:
        return job
    return await call.jobs.cancel(job.job_id)


@says_422
async def status(call: Call) -> Reply:
    """Say how far a request is: 202 until it has ended."""
    wants_logs = bool(call.query().get("logs"))
    job = await current(call)
    live = await peek(call.jobs, job) if wants_logs else Live()
    logs = answers.logs_of(job, live) if wants_logs else None
    return json_reply(await _told(call, job, logs), 200 if has_ended(job) else 202, {answers.REQUEST_ID: job.job_id})


def _urls(call: Call, job: job_pb2.Job) -> dict[str, str]:
    parts = (call.path.get("namespace"), call.path["owner"], call.path["app"])
    return answers.urls_of(call.kit.public_url, "/".join(part for part in parts if part), job.job_id)


async def position_of(call: Call, job_id: str) -> int:
    """Return how many of the caller's own jobs wait before one that waits; no more than a page of them is counted."""
    request = router_service_pb2.ListJobsRequest(
        state=job_pb2.JOB_STATE_QUEUED, oldest_first=True, page_size=_MOST_WAITING
    )
    waiting = (await call.jobs.find(request)).jobs
    ids = [job.job_id for job in sorted(waiting, key=lambda job: (-job.priority, job.created_at.ToNanoseconds()))]
    # One that is not among them has just begun, or is behind them all.
    return ids.index(job_id) if job_id in ids else len(ids) if len(ids) == _MOST_WAITING else 0


async def _told(call: Call, job: job_pb2.Job, logs: Iterable[Any] | None) -> dict[str, Any]:
    position = await position_of(call, job.job_id) if job.state == job_pb2.JOB_STATE_QUEUED else 0
    return answers.status_of(job, _urls(call, job), position, logs)


@says_422
async def status_stream(call: Call) -> None:
    """Send the status after each change, until the request has ended."""
    wants_logs = bool(call.query().get("logs"))
    job = await current(call)
    call.exchange.common_headers[answers.REQUEST_ID] = job.job_id
    await call.stream_watched(_statuses(call, job, wants_logs=wants_logs))


async def _statuses(call: Call, job: job_pb2.Job, *, wants_logs: bool) -> AsyncGenerator[bytes, None]:
    try:
        async with aclosing(call.jobs.watch(job.job_id)) as events:
            async for event in events:
                changed = job_of(event)
                if changed is not None:
                    job = changed
                    lines = answers.logs_of(job, Live()) if wants_logs and has_ended(job) else []
                    yield data(await _told(call, job, lines))
                elif event.WhichOneof("event") == "log" and wants_logs:
                    line = answers.log_line(event.log.line, rfc3339(call.kit.context.clock.now()))
                    yield data(await _told(call, job, [line]))
    except AtelierError as error:
        yield broken(error)


def broken(error: AtelierError) -> bytes:
    """Return the event that says why a stream ends early."""
    error_type = answers.error_headers(error, http_status(error))[answers.ERROR_TYPE]
    return data({"error": error.message, "error_type": error_type})


def data(value: object) -> bytes:
    """Return an event without a name, as fal sends them."""
    return unnamed(dump(value))


@says_422
async def result(call: Call) -> Reply:
    """Answer the result of a request that has ended; why there is none with the status that this has."""
    return await ended(call, await current(call))


async def ended(call: Call, job: job_pb2.Job) -> Reply:
    """Return the reply with the result of a job. Raises InvalidArgument while it has not ended."""
    if not has_ended(job):
        return json_reply({"detail": "Request is still in progress"}, 400, {answers.REQUEST_ID: job.job_id})
    if job.state != job_pb2.JOB_STATE_SUCCEEDED:
        body = {"detail": answers.error_of(job), "error_type": answers.error_type(job)}
        return json_reply(body, answers.error_status(job), answers.error_headers_of(job))
    assets = await call.jobs.assets(job.job_id) if job.outputs else []
    return json_reply(answers.result_of(job, assets), headers={answers.REQUEST_ID: job.job_id})


@says_422
async def cancel(call: Call) -> Reply:
    """Cancel a request; one that has ended, or whose outputs are being published, is told to be too late."""
    job = await call.jobs.get(call.path["request_id"])
    headers = {answers.REQUEST_ID: job.job_id}
    try:
        if not has_ended(job):
            job = await call.jobs.cancel(job.job_id)
    except FailedPrecondition:
        job = await call.jobs.get(job.job_id)
    if job.state == job_pb2.JOB_STATE_CANCELLED:
        return json_reply({"status": "CANCELLATION_REQUESTED"}, 202, headers)
    return json_reply({"status": "ALREADY_COMPLETED", "detail": "It is too late to cancel this request."}, 400, headers)


def _endpoints() -> tuple[Endpoint, ...]:
    found: list[Endpoint] = []
    for app in ("{owner}/{app}", "{namespace}/{owner}/{app}"):
        base = f"{answers.ROOT}/{app}/requests/{{request_id}}"
        found += [
            Endpoint("GET", f"{base}/status/stream", status_stream, query=_LOGS, note="Server-sent events."),
            Endpoint(
                "GET",
                f"{base}/status",
                status,
                query=_LOGS,
                note="202 until the request has ended. `queue_position` counts the caller's own jobs.",
            ),
            Endpoint("PUT", f"{base}/cancel", cancel, note="400 with `ALREADY_COMPLETED` when it is too late."),
            Endpoint("GET", base, result, note="400 until the request has ended."),
        ]
    note = (
        "The header `X-Fal-Queue-Priority` becomes `priority`, `X-Fal-Runner-Hint` is noted, and a job that no worker "
        "has taken within `X-Fal-Request-Timeout` is cancelled as soon as somebody asks for it."
    )
    return (*found, Endpoint("POST", f"{answers.ROOT}/{{app...}}", submit, FIELDS, WEBHOOK, note, large=True))


ENDPOINTS = _endpoints()
