"""Pictures that ComfyUI shows while it works, made small enough to be passed on."""

from __future__ import annotations

import io
import warnings

from PIL import Image, UnidentifiedImageError

from atelier_worker.engine import PREVIEW_LIMIT_BYTES

_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
_MOST_PIXELS = 4096 * 4096
_SIDE = 384


def small_preview(data: bytes) -> tuple[bytes, str] | None:
    """Return a picture of at most 64 KiB with its type; None when this is no picture."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=list(_TYPES)) as picture:
                if picture.width * picture.height > _MOST_PIXELS:
                    return None
                if len(data) <= PREVIEW_LIMIT_BYTES:
                    picture.verify()
                    return data, _TYPES[str(picture.format)]
                small = picture.convert("RGB")
                small.thumbnail((_SIDE, _SIDE))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Warning, Image.DecompressionBombError):
        return None
    out = io.BytesIO()
    small.save(out, "JPEG", quality=80)
    return (out.getvalue(), "image/jpeg") if out.tell() <= PREVIEW_LIMIT_BYTES else None
