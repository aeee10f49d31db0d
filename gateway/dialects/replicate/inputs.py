"""What predictions take, and the job that it becomes."""

from __future__ import annotations

from typing import Any

from atelier.router.v1 import chat_pb2, router_service_pb2
from atelier.type.v1 import generation_pb2
from gateway.dialects import forms
from gateway.dialects.call import Call
from gateway.dialects.fields import Field, Kind, Values, mapped, noted, read, refused
from gateway.dialects.pictures import FILES, add_loras, add_reference, set_size
from gateway.dialects.replicate.catalogue import Named, makes_text
from service_kit.errors import ErrorReason, InvalidArgument

INPUT = "input."
EVENTS = ("start", "output", "completed")

_RATIOS = ("1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3")
_TEXT = "of models that write text"
_KEPT = "kept with `input`"

_OUTER = (
    mapped("input", "the fields below", {"prompt": "a heron at dawn"}, Kind.OBJECT),
    mapped("webhook", "`webhook`", "https://example.com/hook"),
    mapped(
        "webhook_events_filter",
        "the events of `webhook`; all three when it is left out",
        ["completed"],
        repeated=True,
        choices=EVENTS,
    ),
    mapped("webhook_completed", "`webhook`, told of the end", "https://example.com/hook"),
    noted("stream", True, Kind.BOOLEAN, note="nothing to do: every prediction can be streamed"),
)
_PROMPTS = (
    mapped("prompt", "`prompt`; for text the last message", "a heron at dawn"),
    mapped("negative_prompt", "`negative_prompt`", "fog"),
    mapped("prompt_upsampling", "`enhance_prompt`", False, Kind.BOOLEAN),
    mapped("system_prompt", f"the first message, {_TEXT}", "Answer in one line."),
    mapped("max_tokens", f"`chat.max_tokens`, {_TEXT}", 64, Kind.INTEGER, minimum=1),
    mapped("max_new_tokens", f"`chat.max_tokens`, {_TEXT}", 64, Kind.INTEGER, minimum=1),
    mapped("temperature", f"`chat.temperature`, {_TEXT}", 0.5, Kind.NUMBER, minimum=0, maximum=2),
    mapped("top_p", f"`chat.top_p`, {_TEXT}", 0.9, Kind.NUMBER, minimum=0, maximum=1),
)
_SHAPE = (
    mapped("width", "`width`", 512, Kind.INTEGER, minimum=1),
    mapped("height", "`height`", 512, Kind.INTEGER, minimum=1),
    mapped("aspect_ratio", "`aspect_ratio`", "16:9", choices=_RATIOS),
    mapped("num_outputs", "`quantity`", 1, Kind.INTEGER, minimum=1),
    mapped("seed", "`seed`", 7, Kind.INTEGER, minimum=0, wide=True),
    mapped("num_inference_steps", "`steps`", 4, Kind.INTEGER, minimum=1),
    mapped("steps", "`steps`", 4, Kind.INTEGER, minimum=1),
    mapped("guidance_scale", "`guidance`", 7.5, Kind.NUMBER, minimum=0, maximum=30),
    mapped("guidance", "`guidance`", 3.5, Kind.NUMBER, minimum=0, maximum=30),
    mapped("scheduler", "`scheduler`, by the name that our workers have for it", "euler"),
    mapped("lora_weights", "`loras`: a name that our workers have", "ink"),
    mapped("lora_scale", "`weight` of that one", 0.8, Kind.NUMBER, minimum=-4, maximum=4),
    mapped("extra_lora", "`loras`: one more", "grain"),
    mapped("extra_lora_scale", "`weight` of that one", 0.8, Kind.NUMBER, minimum=-4, maximum=4),
    mapped("duration", "`duration_seconds` of a video", 2, Kind.NUMBER),
    mapped("frames_per_second", "`frame_rate` of a video", 16, Kind.INTEGER, minimum=1, maximum=60),
    mapped("fps", "the same", 16, Kind.INTEGER, minimum=1, maximum=60),
    mapped("output_format", "nothing: the only types that there are", "png", choices=("png", "mp4")),
)
_STARTS = (
    mapped("image", "a reference: `init`, for a video `first_frame`", "https://example.com/heron.png", Kind.SOURCE),
    mapped("input_image", "the same", "https://example.com/heron.png", Kind.SOURCE),
    mapped("start_image", "the same, of a video", "https://example.com/heron.png", Kind.SOURCE),
    mapped("mask", "a reference: `mask`", "https://example.com/mask.png", Kind.SOURCE),
    mapped("prompt_strength", "1 minus `strength` of the reference", 0.8, Kind.NUMBER, minimum=0, maximum=1),
    mapped("strength", "1 minus `strength` of the reference", 0.8, Kind.NUMBER, minimum=0, maximum=1),
)
_NOTED = (
    noted("output_quality", 90, Kind.INTEGER, note=_KEPT),
    noted("go_fast", True, Kind.BOOLEAN, note=_KEPT),
    noted("disable_safety_checker", False, Kind.BOOLEAN, note=_KEPT),
    noted("apply_watermark", False, Kind.BOOLEAN, note=_KEPT),
)
_REFUSED = (
    refused("megapixels", "cannot be chosen here; send width and height", "1"),
    refused("num_frames", "cannot be chosen here; send duration in seconds", 81),
    refused("refine", "is of another engine", "expert_ensemble_refiner", harmless=("no_refiner",)),
)


def _inside(entry: Field) -> Field:
    return Field(
        f"{INPUT}{entry.name}",
        entry.kind,
        entry.treatment,
        entry.note,
        entry.example,
        repeated=entry.repeated,
        choices=entry.choices,
        minimum=entry.minimum,
        maximum=entry.maximum,
        harmless=entry.harmless,
        wide=entry.wide,
    )


FIELDS: tuple[Field, ...] = (
    *_OUTER,
    *(_inside(entry) for entry in (*_PROMPTS, *_SHAPE, *_STARTS, *_NOTED, *_REFUSED)),
)
"""What the body of a prediction takes. What is in `input` stands here with that before its name."""

VERSION: tuple[Field, ...] = (
    mapped("version", "`model`: the id of a version, or a model's name", "stability-ai/sdxl", required=True),
)

_SAME = {
    "max_new_tokens": "max_tokens",
    "steps": "num_inference_steps",
    "strength": "prompt_strength",
    "guidance": "guidance_scale",
    "fps": "frames_per_second",
}
_PLAIN = {
    "num_outputs": "quantity",
    "seed": "seed",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "scheduler": "scheduler",
    "duration": "duration_seconds",
    "frames_per_second": "frame_rate",
}
_LORAS = {"lora_weights": "lora_scale", "extra_lora": "extra_lora_scale"}
_PICTURES = ("image", "input_image", "start_image")
_OF_CHAT_ONLY = ("system_prompt", "max_tokens", "temperature", "top_p")
_OF_TEXT = frozenset({"prompt", *_OF_CHAT_ONLY})

NAMES = {
    "prompt": "input.prompt",
    "quantity": "input.num_outputs",
    "steps": "input.num_inference_steps",
    "guidance": "input.guidance_scale",
    "scheduler": "input.scheduler",
    "loras": "input.lora_weights",
    "seed": "input.seed",
    "width": "input.width",
    "height": "input.height",
    "duration_seconds": "input.duration",
    "frame_rate": "input.frames_per_second",
    "reference_images": "input.image",
    "chat": "input.prompt",
    "negative_prompt": "input.negative_prompt",
}
"""Our fields, as clients of Replicate know them."""


class Said:
    """A body that was read: what stands outside of `input`, what stands in it, and `input` as it came."""

    def __init__(self, values: Values, given: dict[str, Any]) -> None:
        """Keep what the table has read of a body."""
        self.outer = values
        inside = [name for name in values.given if name.startswith(INPUT)]
        self.input = {name.removeprefix(INPUT): values.given[name] for name in inside}
        self.echo: dict[str, Any] = dict(given)
        """`input` as it came, to be answered again; for a data URI the address of the file that it became."""

    def get(self, name: str, default: Any = None) -> Any:
        """Return a value of `input`, under whichever of its names it came."""
        return self.input.get(name, default)


async def read_body(call: Call) -> Said:
    """Read the body of a prediction by the endpoint's table.

    Raises:
        InvalidArgument: names every field that is refused.
    """
    given = await forms.read_json(call.exchange, forms.MAX_FORM_BYTES)
    twice = getattr(given, "repeated", ())
    if twice:
        raise InvalidArgument.field(twice[0], "is given twice")
    inner = given.get("input")
    flat = {name: value for name, value in given.items() if name != "input" or not isinstance(value, dict)}
    if isinstance(inner, dict):
        flat |= {f"{INPUT}{name}": value for name, value in inner.items()}
    values = read(call.endpoint.fields, flat, from_text=False)
    call.digest = await forms.digest_of(f"{call.endpoint.template} {'/'.join(call.path.values())}", given)
    said = Said(values, inner if isinstance(inner, dict) else {})
    for other, name in _SAME.items():
        if other in said.input:
            if name in said.input:
                raise InvalidArgument.field(
                    f"{INPUT}{other}", f"and {name} say it twice", ErrorReason.CONFLICTING_FIELDS
                )
            said.input[name] = said.input.pop(other)
    return said


async def request_of(call: Call, said: Said, named: Named) -> router_service_pb2.GenerateContentRequest:
    """Return the job that a prediction asks for.

    Raises:
        InvalidArgument: the model does not take a field, or a value cannot be had.
    """
    _check(said, named)
    request = router_service_pb2.GenerateContentRequest(model=named.model)
    if makes_text(named.row):
        _add_chat(request, said)
        return request
    request.format = named.format
    request.prompt = said.get("prompt", "")
    request.negative_prompt = said.get("negative_prompt", "")
    request.enhance_prompt = bool(said.get("prompt_upsampling"))
    for name, ours in _PLAIN.items():
        if name in said.input:
            setattr(request, ours, said.get(name))
    for name, scale in _LORAS.items():
        if name in said.input:
            add_loras(request, [(said.get(name), said.get(scale))], field=f"{INPUT}{name}")
        elif scale in said.input:
            raise InvalidArgument.field(f"{INPUT}{name}", f"is required with {scale}", ErrorReason.MISSING_FIELD)
    if "width" in said.input or "height" in said.input:
        _add_size(request, said)
    else:
        request.aspect_ratio = said.get("aspect_ratio", "")
    await _add_references(call, request, said)
    return request


def _check(said: Said, named: Named) -> None:
    noted_names = {name.removeprefix(INPUT) for name in said.outer.notes}
    text, video = makes_text(named.row), named.format == generation_pb2.FORMAT_VIDEO
    for name in said.input:
        if text and name not in _OF_TEXT and name not in noted_names:
            raise InvalidArgument.field(f"{INPUT}{name}", f"is of pictures and videos; {named.model} writes text")
        if not text and name in _OF_CHAT_ONLY:
            raise InvalidArgument.field(f"{INPUT}{name}", f"is {_TEXT}; {named.model} writes none")
        if not video and name in ("duration", "frames_per_second", "start_image"):
            raise InvalidArgument.field(f"{INPUT}{name}", f"is of videos; {named.model} makes none")
    if not said.get("prompt"):
        raise InvalidArgument.field(f"{INPUT}prompt", "is required", ErrorReason.MISSING_FIELD)
    if said.get("output_format") not in (None, "mp4" if video else "png"):
        raise InvalidArgument.field(f"{INPUT}output_format", f"is not a type that {named.model} makes")


def _add_chat(request: router_service_pb2.GenerateContentRequest, said: Said) -> None:
    if "system_prompt" in said.input:
        request.chat.messages.add(role=chat_pb2.CHAT_ROLE_SYSTEM, content=said.get("system_prompt"))
    request.chat.messages.add(role=chat_pb2.CHAT_ROLE_USER, content=said.get("prompt"))
    for name in ("max_tokens", "temperature", "top_p"):
        if name in said.input:
            setattr(request.chat, name, said.get(name))


def _add_size(request: router_service_pb2.GenerateContentRequest, said: Said) -> None:
    if "aspect_ratio" in said.input:
        message = "and width or height say it twice"
        raise InvalidArgument.field(f"{INPUT}aspect_ratio", message, ErrorReason.CONFLICTING_FIELDS)
    for name in ("width", "height"):
        if name not in said.input:
            raise InvalidArgument.field(f"{INPUT}{name}", "is required with the other", ErrorReason.MISSING_FIELD)
    set_size(request, said.get("width"), said.get("height"), field=INPUT)


async def _add_references(call: Call, request: router_service_pb2.GenerateContentRequest, said: Said) -> None:
    given = [name for name in _PICTURES if name in said.input]
    if len(given) > 1:
        raise InvalidArgument.field(f"{INPUT}{given[1]}", "is one picture too many: a job starts from one")
    for needing in ("mask", "prompt_strength"):
        if needing in said.input and not given:
            raise InvalidArgument.field(f"{INPUT}image", f"is required with {needing}", ErrorReason.MISSING_FIELD)
    video = request.format == generation_pb2.FORMAT_VIDEO
    kind = generation_pb2.REFERENCE_KIND_FIRST_FRAME if video else generation_pb2.REFERENCE_KIND_INIT
    for name, role in ((given[0], kind), ("mask", generation_pb2.REFERENCE_KIND_MASK)) if given else ():
        if name not in said.input:
            continue
        noise = said.get("prompt_strength") if role == kind else None
        asset_id = await add_reference(call, request, said.get(name), role, field=f"{INPUT}{name}", noise=noise)
        if said.get(name)[:5].lower() == "data:":
            said.echo[name] = f"{call.kit.public_url}{FILES}{asset_id}"
