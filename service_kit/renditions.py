"""Makes smaller files of pictures and videos: thumbnails, a poster, a short looping clip. Needs Pillow and PyAV.

It decodes what others have sent or made, so it runs only in processes that may die: a worker's engine, and the child
of the asset service.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

THUMBNAILS = {"thumb_256": 256, "thumb_1024": 1024}
"""The longer side of each thumbnail in pixels. None is ever larger than what it is made from."""

POSTER_SIDE = 1920
"""The longer side of a poster in pixels, at most."""

CLIP_SIDE = 320
"""The longer side of a clip in pixels, at most."""

CLIP_S = 3.0
"""How much of a video a clip shows, in seconds."""

CLIP_RATE = 8
"""Frames of a clip in a second."""

OF_IMAGES = tuple(THUMBNAILS)
OF_VIDEOS = (*THUMBNAILS, "poster", "clip")
_QUALITY = 80
_CLIP_QUALITY = 60
_METHOD = 2


def kinds_for(content_type: str) -> tuple[str, ...]:
    """Return which renditions a picture or a video has."""
    return OF_VIDEOS if content_type.startswith("video/") else OF_IMAGES


def make(path: Path, kinds: Iterable[str], *, video: bool) -> Iterator[tuple[str, bytes]]:
    """Give the wanted renditions of a file, each as WebP. Blocks.

    Raises:
        OSError, ValueError, and whatever else a decoder raises: the file cannot be decoded.
    """
    wanted = list(kinds)
    stills = [kind for kind in wanted if kind != "clip"]
    if stills:
        picture = _first_frame(path) if video else _picture(path)
        whole = picture.size
        # The largest first: each is made from the one before it, which is faster and looks the same.
        for kind in sorted(stills, key=_side, reverse=True):
            picture = _smaller(picture, _side(kind), whole)
            yield kind, _webp(picture)
    if "clip" in wanted:
        yield "clip", _clip(path)


def _side(kind: str) -> int:
    return THUMBNAILS.get(kind, POSTER_SIDE)


def _picture(path: Path) -> Image.Image:
    from PIL import Image

    from service_kit.pictures import as_meant

    with Image.open(path) as picture:
        # A JPEG is decoded no larger than it is needed.
        picture.draft("RGB", (THUMBNAILS["thumb_1024"], THUMBNAILS["thumb_1024"]))
        upright = as_meant(picture)
        return upright.convert("RGBA" if upright.has_transparency_data else "RGB")


def _first_frame(path: Path) -> Image.Image:
    import av

    with av.open(str(path)) as container:
        container.streams.video[0].thread_count = 1
        frame = next(container.decode(video=0), None)
        if frame is None:
            raise ValueError("the video has no frame")
        return _upright(frame)


def _upright(frame: object) -> Image.Image:
    picture: Image.Image = frame.to_image()  # type: ignore[attr-defined]
    turn = int(getattr(frame, "rotation", 0)) % 360
    return picture.rotate(turn, expand=True) if turn else picture


def _smaller(picture: Image.Image, side: int, whole: tuple[int, int]) -> Image.Image:
    """Return a picture with its longer side that long at most, in the shape of the whole; never enlarged."""
    from PIL import Image

    share = min(1.0, side / max(whole))
    size = max(1, round(whole[0] * share)), max(1, round(whole[1] * share))
    return picture if size == picture.size else picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)


def _webp(picture: Image.Image) -> bytes:
    target = io.BytesIO()
    picture.save(target, "WEBP", quality=_QUALITY, method=_METHOD)
    return target.getvalue()


def _clip(path: Path) -> bytes:
    """Return the beginning of a video as an animated WebP that repeats for ever: browsers show it like a picture."""
    import av

    pictures: list[Image.Image] = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        begin: float | None = None
        for frame in container.decode(stream):
            at = frame.time if frame.pts is not None else len(pictures) / CLIP_RATE
            begin = at if begin is None else begin
            if at - begin >= CLIP_S or len(pictures) >= CLIP_S * CLIP_RATE:
                break
            if (at - begin) * CLIP_RATE >= len(pictures):
                picture = _upright(frame)
                pictures.append(_smaller(picture, CLIP_SIDE, picture.size))
    if not pictures:
        raise ValueError("the video has no frame")
    target = io.BytesIO()
    pictures[0].save(
        target,
        "WEBP",
        save_all=True,
        append_images=pictures[1:],
        duration=1000 // CLIP_RATE,
        loop=0,
        quality=_CLIP_QUALITY,
        method=0,
    )
    return target.getvalue()
