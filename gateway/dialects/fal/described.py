"""What endpoints of fal's API answer, as the OpenAPI document tells it."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.dialects.described import (
    ANYTHING,
    MAP,
    MAYBE_TEXT,
    TEXT,
    WHOLE,
    Described,
    Json,
    list_of,
    maybe,
    one_of,
    says,
    says_or_streams,
    streams,
    thing,
)
from gateway.dialects.dialect import Serve
from gateway.dialects.fal import parts, queue, run, storage
from gateway.dialects.fields import Kind, mapped, noted

_BLAMED = thing(loc=list_of({"type": ["string", "integer"]}), msg=TEXT, type=TEXT)
ERROR: Json = thing({"error_type": TEXT}, detail={"anyOf": [TEXT, list_of(_BLAMED)]})

_URLS = {"request_id": TEXT, "response_url": TEXT, "status_url": TEXT, "cancel_url": TEXT}
_LOGS = maybe(list_of(thing(message=TEXT, level=TEXT, source=TEXT, timestamp=TEXT)))
_WAITS = thing(status=one_of("IN_QUEUE"), **_URLS, queue_position={"type": "integer", "minimum": 0})
_WORKS = thing(status=one_of("IN_PROGRESS"), **_URLS, logs=_LOGS)
_ENDED = thing({"error": TEXT, "error_type": TEXT}, status=one_of("COMPLETED"), **_URLS, logs=_LOGS, metrics=MAP)

_FILE = thing(url=TEXT, content_type=TEXT, file_name=TEXT, file_size=WHOLE, width=WHOLE, height=WHOLE)
_MADE = {"seed": WHOLE, "prompt": TEXT, "timings": MAP}
_RESULT: Json = {
    "anyOf": [
        thing(output=TEXT, partial=one_of(False), error=MAYBE_TEXT),
        thing(images=list_of(_FILE), **_MADE, has_nsfw_concepts=list_of(one_of(False))),
        thing(video=maybe(_FILE), **_MADE),
    ]
}

_WHERE_TO = thing(upload_url=TEXT, file_url=TEXT, file_name=TEXT)
_SUBMISSION = (
    mapped("X-Fal-Queue-Priority", "`priority` among the jobs of the same owner.", "low", choices=("normal", "low")),
    noted("X-Fal-Runner-Hint", "warm", note="An annotation of the job."),
    mapped(
        "X-Fal-Request-Timeout",
        "The job is cancelled when no worker has taken it within so many seconds.",
        60,
        Kind.NUMBER,
        minimum=1,
        maximum=86_400,
    ),
    mapped("Idempotency-Key", "The same key and body again is the same job.", "order-7"),
)
_TARGET = (mapped("x-fal-target-url", "What is called.", "https://queue.fal.run/fal-ai/sdxl", required=True),)

DESCRIBED: Mapping[Serve, Described] = {
    queue.submit: Described({200: says(_WAITS, "Where to ask for the request.")}, _SUBMISSION),
    queue.status: Described(
        {
            200: says(_ENDED, "The request has ended."),
            202: says({"anyOf": [_WAITS, _WORKS]}, "The request has not ended."),
        }
    ),
    queue.status_stream: Described({200: streams("The status after each change.")}),
    queue.cancel: Described(
        {
            202: says(thing(status=one_of("CANCELLATION_REQUESTED")), "It is cancelled."),
            400: says(
                {"anyOf": [ERROR, thing(status=one_of("ALREADY_COMPLETED"), detail=TEXT)]}, "It is too late for that."
            ),
        }
    ),
    queue.result: Described({200: says(_RESULT, "The result.")}, refuses=frozenset({499, 504})),
    run.run: Described(
        {200: says_or_streams(_RESULT, "The result; with `/stream` at the end of the path, its pieces as events.")},
        _SUBMISSION,
        refuses=frozenset({499, 504}),
    ),
    storage.initiate: Described({200: says(_WHERE_TO, "Where to send the file.")}),
    storage.upload: Described({200: says(MAP, "The file is here.")}, raw="The file."),
    parts.initiate: Described({200: says(_WHERE_TO, "Where to send the parts: `/1`, `/2` and so on below its path.")}),
    parts.take: Described(
        {200: says(thing(partNumber=WHOLE, etag=TEXT), "The part is here.")},
        raw="The part.",
    ),
    parts.complete: Described({200: says(MAP, "The file is here.")}),
}

PROXY = Described(
    {
        200: says_or_streams(ANYTHING, "As what is called answers."),
        202: says(ANYTHING, "As what is called answers."),
    },
    _TARGET,
    refuses=frozenset({404, 405, 409, 413, 415, 422, 499}),
)
"""What is told of each of the proxy's endpoints."""
