"""What ComfyUI saved, brought here: bounded, recognised by its content, and written anew with Atelier's description.

Its own files carry the whole workflow in their metadata, with the names of everything that is installed there.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from atelier_worker.engine import EngineError
from atelier_worker.engines.comfyui_engine.api import ComfyApi, Saved
from atelier_worker.engines.files import KEY, save_png
from atelier_worker.engines.residency.pictures import check_picture
from service_kit.comfy_template import Template

_LISTS = ("images", "gifs", "videos", "video")
_LONGEST_NAME = 400
_MOST_PIXELS = 8192 * 8192
_FORMATS = ("PNG", "JPEG", "WEBP")


class Gone(Exception):
    """What was saved is not there any more."""


def saved_files(template: Template, outputs: Mapping[str, Any]) -> list[Saved]:
    """Return what the template's output nodes saved, in order, as its history lists it."""
    found = []
    for name in template.outputs:
        node = outputs.get(name)
        for kind in _LISTS:
            listed = node.get(kind) if isinstance(node, Mapping) else None
            found += [_saved(one) for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []
    return [one for one in found if one is not None]


def fetch_picture(
    api: ComfyApi,
    saved: Saved,
    target: Path,
    *,
    made: str,
    limit_bytes: int,
    longest_s: float,
    may_be_plain: bool,
) -> tuple[int, int]:
    """Write a picture as PNG that says how it was `made`; return its width and height in pixels.

    Raises:
        Gone: it is not there any more.
        EngineError: it is no picture, too large, or black.
    """
    raw = _download(api, saved, target, limit_bytes, longest_s)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(raw, formats=_FORMATS) as opened:
                if opened.width * opened.height > _MOST_PIXELS:
                    raise EngineError(
                        f"ComfyUI made a picture of {opened.width} × {opened.height}, which is too large."
                    )
                picture = opened.convert("RGBA" if opened.has_transparency_data else "RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise EngineError("ComfyUI saved something that is no PNG, JPEG or WebP picture.") from error
    finally:
        raw.unlink(missing_ok=True)
    check_picture(picture, may_be_plain=may_be_plain)
    save_png(picture, target, made)
    return picture.size


def fetch_video(
    api: ComfyApi, saved: Saved, target: Path, *, made: str, limit_bytes: int, longest_s: float
) -> tuple[int, int]:
    """Write a video as MP4 with its index in front that says how it was `made`; return its width and height.

    Raises:
        Gone: it is not there any more.
        EngineError: it is no MP4, or too large.
    """
    import av

    raw = _download(api, saved, target, limit_bytes, longest_s)
    try:
        with raw.open("rb") as opened:
            head = opened.read(12)
        if head[4:8] != b"ftyp":
            raise EngineError("ComfyUI saved something that is no MP4; set the node that saves the video to mp4.")
        return _rewrap(raw, target, made)
    except av.FFmpegError as error:
        raise EngineError("ComfyUI saved a video that cannot be read.") from error
    finally:
        raw.unlink(missing_ok=True)


def _download(api: ComfyApi, saved: Saved, target: Path, limit_bytes: int, longest_s: float) -> Path:
    raw = target.with_name(f"{target.stem}.raw")
    if not api.download(saved, raw, limit_bytes=limit_bytes, longest_s=longest_s):
        raise Gone
    return raw


def _rewrap(raw: Path, target: Path, made: str) -> tuple[int, int]:
    """Copy the streams as they are into a new container."""
    import av

    options = {"movflags": "+faststart+use_metadata_tags", "fflags": "+bitexact"}
    with (
        av.open(str(raw), "r", format="mp4") as source,
        av.open(str(target), "w", format="mp4", options=options) as out,
    ):
        if not source.streams.video:
            raise EngineError("ComfyUI saved a video without pictures.")
        picture = source.streams.video[0]
        out.metadata.update({KEY: made, "encoder": "comfyui"})
        kept = {one.index: out.add_stream_from_template(one) for one in (picture, *source.streams.audio[:1])}
        for packet in source.demux([one for one in source.streams if one.index in kept]):
            if packet.dts is not None:
                packet.stream = kept[packet.stream_index]
                out.mux(packet)
        return picture.width, picture.height


def _saved(one: Mapping[str, Any]) -> Saved | None:
    names = (one.get("filename"), one.get("subfolder", ""), one.get("type", "output"))
    if not all(isinstance(name, str) and len(name) <= _LONGEST_NAME for name in names) or not names[0]:
        return None
    return Saved(str(names[0]), str(names[1]), str(names[2]))
