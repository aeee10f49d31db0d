"""Renditions for outputs whose engine made none. Runs in the engine's process, which may hold Pillow and PyAV."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

_SIDES = {"thumb_256": 256, "thumb_1024": 1024}
_IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
_VIDEO_SUFFIXES = frozenset({".mp4", ".webm", ".mov"})
_QUALITY = 80


def complete(output: Path, given: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """Return the given renditions and those that are missing: thumbnails, and a poster for a video.

    An output of another suffix, or one that cannot be opened, gets none: the asset service judges it.
    """
    suffix = output.suffix.lower()
    wanted = [*_SIDES, "poster"] if suffix in _VIDEO_SUFFIXES else [*_SIDES]
    missing = [kind for kind in wanted if kind not in given]
    if not missing or suffix not in _IMAGE_SUFFIXES | _VIDEO_SUFFIXES:
        return dict(given)
    try:
        picture = _still(output) if "poster" in wanted else _picture(output)
        return {**given, **{kind: _save(picture, kind, folder / f"{output.stem}-{kind}.webp") for kind in missing}}
    except Exception:  # noqa: BLE001 - decoders raise anything; their traceback is printed, the output stands without
        traceback.print_exc(file=sys.stderr)
        return dict(given)


def _picture(path: Path) -> Image.Image:
    from PIL import Image, ImageOps

    with Image.open(path) as picture:
        return ImageOps.exif_transpose(picture).convert("RGBA" if "A" in picture.getbands() else "RGB")


def _still(path: Path) -> Image.Image:
    import av

    with av.open(str(path)) as container:
        picture: Image.Image = next(container.decode(video=0)).to_image()  # type: ignore[no-untyped-call]
        return picture


def _save(picture: Image.Image, kind: str, path: Path) -> Path:
    side = _SIDES.get(kind, max(picture.size))
    small = picture.copy()
    # thumbnail() keeps the shape and never enlarges.
    small.thumbnail((side, side))
    small.save(path, "WEBP", quality=_QUALITY)
    return path
