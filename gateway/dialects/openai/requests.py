"""What OpenAI's fields mean in ours: sizes, qualities, pictures to start from."""

from __future__ import annotations

import re

from atelier.router.v1 import router_service_pb2, webhook_pb2
from atelier.type.v1 import generation_pb2
from gateway.dialects.call import Call
from gateway.dialects.fields import Field, Kind, Upload, Values, mapped, noted, renamed
from service_kit.errors import AtelierError, InvalidArgument

_SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")
QUALITIES = {
    "low": generation_pb2.QUALITY_DRAFT,
    "medium": generation_pb2.QUALITY_STANDARD,
    "standard": generation_pb2.QUALITY_STANDARD,
    "auto": generation_pb2.QUALITY_STANDARD,
    "high": generation_pb2.QUALITY_HIGH,
    "hd": generation_pb2.QUALITY_HIGH,
}
_QUALITY_NAMES = {generation_pb2.QUALITY_DRAFT: "low", generation_pb2.QUALITY_HIGH: "high"}
EXTRA_FIELDS: tuple[Field, ...] = (
    mapped("seed", "`seed`", 7, Kind.INTEGER, wide=True),
    mapped("negative_prompt", "`negative_prompt`", "fog"),
    mapped("steps", "`steps`", 12, Kind.INTEGER),
    mapped("enhance_prompt", "`enhance_prompt`; of an image the richer prompt is `revised_prompt`", True, Kind.BOOLEAN),
    mapped("webhook", "`webhook`: a URL, told in the shape of OpenAI's events", "https://example.com/hook"),
    noted("user", "u-1"),
    noted("safety_identifier", "u-1"),
)
"""What OpenAI's API does not have, and clients send all the same, at the top level; and who asks."""

_NAMES = {"quantity": "n", "width": "size", "height": "size", "duration_seconds": "seconds"}


def set_size(request: router_service_pb2.GenerateContentRequest, size: str) -> None:
    """Ask for a size such as `1536x1024`; `auto`, or nothing, leaves it to the model. Raises InvalidArgument."""
    if size in ("", "auto"):
        return
    match = _SIZE.fullmatch(size)
    if match is None:
        message = f"must be auto, or width and height such as 1024x1024; got {size[:60]!r}"
        raise InvalidArgument.field("size", message)
    request.width, request.height = int(match[1]), int(match[2])


def set_common(request: router_service_pb2.GenerateContentRequest, values: Values) -> None:
    """Fill in the prompt, the model, and `EXTRA_FIELDS`."""
    request.prompt = values.text("prompt")
    request.model = values.text("model")
    request.negative_prompt = values.text("negative_prompt")
    request.enhance_prompt = bool(values.get("enhance_prompt"))
    if "webhook" in values:
        request.webhook.url = values.text("webhook")
        request.webhook.dialect = webhook_pb2.WEBHOOK_DIALECT_OPENAI
    for name in ("seed", "steps"):
        if name in values:
            setattr(request, name, values.get(name))


def quality_name(quality: generation_pb2.Quality.ValueType) -> str:
    """Return what OpenAI calls a quality."""
    return _QUALITY_NAMES.get(quality, "medium")


async def add_reference(
    call: Call,
    request: router_service_pb2.GenerateContentRequest,
    source: Upload | str,
    kind: generation_pb2.ReferenceKind.ValueType,
    field: str,
) -> None:
    """Let a job start from a file of a form, a URL, or a data URI.

    Raises:
        InvalidArgument: it cannot be had, or is no picture or video; names `field`.
    """
    references, entries = call.kit.context.references, await call.access()
    try:
        if isinstance(source, Upload):
            asset_id = await references.from_bytes(source.content, entries, field=field, filename=source.filename)
        else:
            asset_id = await references.from_text(source, entries, field=field)
    except InvalidArgument as error:
        if error.fields:
            raise
        # The asset service refuses the bytes; it does not know which field they came in.
        raise InvalidArgument.field(field, error.message, error.reason) from error
    request.reference_images.add(asset_id=asset_id, kind=kind)


async def submit(
    call: Call, request: router_service_pb2.GenerateContentRequest, values: Values, **more: str
) -> router_service_pb2.GenerateContentResponse:
    """Submit a job; what is refused is blamed on OpenAI's own fields."""
    try:
        return await call.submit(request, {**values.notes, **more})
    except AtelierError as error:
        raise renamed(error, _NAMES) from error
