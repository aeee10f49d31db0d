"""What endpoints of OpenAI's API answer, as the OpenAPI document tells it."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.dialects.described import (
    BOOLEAN,
    FORM_TYPE,
    JSON_TYPE,
    MAP,
    MAYBE_TEXT,
    MAYBE_WHOLE,
    NULL,
    NUMBER,
    TEXT,
    WHOLE,
    Answer,
    Described,
    Json,
    list_of,
    maybe,
    one_of,
    says,
    says_or_streams,
    thing,
)
from gateway.dialects.dialect import Serve
from gateway.dialects.fields import mapped
from gateway.dialects.openai import chat, images, models, responses, videos

ERROR: Json = thing(
    error=thing(message=TEXT, type=TEXT, param=MAYBE_TEXT, code=MAYBE_TEXT),
)

_IMAGE = {"anyOf": [thing({"revised_prompt": TEXT}, b64_json=TEXT), thing({"revised_prompt": TEXT}, url=TEXT)]}
_IMAGES = thing(
    created=WHOLE,
    background=one_of("opaque"),
    data={**list_of(_IMAGE), "minItems": 1},
    output_format=TEXT,
    quality=TEXT,
    size=TEXT,
)
_VIDEO = thing(
    id=TEXT,
    object=one_of("video"),
    model=TEXT,
    status=one_of("queued", "in_progress", "completed", "failed"),
    progress={"type": "integer", "minimum": 0, "maximum": 100},
    created_at=WHOLE,
    completed_at=MAYBE_WHOLE,
    expires_at=MAYBE_WHOLE,
    size=TEXT,
    seconds=TEXT,
    prompt=TEXT,
    remixed_from_video_id=MAYBE_TEXT,
    error=maybe(thing(code=TEXT, message=TEXT)),
)
_VIDEOS = thing(object=one_of("list"), data=list_of(_VIDEO), first_id=MAYBE_TEXT, last_id=MAYBE_TEXT, has_more=BOOLEAN)
_MESSAGE = thing(role=one_of("assistant"), content=TEXT, refusal=NULL)
_COMPLETION = thing(
    {"usage": thing(prompt_tokens=WHOLE, completion_tokens=WHOLE, total_tokens=WHOLE)},
    id=TEXT,
    object=one_of("chat.completion"),
    created=WHOLE,
    model=TEXT,
    choices=list_of(thing(index=WHOLE, message=_MESSAGE, logprobs=NULL, finish_reason=one_of("stop", "length"))),
)
_RESPONSE = thing(
    id=TEXT,
    object=one_of("response"),
    created_at=WHOLE,
    completed_at=WHOLE,
    status=one_of("completed", "incomplete"),
    error=NULL,
    incomplete_details=maybe(thing(reason=TEXT)),
    instructions=MAYBE_TEXT,
    max_output_tokens=MAYBE_WHOLE,
    metadata=MAP,
    model=TEXT,
    output=list_of(thing(id=TEXT, type=one_of("message"), role=one_of("assistant"), status=TEXT, content=list_of(MAP))),
    temperature=maybe(NUMBER),
    top_p=maybe(NUMBER),
    usage=maybe(thing(input_tokens=WHOLE, output_tokens=WHOLE, total_tokens=WHOLE)),
)
_MODEL = thing(id=TEXT, object=one_of("model"), created=WHOLE, owned_by=TEXT)

_ONCE = (mapped("Idempotency-Key", "The same key and body again is the same job.", "order-7"),)
_FORMS = (JSON_TYPE, FORM_TYPE)
_BYTES: Json = {"type": "string", "format": "binary"}

DESCRIBED: Mapping[Serve, Described] = {
    images.generate: Described(
        {200: says_or_streams(_IMAGES, "The images; with `stream`, previews and images as events.")}, _ONCE
    ),
    images.edit: Described(
        {200: says_or_streams(_IMAGES, "The images; with `stream`, previews and images as events.")}, _ONCE, _FORMS
    ),
    videos.create: Described({200: says(_VIDEO, "The video, which is to be made.")}, _ONCE, _FORMS),
    videos.find: Described({200: says(_VIDEOS, "A page of videos.")}),
    videos.refuse: Described({}),
    videos.retrieve: Described({200: says(_VIDEO, "The video as it is now.")}),
    videos.delete: Described(
        {200: says(thing(id=TEXT, object=one_of("video.deleted"), deleted=BOOLEAN), "The video is gone.")},
        refuses=frozenset({409}),
    ),
    videos.remix: Described({200: says(_VIDEO, "The new video, which is to be made.")}, _ONCE),
    videos.content: Described(
        {
            200: Answer("The file.", {"*/*": _BYTES}),
            206: Answer("The part that `Range` asked for.", {"*/*": _BYTES}),
            304: Answer("The file is the one that the client has."),
            307: Answer("The file is at `Location`."),
        },
        refuses=frozenset({409, 416}),
    ),
    chat.complete: Described(
        {200: says_or_streams(_COMPLETION, "The message; with `stream`, its pieces as events.")}, _ONCE
    ),
    responses.respond: Described(
        {200: says_or_streams(_RESPONSE, "The response; with `stream`, its pieces as events.")}, _ONCE
    ),
    models.find_models: Described(
        {200: says(thing(object=one_of("list"), data=list_of(_MODEL)), "Every model with a name of its own.")}
    ),
    models.get_model: Described({200: says(_MODEL, "The model.")}),
}
