"""`/replicate/v1/predictions`: made, waited for, asked for, listed and cancelled."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any

from atelier.router.v1 import job_pb2, router_service_pb2, webhook_pb2
from gateway.dialects.call import Call, json_reply
from gateway.dialects.dialect import Endpoint, says_422
from gateway.dialects.fields import mapped, renamed
from gateway.dialects.jobs import has_ended
from gateway.dialects.progress import Live, peek
from gateway.dialects.replicate import answers
from gateway.dialects.replicate.catalogue import ROOT, Named, by_name, by_version
from gateway.dialects.replicate.inputs import FIELDS, INPUT, NAMES, VERSION, Said, read_body, request_of
from gateway.http import Reply
from service_kit.errors import FailedPrecondition, InvalidArgument

LONGEST_WAIT = 60
"""The seconds that `Prefer: wait` waits, and the most that it may say."""

_PREFER = re.compile(r"wait(?:=([0-9]{1,4}))?")
_DURATION = re.compile(r"(?=.)(?:([0-9]{1,2})h)?(?:([0-9]{1,4})m)?(?:([0-9]{1,5})s?)?")
_LEAST_CANCEL_AFTER = 5
_MOST_CANCEL_AFTER = 86_400
_MOST_INPUT_BYTES = 24 << 10
_PAGE = 100
# As long as a job may take.
_STREAM_LASTS = timedelta(days=1)
_EVENTS = {
    "start": webhook_pb2.WEBHOOK_EVENT_STARTED,
    "output": webhook_pb2.WEBHOOK_EVENT_OUTPUT,
    "completed": webhook_pb2.WEBHOOK_EVENT_COMPLETED,
}


@says_422
async def create_of_model(call: Call) -> Reply:
    """Make a prediction of a model that the path names."""
    named = by_name(await call.jobs.models(), call.path["owner"], call.path["name"])
    return await _create(call, await read_body(call), named)


@says_422
async def create_of_version(call: Call) -> Reply:
    """Make a prediction of the version that the body names."""
    said = await read_body(call)
    return await _create(call, said, by_version(await call.jobs.models(), said.outer.text("version")))


async def _create(call: Call, said: Said, named: Named) -> Reply:
    wait = _wait(call.headers.get("prefer"))
    request = await request_of(call, said, named)
    _add_webhook(request, said)
    notes = _notes(said, named)
    cancel_after = call.headers.get("cancel-after")
    if cancel_after is not None:
        request.deadline_seconds = _cancel_after(cancel_after)
        notes[answers.CANCEL_AFTER] = str(request.deadline_seconds)
    try:
        accepted = await call.submit(request, notes)
    except InvalidArgument as error:
        raise renamed(error, NAMES) from error
    if wait is None:
        return json_reply(await _prediction(call, await call.jobs.get(accepted.job_id)), 201)
    job = await call.while_connected(call.jobs.wait(accepted.job_id, wait))
    prediction = await _prediction(call, job)
    if not has_ended(job):
        # To clients every other status says that the wait has brought the result.
        prediction["status"] = "starting"
    return json_reply(prediction, 201 if has_ended(job) else 202)


def _notes(said: Said, named: Named) -> dict[str, str]:
    echo = json.dumps(said.echo, ensure_ascii=False, separators=(",", ":"))
    if len(echo.encode()) > _MOST_INPUT_BYTES:
        raise InvalidArgument.field("input", f"is larger than {_MOST_INPUT_BYTES} bytes without its files")
    outer = {name: note for name, note in said.outer.notes.items() if not name.startswith(INPUT)}
    return {**outer, answers.MODEL: named.slug, answers.INPUT: echo}


def _wait(prefer: str | None) -> timedelta | None:
    """Return how long to wait for the result. None without the header, or with another preference than that."""
    for said in (prefer or "").split(","):
        match = _PREFER.fullmatch(said.strip().replace(" ", ""))
        if match is None:
            continue
        seconds = int(match[1]) if match[1] else LONGEST_WAIT
        if not 1 <= seconds <= LONGEST_WAIT:
            raise InvalidArgument.field("Prefer", f"must be wait=1..{LONGEST_WAIT}, got {seconds}")
        return timedelta(seconds=seconds)
    return None


def _cancel_after(said: str) -> int:
    """Return the seconds of a duration such as `90`, `90s`, `5m` or `1h30m`."""
    match = _DURATION.fullmatch(said.strip())
    hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
    total = (hours * 60 + minutes) * 60 + seconds
    if not _LEAST_CANCEL_AFTER <= total <= _MOST_CANCEL_AFTER:
        message = f"must be {_LEAST_CANCEL_AFTER} seconds to a day, such as 90s or 1h30m; got {said[:40]!r}"
        raise InvalidArgument.field("Cancel-After", message)
    return total


def _add_webhook(request: router_service_pb2.GenerateContentRequest, said: Said) -> None:
    url, at_end = said.outer.text("webhook"), said.outer.text("webhook_completed")
    chosen = said.outer.list("webhook_events_filter")
    if url and at_end:
        raise InvalidArgument.field("webhook_completed", "and webhook say it twice")
    if chosen and not url:
        raise InvalidArgument.field("webhook_events_filter", "is of no use without webhook")
    if url or at_end:
        request.webhook.url = url or at_end
        request.webhook.dialect = webhook_pb2.WEBHOOK_DIALECT_REPLICATE
        request.webhook.events.extend(_EVENTS[name] for name in (chosen or _EVENTS if url else ("completed",)))


@says_422
async def get(call: Call) -> Reply:
    """Answer a prediction."""
    return json_reply(await _prediction(call, await call.jobs.get(call.path["id"])))


async def _prediction(call: Call, job: job_pb2.Job) -> dict[str, Any]:
    ended = job.state == job_pb2.JOB_STATE_SUCCEEDED and job.outputs
    assets = await call.jobs.assets(job.job_id) if ended else []
    prediction = answers.prediction_of(job, assets, call.kit.public_url, await peek(call.jobs, job))
    grant = call.kit.grants.sign(await call.access(), answers.STREAM, job.job_id, _STREAM_LASTS)
    prediction["urls"]["stream"] += f"?grant={grant}"
    return prediction


@says_422
async def find(call: Call) -> Reply:
    """Answer a page of the caller's jobs, newest first, whichever way they came, without their outputs."""
    cursor = call.query().text("cursor")
    page = await call.jobs.find(router_service_pb2.ListJobsRequest(page_size=_PAGE, page_token=cursor))
    following = f"{call.kit.public_url}{ROOT}/predictions?cursor={page.next_page_token}"
    results = [answers.prediction_of(job, [], call.kit.public_url, Live()) for job in page.jobs]
    for result in results:
        # As at Replicate: a page tells of predictions, and what they made is asked for one by one.
        result["data_removed"] = False
    return json_reply({"previous": None, "next": following if page.next_page_token else None, "results": results})


@says_422
async def cancel(call: Call) -> Reply:
    """Cancel a prediction, and answer it as it is now; one that has ended, or is about to, goes on to its end."""
    try:
        job = await call.jobs.cancel(call.path["id"])
    except FailedPrecondition:
        job = await call.jobs.get(call.path["id"])
    return json_reply(await _prediction(call, job))


_WAITS = (
    "`Prefer: wait=n` waits for at most n seconds, 60 without n; when these are over the answer says `starting`. "
    "`Cancel-After` becomes `deadline_seconds`. `webhook_events_filter` takes no `logs`."
)
_CURSOR = (mapped("cursor", "`page_token`", "from-next"),)
ENDPOINTS = (
    Endpoint("POST", f"{ROOT}/models/{{owner}}/{{name}}/predictions", create_of_model, FIELDS, note=_WAITS, large=True),
    Endpoint("POST", f"{ROOT}/predictions", create_of_version, (*VERSION, *FIELDS), note=_WAITS, large=True),
    Endpoint("GET", f"{ROOT}/predictions", find, query=_CURSOR, note="`output` is null on a page."),
    Endpoint("GET", f"{ROOT}/predictions/{{id}}", get, note="`logs` end with the progress as tqdm prints it."),
    Endpoint("POST", f"{ROOT}/predictions/{{id}}/cancel", cancel, note="One that has ended is answered as it is."),
)
