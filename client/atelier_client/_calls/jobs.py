"""The requests about jobs: what is asked for, how far it is, what it tells."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from atelier_client._calls.call import Call, one, only_given, page_of, path_of
from atelier_client._decode import decode
from atelier_client.models import (
    Job,
    Lora,
    Page,
    ReferenceImage,
    Submitted,
    Webhook,
)


def reference_body(reference: ReferenceImage) -> dict[str, Any]:
    """Return a reference as the API takes it."""
    return only_given(asset_id=reference.asset_id, kind=reference.kind, strength=reference.strength)


class GenerateOptions(TypedDict, total=False):
    """What a request to generate may say beside prompt and model; what is left out takes the server's default.

    Attributes:
        format: `image` or `video`; required unless `enhancement_only`.
        quantity: how many outputs.
        seed: the seed of the first output; the output at index i uses seed + i.
        quality: `draft`, `standard` or `high`.
        aspect_ratio: width to height, such as `16:9`.
        width: of the outputs in pixels, in place of `aspect_ratio`; together with `height`.
        height: of the outputs in pixels.
        annotations: what the caller wants to find again on the job.
        duration_seconds: length of a video.
        frame_rate: frames a second of a video.
        guidance: how closely the engine follows the prompt.
        scheduler: how the engine takes the noise away, such as `euler`.
        loras: what to add to the model's weights.
        on_enhancement_failure: `fail` or `warn`.
        webhook: where to tell of the job.
        idempotency_key: a name for this very request; one is made when it is left out.
    """

    format: str
    quantity: int | None
    seed: int | None
    negative_prompt: str
    quality: str
    aspect_ratio: str
    width: int | None
    height: int | None
    annotations: Mapping[str, str]
    steps: int | None
    duration_seconds: float | None
    frame_rate: int | None
    guidance: float | None
    scheduler: str
    loras: Sequence[Lora]
    reference_images: Sequence[ReferenceImage]
    enhance_prompt: bool
    enhancement_only: bool
    on_enhancement_failure: str
    priority: int | None
    webhook: Webhook | None
    idempotency_key: str


class ChatOptions(TypedDict, total=False):
    """How a conversation goes on; what is left out is the model's own.

    Attributes:
        max_tokens: the most tokens to write.
        temperature: how freely the next token is drawn.
        top_p: the share of likeliest tokens that are drawn among.
        stop: texts before any of which the reply ends.
    """

    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    stop: Sequence[str]


def chat(messages: Sequence[Mapping[str, str]], model: str, seed: int | None, options: ChatOptions) -> Call[Submitted]:
    """`POST /v1/generate-content` with a conversation. A key is made here, so that repeats give one job."""
    body = {"messages": [dict(message) for message in messages], **only_given(**options)}
    return Call(
        "POST",
        "/v1/generate-content",
        lambda reply: decode(Submitted, reply),
        json={"model": model, "chat": body} | only_given(seed=seed),
        headers={"idempotency-key": uuid.uuid4().hex},
    )


def generate_content(prompt: str, model: str, options: GenerateOptions) -> Call[Submitted]:
    """`POST /v1/generate-content`. Without an idempotency key one is made here, so that repeats give one job."""
    given = only_given(**options)
    key = given.pop("idempotency_key", None) or uuid.uuid4().hex
    references = [reference_body(reference) for reference in given.pop("reference_images", ())]
    if references:
        given["reference_images"] = references
    loras = [only_given(name=lora.name, weight=lora.weight) for lora in given.pop("loras", ())]
    if loras:
        given["loras"] = loras
    webhook = given.pop("webhook", None)
    if webhook is not None:
        given["webhook"] = only_given(url=webhook.url, events=list(webhook.events) or None, dialect=webhook.dialect)
    return Call(
        "POST",
        "/v1/generate-content",
        lambda reply: decode(Submitted, reply),
        json={"prompt": prompt, "model": model} | given,
        headers={"idempotency-key": key},
    )


def get_job(job_id: str) -> Call[Job]:
    """`GET /v1/jobs/{job_id}`."""
    return Call("GET", path_of("/v1/jobs/{}", job_id), one(Job, "job"))


def list_jobs(state: str, page_size: int | None, page_token: str) -> Call[Page[Job]]:
    """`GET /v1/jobs`."""
    params = only_given(state=state, page_size=page_size, page_token=page_token)
    return Call("GET", "/v1/jobs", page_of(Job, "jobs"), params=params)


def cancel_job(job_id: str) -> Call[Job]:
    """`POST /v1/jobs/{job_id}/cancel`."""
    return Call("POST", path_of("/v1/jobs/{}/cancel", job_id), one(Job, "job"), json={})


def watch_job(job_id: str, after: str) -> Call[None]:
    """`GET /v1/jobs/{job_id}/events`, a stream."""
    headers = {"accept": "text/event-stream", "cache-control": "no-store"}
    if after:
        headers["last-event-id"] = after
    return Call("GET", path_of("/v1/jobs/{}/events", job_id), lambda body: None, headers=headers)
