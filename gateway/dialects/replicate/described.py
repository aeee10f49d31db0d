"""What endpoints of Replicate's API answer, as the OpenAPI document tells it."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.dialects.described import (
    ANYTHING,
    BOOLEAN,
    FORM_TYPE,
    MAP,
    MAYBE_TEXT,
    TEXT,
    WHOLE,
    Answer,
    Described,
    Json,
    list_of,
    maybe,
    one_of,
    says,
    streams,
    thing,
)
from gateway.dialects.dialect import Serve
from gateway.dialects.fields import mapped
from gateway.dialects.replicate import catalogue, files, predictions, stream, webhooks

ERROR: Json = thing(
    {"invalid_fields": list_of(thing(type=TEXT, field=TEXT, description=TEXT))}, title=TEXT, detail=TEXT, status=WHOLE
)

_PREDICTION = thing(
    id=TEXT,
    model=TEXT,
    version=TEXT,
    status=one_of("starting", "processing", "succeeded", "failed", "canceled"),
    input=MAP,
    output=ANYTHING,
    logs=TEXT,
    error=MAYBE_TEXT,
    metrics=MAP,
    created_at=TEXT,
    started_at=MAYBE_TEXT,
    completed_at=MAYBE_TEXT,
    deadline=TEXT,
    data_removed=BOOLEAN,
    source=TEXT,
    urls=thing(get=TEXT, cancel=TEXT, stream=TEXT, web=TEXT),
)
_FILE = thing(
    id=TEXT,
    name=TEXT,
    content_type=TEXT,
    size=WHOLE,
    etag=TEXT,
    checksums=thing(sha256=TEXT),
    metadata=MAP,
    created_at=TEXT,
    expires_at=MAYBE_TEXT,
    urls=thing(get=TEXT),
)
_VERSION = thing(id=TEXT, created_at=TEXT, cog_version=TEXT, openapi_schema=MAP)
_MODEL = thing(
    url=TEXT,
    owner=TEXT,
    name=TEXT,
    description=TEXT,
    visibility=TEXT,
    run_count=WHOLE,
    default_example=ANYTHING,
    latest_version=maybe(_VERSION),
)


def _page(of: Json) -> Described:
    page = thing(previous=MAYBE_TEXT, next=MAYBE_TEXT, results=list_of(of))
    return Described({200: says(page, "A page.")})


_HEADERS = (
    mapped("Prefer", "`wait` or `wait=<seconds>`: wait for the result.", "wait=5"),
    mapped("Cancel-After", "`deadline_seconds`, such as `90s` or `1h30m`.", "90s"),
    mapped("Idempotency-Key", "The same key and body again is the same job.", "order-7"),
)
_CREATED = Described(
    {
        201: says(_PREDICTION, "The prediction; it has ended if the request waited for that."),
        202: says(_PREDICTION, "The request waited, and the prediction has not ended."),
    },
    _HEADERS,
)

DESCRIBED: Mapping[Serve, Described] = {
    predictions.create_of_model: _CREATED,
    predictions.create_of_version: _CREATED,
    predictions.find: _page(_PREDICTION),
    predictions.get: Described({200: says(_PREDICTION, "The prediction as it is now.")}),
    predictions.cancel: Described({200: says(_PREDICTION, "The prediction as it is now.")}),
    stream.stream: Described({200: streams("What is made, as it is made.")}),
    files.create: Described({201: says(_FILE, "The file.")}, bodies=(FORM_TYPE,)),
    files.find: _page(_FILE),
    files.get: Described({200: says(_FILE, "The file.")}),
    files.delete: Described({204: Answer("The file is gone.")}),
    catalogue.find_models: _page(_MODEL),
    catalogue.get_model: Described({200: says(_MODEL, "The model.")}),
    catalogue.find_versions: _page(_VERSION),
    catalogue.get_version: Described({200: says(_VERSION, "The version.")}),
    webhooks.secret: Described({200: says(thing(key=TEXT), "The secret.")}),
}
