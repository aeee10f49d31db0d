"""What the catalogues of models share: pictures to start from, sizes in pixels, LoRAs by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from atelier.router.v1 import router_service_pb2
from atelier.type.v1 import generation_pb2
from gateway.dialects.call import Call
from gateway.dialects.fields import as_float
from service_kit.errors import InvalidArgument

_SIDE_MULTIPLE = 8
_LONGEST_SIDE = 2**31 - 1
FILES = "/replicate/v1/files/"
"""Where the files of a client are, below the gateway's public address."""
FAL_FILES = "/fal/files/"
"""Where those are that came through fal's storage."""


async def add_reference(
    call: Call,
    request: router_service_pb2.GenerateContentRequest,
    source: str,
    kind: generation_pb2.ReferenceKind.ValueType,
    *,
    field: str,
    noise: float | None = None,
) -> str:
    """Let a job start from a picture: a URL, a data URI, or a file of the caller's. Returns the id of its asset.

    `noise` is how much of the picture is made anew, from 0 to 1: the opposite of our strength.

    Raises:
        InvalidArgument: the picture cannot be had.
    """
    own = [f"{call.kit.public_url}{path}" for path in (FILES, FAL_FILES)]
    known = next((source.removeprefix(prefix) for prefix in own if source.startswith(prefix)), None)
    if known is not None:
        asset_id = known
    else:
        entries = await call.access()
        asset_id = await call.kit.context.references.from_text(source, entries, field=field)
    reference = request.reference_images.add(asset_id=asset_id, kind=kind)
    if noise is not None:
        reference.strength = 1 - noise
    return asset_id


def add_loras(
    request: router_service_pb2.GenerateContentRequest, loras: Iterable[tuple[Any, Any]], *, field: str
) -> None:
    """Ask for LoRAs, as names and weights; the router limits them.

    Raises:
        InvalidArgument: a name that is none, as an address is not: nothing is loaded from there; or no number.
    """
    for name, weight in loras:
        if not isinstance(name, str) or not name or "://" in name:
            message = f"must be the name of a LoRA that our workers have, got {str(name)[:60]!r}"
            raise InvalidArgument.field(field, message)
        if weight is not None and (isinstance(weight, bool) or not isinstance(weight, (int, float))):
            raise InvalidArgument.field(field, f"must have a number as its weight, got {str(weight)[:60]!r}")
        request.loras.add(name=name, weight=weight)


def set_size(request: router_service_pb2.GenerateContentRequest, width: float, height: float, *, field: str) -> None:
    """Ask for a size in pixels. Raises InvalidArgument for one that is no multiple of 8; the router limits it."""
    for name, value in (("width", width), ("height", height)):
        if not 0 <= value <= _LONGEST_SIDE or not float(value).is_integer() or int(value) % _SIDE_MULTIPLE:
            message = f"must be a multiple of {_SIDE_MULTIPLE}, got {as_float(value):g}"
            raise InvalidArgument.field(f"{field}{name}", message)
    request.width, request.height = int(width), int(height)


def of_short_side(side: int, ratio: str) -> tuple[int, int]:
    """Return width and height of a ratio such as `16:9` whose shorter side is `side`, to the next multiple of 8."""
    across, down = (int(part) for part in ratio.split(":"))
    longer = round(side * max(across, down) / min(across, down) / _SIDE_MULTIPLE) * _SIDE_MULTIPLE
    return (longer, side) if across >= down else (side, longer)
