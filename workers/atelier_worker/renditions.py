"""Renditions for outputs whose engine made none. Runs in the engine's process, which may hold Pillow and PyAV."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from pathlib import Path

from service_kit.renditions import OF_IMAGES, OF_VIDEOS, make

_IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif"})
_VIDEO_SUFFIXES = frozenset({".mp4", ".webm", ".mov"})


def complete(output: Path, given: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """Return the given renditions and those that are missing: thumbnails, and a poster and a clip for a video.

    An output of another suffix, or one that cannot be opened, gets none: the asset service judges it, and makes what
    is missing.
    """
    suffix = output.suffix.lower()
    video = suffix in _VIDEO_SUFFIXES
    missing = [kind for kind in (OF_VIDEOS if video else OF_IMAGES) if kind not in given]
    if not missing or suffix not in _IMAGE_SUFFIXES | _VIDEO_SUFFIXES:
        return dict(given)
    found = dict(given)
    try:
        for kind, data in make(output, missing, video=video):
            path = folder / f"{output.stem}-{kind}.webp"
            path.write_bytes(data)
            found[kind] = path
    except Exception:  # noqa: BLE001 - decoders raise anything; their traceback is printed, the output stands without
        traceback.print_exc(file=sys.stderr)
    return found
