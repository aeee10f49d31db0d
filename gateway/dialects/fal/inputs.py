"""What apps of fal take, and the job that it becomes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from atelier.router.v1 import chat_pb2, router_service_pb2
from atelier.type.v1 import generation_pb2
from gateway.dialects.call import Call
from gateway.dialects.fal.apps import TASKS, App, Chosen
from gateway.dialects.fields import Field, Kind, Values, as_float, mapped, noted, refused
from gateway.dialects.pictures import add_loras, add_reference, of_short_side, set_size
from service_kit.errors import ErrorReason, InvalidArgument

SIZES = {
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
}
"""fal's names for sizes, as width and height in pixels."""

_RESOLUTIONS = {"480p": 480, "720p": 720, "1080p": 1080}
_RATIOS = ("1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3")
_PICTURES = "of pictures and videos"
_TEXT = "of apps that write text"

_PROMPTS = (
    mapped("prompt", "`prompt`; for text the last message", "a heron at dawn", required=True),
    mapped("negative_prompt", "`negative_prompt`", "fog"),
    mapped("enable_prompt_expansion", "`enhance_prompt`", False, Kind.BOOLEAN),
    mapped("expand_prompt", "`enhance_prompt`", False, Kind.BOOLEAN),
    mapped("system_prompt", f"the first message, {_TEXT}", "Answer in one line."),
    mapped("max_tokens", f"`chat.max_tokens`, {_TEXT}", 64, Kind.INTEGER, minimum=1),
    mapped("temperature", f"`chat.temperature`, {_TEXT}", 0.5, Kind.NUMBER, minimum=0, maximum=2),
    mapped("top_p", f"`chat.top_p`, {_TEXT}", 0.9, Kind.NUMBER, minimum=0, maximum=1),
)
_SHAPE = (
    mapped(
        "image_size",
        "`width` and `height`: one of " + ", ".join(f"`{name}`" for name in SIZES) + ", or `{width, height}`",
        "square",
        Kind.ANY,
    ),
    mapped("aspect_ratio", "`aspect_ratio`", "16:9", choices=_RATIOS),
    mapped("resolution", "`width` and `height` of a video, with `aspect_ratio`", "480p", choices=tuple(_RESOLUTIONS)),
    mapped("num_images", "`quantity`", 1, Kind.INTEGER, minimum=1),
    mapped("seed", "`seed`", 7, Kind.INTEGER, minimum=0, wide=True),
    mapped("num_inference_steps", "`steps`", 4, Kind.INTEGER, minimum=1),
    mapped("guidance_scale", "`guidance`", 3.5, Kind.NUMBER, minimum=0, maximum=30),
    mapped("scheduler", "`scheduler`, by the name that our workers have for it", "euler"),
    mapped("loras", "`loras`: `{path, scale}`; `path` is a name that our workers have", [{"path": "ink"}], Kind.ANY),
    mapped("duration", '`duration_seconds` of a video; `5`, `"5"` or `"5s"`', 2, Kind.ANY),
    mapped("frames_per_second", "`frame_rate` of a video", 16, Kind.INTEGER, minimum=1, maximum=60),
    mapped("fps", "the same", 16, Kind.INTEGER, minimum=1, maximum=60),
    mapped("output_format", "nothing: the only types that there are", "png", choices=("png", "mp4")),
)
_STARTS = (
    mapped("image_url", "a reference: `init`, for a video `first_frame`", "https://example.com/heron.png", Kind.SOURCE),
    mapped("image_urls", "the same, as a list of one", ["https://example.com/heron.png"], Kind.SOURCE, repeated=True),
    mapped("mask_url", "a reference: `mask`", "https://example.com/mask.png", Kind.SOURCE),
    mapped(
        "end_image_url",
        "a reference of a video that has `image_url`, too: `last_frame`",
        "https://example.com/end.png",
        Kind.SOURCE,
    ),
    mapped("strength", "1 minus `strength` of the reference", 0.8, Kind.NUMBER, minimum=0, maximum=1),
)
_NOTED = (
    noted("enable_safety_checker", True, Kind.BOOLEAN),
    noted("safety_tolerance", "2", Kind.ANY),
    noted("acceleration", "none"),
)
_REFUSED = (
    refused("sync_mode", "must be false: outputs are fetched from their addresses", True, harmless=(False,)),
    refused("num_frames", "cannot be chosen here; send duration in seconds", 81),
    refused("controlnets", "cannot be loaded here", [{"path": "x"}], harmless=([],)),
    refused("ip_adapters", "cannot be loaded here", [{"path": "x"}], harmless=([],)),
)

FIELDS: tuple[Field, ...] = (*_PROMPTS, *_SHAPE, *_STARTS, *_NOTED, *_REFUSED)
"""What the body of a submission takes, whatever the app makes."""

_OF_TEXT = frozenset({"prompt", "system_prompt", "max_tokens", "temperature", "top_p"})
_OF_CHAT_ONLY = _OF_TEXT - {"prompt"}
_OF_VIDEO_ONLY = frozenset({"duration", "resolution", "end_image_url", "frames_per_second", "fps"})

_PLAIN = {
    "num_images": "quantity",
    "seed": "seed",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "scheduler": "scheduler",
    "frames_per_second": "frame_rate",
    "fps": "frame_rate",
}

NAMES = {
    "quantity": "num_images",
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "width": "image_size",
    "height": "image_size",
    "duration_seconds": "duration",
    "frame_rate": "frames_per_second",
    "reference_images": "image_url",
    "webhook": "fal_webhook",
    "chat": "prompt",
}
"""Our fields, as clients of fal know them."""


async def request_of(call: Call, values: Values, app: App, chosen: Chosen) -> router_service_pb2.GenerateContentRequest:
    """Return the job that a submission asks for.

    Raises:
        InvalidArgument: the app does not take a field, or a value cannot be had.
    """
    _check(values, app, chosen)
    request = router_service_pb2.GenerateContentRequest(model=chosen.model)
    if chosen.format is None:
        _add_chat(request, values)
        return request
    request.format = chosen.format
    request.prompt = values.text("prompt")
    request.negative_prompt = values.text("negative_prompt")
    request.enhance_prompt = bool(values.get("enable_prompt_expansion") or values.get("expand_prompt"))
    for name, ours in _PLAIN.items():
        if name in values:
            setattr(request, ours, values.get(name))
    add_loras(request, [_lora(given) for given in _list(values.get("loras"))], field="loras")
    if "duration" in values:
        request.duration_seconds = _seconds(values.get("duration"))
    _add_size(request, values)
    await _add_references(call, request, values)
    return request


def _check(values: Values, app: App, chosen: Chosen) -> None:
    unfit: list[tuple[Callable[[str], bool], str]] = []
    if chosen.format is None:
        unfit.append((lambda name: name not in _OF_TEXT and name not in values.notes, f"is {_PICTURES}"))
    else:
        unfit.append((lambda name: name in _OF_CHAT_ONLY, f"is {_TEXT}"))
    if chosen.format == generation_pb2.FORMAT_IMAGE:
        unfit.append((lambda name: name in _OF_VIDEO_ONLY, "is of videos"))
    for name in values.given:
        for is_unfit, message in unfit:
            if is_unfit(name):
                raise InvalidArgument.field(name, f"{message}; {app.names[0]} makes none")
    pictured = "image_url" in values or "image_urls" in values
    if app.task and TASKS[app.task].needs_picture and not pictured:
        raise InvalidArgument.field("image_url", "is required", ErrorReason.MISSING_FIELD)
    if app.task and not TASKS[app.task].needs_picture and pictured:
        raise InvalidArgument.field("image_url", f"is not taken by {app.task}", ErrorReason.CONFLICTING_FIELDS)
    if app.task == "inpainting" and "mask_url" not in values:
        raise InvalidArgument.field("mask_url", "is required", ErrorReason.MISSING_FIELD)
    if "fps" in values and "frames_per_second" in values:
        raise InvalidArgument.field("fps", "and frames_per_second say it twice", ErrorReason.CONFLICTING_FIELDS)
    makes = {generation_pb2.FORMAT_IMAGE: "png", generation_pb2.FORMAT_VIDEO: "mp4"}
    if values.get("output_format") not in (None, makes.get(chosen.format or generation_pb2.FORMAT_UNSPECIFIED)):
        raise InvalidArgument.field("output_format", f"is not a type that {app.names[0]} makes")
    if chosen.format == generation_pb2.FORMAT_VIDEO and values.get("num_images", 1) != 1:
        raise InvalidArgument.field("num_images", "must be 1 for a video", ErrorReason.OUT_OF_RANGE)


def _add_chat(request: router_service_pb2.GenerateContentRequest, values: Values) -> None:
    if "system_prompt" in values:
        request.chat.messages.add(role=chat_pb2.CHAT_ROLE_SYSTEM, content=values.text("system_prompt"))
    request.chat.messages.add(role=chat_pb2.CHAT_ROLE_USER, content=values.text("prompt"))
    for name in ("max_tokens", "temperature", "top_p"):
        if name in values:
            setattr(request.chat, name, values.get(name))


def _add_size(request: router_service_pb2.GenerateContentRequest, values: Values) -> None:
    size, ratio = values.get("image_size"), values.text("aspect_ratio")
    if size is not None:
        if ratio or "resolution" in values:
            raise InvalidArgument.field(
                "image_size", "and aspect_ratio or resolution say it twice", ErrorReason.CONFLICTING_FIELDS
            )
        set_size(request, *_pixels(size), field="image_size.")
    elif "resolution" in values:
        side = _RESOLUTIONS[values.text("resolution")]
        set_size(request, *of_short_side(side, ratio or "16:9"), field="resolution.")
    else:
        request.aspect_ratio = ratio


def _pixels(size: Any) -> tuple[float, float]:
    if isinstance(size, str) and size in SIZES:
        return SIZES[size]
    if isinstance(size, dict) and set(size) == {"width", "height"}:
        width, height = size["width"], size["height"]
        if all(isinstance(side, (int, float)) and not isinstance(side, bool) for side in (width, height)):
            return width, height
    known = ", ".join(SIZES)
    raise InvalidArgument.field("image_size", f"must be one of {known}, or {{width, height}}; got {str(size)[:60]!r}")


def _list(loras: Any) -> list[Any]:
    if loras is None or isinstance(loras, list):
        return loras or []
    raise InvalidArgument.field("loras", f"must be a list of {{path, scale}}, got {str(loras)[:60]!r}")


def _lora(given: Any) -> tuple[Any, Any]:
    if isinstance(given, dict) and "path" in given and set(given) <= {"path", "scale"}:
        return given["path"], given.get("scale")
    raise InvalidArgument.field("loras", f"must be a list of {{path, scale}}, got {str(given)[:60]!r}")


def _seconds(duration: Any) -> float:
    try:
        text = duration.removesuffix("s") if isinstance(duration, str) else duration
        if isinstance(text, bool) or not isinstance(text, (str, int, float)):
            raise ValueError
        return as_float(text)
    except ValueError:
        raise InvalidArgument.field("duration", f"must be seconds, got {str(duration)[:60]!r}") from None


async def _add_references(call: Call, request: router_service_pb2.GenerateContentRequest, values: Values) -> None:
    sources = [("image_url", values.get("image_url"))] if "image_url" in values else []
    sources += [(f"image_urls[{index}]", source) for index, source in enumerate(values.list("image_urls"))]
    if len(sources) > 1:
        raise InvalidArgument.field(sources[1][0], "is one picture too many: a job starts from one")
    video = request.format == generation_pb2.FORMAT_VIDEO
    kind = generation_pb2.REFERENCE_KIND_FIRST_FRAME if video else generation_pb2.REFERENCE_KIND_INIT
    for needing in ("mask_url", "end_image_url", "strength"):
        if needing in values and not sources:
            raise InvalidArgument.field("image_url", f"is required with {needing}", ErrorReason.MISSING_FIELD)
    for field, source in sources:
        await add_reference(call, request, source, kind, field=field, noise=values.get("strength"))
    if "mask_url" in values:
        mask = generation_pb2.REFERENCE_KIND_MASK
        await add_reference(call, request, values.get("mask_url"), mask, field="mask_url")
    if "end_image_url" in values:
        last = generation_pb2.REFERENCE_KIND_LAST_FRAME
        await add_reference(call, request, values.get("end_image_url"), last, field="end_image_url")
