"""Pictures from an upstream: what can be asked of it, what is refused by name, and what comes back."""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
from PIL import Image, UnidentifiedImageError

from atelier_worker.engine import EngineError, Reference, Task
from atelier_worker.engines import files
from atelier_worker.engines.features import refuse

from .features import PICTURES
from .options import Model
from .upstream import Upstream, counted, read_limited

_QUALITIES: Mapping[str, Mapping[str, str]] = {
    "gpt-image": {"draft": "low", "standard": "medium", "high": "high"},
    "dall-e-3": {"draft": "standard", "standard": "standard", "high": "hd"},
}
_FORMATS = ("PNG", "JPEG", "WEBP")
# Of one picture in an answer: no more than its pixels take as they are, in base64, and room for what is around them.
_BYTES_PER_PIXEL = 12
_ROOM_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Plan:
    """What to ask: the outputs of each request, and what the owner of the job should know first."""

    batches: tuple[tuple[int, ...], ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of an answer: its bytes, or (None) the address where it lies."""

    data: bytes | None
    url: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request came to. `usage` are tokens read and written, None when the upstream counts none."""

    pictures: tuple[Picture, ...]
    usage: tuple[int, int] | None


def plan(task: Task, model: Model) -> Plan:
    """Check a task and cut it into requests.

    Raises:
        EngineError: the upstream cannot do what was asked for; the sentence names it.
    """
    refuse(PICTURES[model.shape], task)
    _check_size(task, model)
    _check_references(task)
    warnings: tuple[str, ...] = ()
    if not model.seeds:
        warnings = ("The upstream takes no seed: the same seed does not give the same picture again.",)
    step = model.images_per_request
    batches = tuple(task.indexes[start : start + step] for start in range(0, len(task.indexes), step))
    return Plan(batches, warnings)


def _check_size(task: Task, model: Model) -> None:
    if model.sizes and (task.width, task.height) not in model.sizes:
        listed = ", ".join(f"{width}x{height}" for width, height in model.sizes)
        raise EngineError(
            f"The model {task.model!r} makes pictures of {listed}, and not of {task.width}x{task.height}."
        )


def _check_references(task: Task) -> None:
    kinds = [reference.kind for reference in _used(task)]
    for kind in ("init", "mask"):
        if kinds.count(kind) > 1:
            raise EngineError(f"The upstream takes one reference of the kind {kind}, and not {kinds.count(kind)}.")
    if "mask" in kinds and "init" not in kinds:
        raise EngineError("A reference of the kind mask needs one of the kind init, which it says where to change.")


def _used(task: Task) -> list[Reference]:
    return [reference for reference in task.references if reference.strength > 0]


async def ask(upstream: Upstream, model: Model, task: Task, indexes: tuple[int, ...]) -> Answer:
    """Have pictures made by one request. Is not asked again once it was sent: somebody pays for each.

    Raises:
        Again: the upstream did not begin.
        EngineError: it refused, or its answer cannot be used.
    """
    fields = _fields(model, task, indexes)
    sent = _sent_files(task)
    path = "/images/edits" if sent else "/images/generations"
    form = {name: str(value) for name, value in fields.items()} if sent else None
    most_bytes = len(indexes) * (task.width * task.height * _BYTES_PER_PIXEL + _ROOM_BYTES)
    try:
        async with upstream.post(
            path, model=model.source, body=None if sent else fields, form=form, files=sent or None
        ) as response:
            return _answer(await read_limited(response, most_bytes), upstream, len(indexes))
    except httpx.TimeoutException:
        raise EngineError("The upstream took too long to answer.", retryable=True) from None
    except httpx.TransportError:
        raise EngineError("The upstream's answer broke off.", retryable=True) from None


def _fields(model: Model, task: Task, indexes: tuple[int, ...]) -> dict[str, object]:
    fields: dict[str, object] = {
        "model": model.source,
        "prompt": task.prompt,
        "n": len(indexes),
        "size": f"{task.width}x{task.height}",
    }
    if model.shape == "gpt-image":
        fields["output_format"] = "png"
    else:
        fields["response_format"] = "b64_json"
    quality = _QUALITIES.get(model.shape, {}).get(task.quality)
    if quality is not None:
        fields["quality"] = quality
    if model.seeds:
        fields["seed"] = task.seed + indexes[0]
    return fields


def _sent_files(task: Task) -> dict[str, tuple[str, bytes, str]]:
    """The picture to change and where, as PNGs of the output's size.

    A mask is white where the picture may change; the API's is transparent there.
    """
    by_kind = {reference.kind: reference for reference in _used(task)}
    if "init" not in by_kind:
        return {}
    sent = {"image": ("image.png", _png(_read(by_kind["init"], task)), "image/png")}
    if "mask" in by_kind:
        white = _read(by_kind["mask"], task).convert("L")
        mask = Image.new("RGBA", white.size, (0, 0, 0, 255))
        mask.putalpha(white.point([255 - value for value in range(256)]))
        sent["mask"] = ("mask.png", _png(mask), "image/png")
    return sent


def _read(reference: Reference, task: Task) -> Image.Image:
    return files.read_picture(reference, task.width, task.height)


def _png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=1)
    return out.getvalue()


def _answer(data: bytes, upstream: Upstream, most: int) -> Answer:
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError):
        raise EngineError("The upstream answered with what is not JSON.") from None
    listed = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(listed, list) or not listed:
        said, _ = upstream.reason_of(answer)
        raise EngineError(f"The upstream answered without a picture{f': {said}' if said else '.'}")
    usage = answer.get("usage")
    tokens = counted(usage.get("input_tokens"), usage.get("output_tokens")) if isinstance(usage, dict) else None
    return Answer(tuple(_picture(one) for one in listed[:most]), tokens)


def _picture(one: object) -> Picture:
    fields = one if isinstance(one, dict) else {}
    text, url = fields.get("b64_json"), fields.get("url")
    if isinstance(text, str) and text:
        try:
            return Picture(base64.b64decode(text, validate=True), "")
        except (binascii.Error, ValueError):
            raise EngineError("The upstream answered with a picture that is not base64.") from None
    if isinstance(url, str) and url:
        return Picture(None, url)
    raise EngineError("The upstream answered with neither a picture nor its address.")


def save(data: bytes, task: Task, model: Model, index: int, workdir: Path) -> Path:
    """Write a picture as a PNG that says how it was made, and return where.

    Raises:
        EngineError: it is no picture, or not of the size that was asked for.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            # Before it is unpacked: a small file may hold a very large picture.
            if picture.size != (task.width, task.height):
                width, height = picture.size
                raise EngineError(
                    f"The upstream made a picture of {width}x{height} pixels where {task.width}x{task.height} was asked"
                    " for; ask for a size that it makes."
                )
            picture.load()
            whole = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise EngineError("The upstream answered with a file that is not a PNG, JPEG or WebP picture.") from error
    path = workdir / f"{index}.png"
    # The seed of a picture that was made without one would promise too much.
    made = files.made_with(task, task.seed + index, "openai", {"upstream_model": model.source, "seeds": model.seeds})
    files.save_png(whole, path, made)
    return path
