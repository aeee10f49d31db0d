"""Masks: OpenAI's are transparent where the picture may change, ours are white there."""

from __future__ import annotations

import asyncio
import io

from PIL import Image

from service_kit.errors import ErrorReason, InvalidArgument

_MAX_SIDE = 4096
_MAX_BYTES = 4 << 20


async def from_transparency(content: bytes) -> bytes:
    """Return a mask of ours, as PNG, for a mask of OpenAI's.

    Raises:
        InvalidArgument: it is no PNG with transparency, or has more than 4096 pixels on a side, or 4 MiB.
    """
    return await asyncio.to_thread(_convert, content)


def _convert(content: bytes) -> bytes:
    if len(content) > _MAX_BYTES:
        raise _refused(f"must have at most {_MAX_BYTES} bytes, got {len(content)}")
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            if max(picture.size) > _MAX_SIDE:
                raise _refused(f"must have at most {_MAX_SIDE} pixels on a side, got {max(picture.size)}")
            if not picture.has_transparency_data:
                raise _refused("must be transparent where the picture may change; it has no transparency")
            opacity = picture.convert("RGBA").getchannel("A")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _refused("must be a PNG") from error
    written = io.BytesIO()
    opacity.point(lambda value: 255 - value).save(written, "PNG")
    return written.getvalue()


def _refused(message: str) -> InvalidArgument:
    return InvalidArgument.field("mask", message, ErrorReason.UNSUPPORTED_MEDIA)
