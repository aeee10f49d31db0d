"""What the bytes of a file are: told from the bytes alone, never from a name, and never without limits.

First the skeleton of a file is walked through, which takes no memory; only what holds together is decoded.
"""

from __future__ import annotations

import mmap
import re
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from asset_service import movie_walk, picture_walk
from asset_service.plain_png import is_plain_and_whole
from asset_service.refusals import damaged, known_name, too_large, unsupported
from asset_service.shape_domain import Shape

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.stream import Stream

MAX_SIDE = 16_384
"""The longest side of a picture or video, in pixels."""

MAX_PIXELS = 64 << 20
"""The most pixels of a picture, or of a frame of a video: 8192 by 8192. Decoding one takes four bytes for each."""

MAX_ANIMATED_PIXELS = 1 << 30
"""The most pixels of all frames of an animated picture together."""

MAX_DURATION_S = 4 * 3600
"""The longest video."""

HEAD_BYTES = 4096
"""As many of the first bytes as tell what a file is."""

_ORIENTATION = 0x0112
_TURNED = frozenset({5, 6, 7, 8})
_IMAGES = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP", "image/gif": "GIF"}
_MP4_BRANDS = re.compile(rb"isom|iso[2-9]|mp4[12]|avc1|M4V |dash|mmp4|f4v |MSNV")
# What an index does not say would be guessed from frames, which are decoded for that; we decode one anyway. Fragments
# have no index, and may not say how long their last frame lasts.
_UNSEEN = {"skip_frame": "all", "probesize": "32"}
_CODECS = frozenset({"h264", "hevc", "av1", "vp9", "mpeg4"})
# How far what a video says of its length may lie from the length of its frames: sound may be padded.
_SLACK_S, _SLACK = 2.0, 0.1


def sniff(head: bytes) -> str:
    """Return the type that the first bytes of a file tell.

    Raises:
        InvalidArgument: `unsupported_media`; says what the file is, as far as that is known.
    """
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "image/gif"
    if head[4:8] == b"ftyp" and _MP4_BRANDS.match(head[8:12]):
        return "video/mp4"
    name = known_name(head)
    if name:
        raise unsupported(f"The file is {name}")
    if not head.strip(b"\x00"):
        raise unsupported("The file is empty")
    raise unsupported("The file is not a picture or a video that is known here")


def measure(file: Path | bytes | memoryview) -> Shape:
    """Tell what a file on the disk or in memory is, and decode enough of it to know that it is whole. Blocks.

    Raises:
        InvalidArgument: `unsupported_media`, `media_damaged`, `media_disguised` or `media_too_large`; says what is
            wrong.
    """
    if isinstance(file, Path):
        with file.open("rb") as opened:
            content_type = sniff(opened.read(HEAD_BYTES))
            # Its bytes are not read all into memory.
            with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                shape = _shape_of_whole(mapped, content_type)
            return shape or _decode(opened, file, content_type)
    with memoryview(file) as data:
        content_type = sniff(bytes(data[:HEAD_BYTES]))
        shape = _shape_of_whole(data, content_type)
        if shape is not None:
            return shape
        copy = BytesIO(data)
    return _decode(copy, copy, content_type)


def _shape_of_whole(data: picture_walk.Bytes, content_type: str) -> Shape | None:
    """Return what a file is that is known to be whole without being decoded; refuse what need not be decoded for it."""
    if content_type == "video/mp4":
        picture_walk.check_alone(data)
        return None
    outline = picture_walk.walk(data, content_type)
    _check_size(outline.width, outline.height)
    if outline.frames * outline.width * outline.height > max(MAX_ANIMATED_PIXELS, MAX_PIXELS):
        raise too_large(
            f"The picture has {outline.frames} frames of {outline.width} by {outline.height} pixels; at most "
            f"{MAX_ANIMATED_PIXELS} pixels are taken in all"
        )
    if content_type == "image/png" and is_plain_and_whole(data):
        return Shape(content_type, outline.width, outline.height)
    return None


def _decode(opened: BinaryIO, file: Path | BytesIO, content_type: str) -> Shape:
    return _video(opened, file) if content_type == "video/mp4" else _image(opened, content_type)


def _check_size(width: int, height: int) -> None:
    if not 1 <= width <= MAX_SIDE or not 1 <= height <= MAX_SIDE or width * height > MAX_PIXELS:
        raise too_large(
            f"The picture is {width} by {height} pixels; at most {MAX_SIDE} a side and {MAX_PIXELS} in all are taken"
        )


def _image(opened: BinaryIO, content_type: str) -> Shape:
    from PIL import Image, PngImagePlugin  # slow to import, and only needed here

    PngImagePlugin.MAX_TEXT_CHUNK = picture_walk.MAX_TEXT_BYTES
    name = _IMAGES[content_type]
    opened.seek(0)
    try:
        with Image.open(opened, formats=[name]) as image:
            _check_size(image.width, image.height)
            image.load()
            turned = image.getexif().get(_ORIENTATION) in _TURNED
            width, height = (image.height, image.width) if turned else image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise too_large(f"The picture has more than {MAX_PIXELS} pixels") from None
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError):
        # Pillow's decoders raise these for whatever is wrong with a file.
        raise damaged(f"The file begins like {name}, but is damaged or not complete") from None
    return Shape(content_type, width, height)


def _video(opened: BinaryIO, file: Path | BytesIO) -> Shape:
    import av  # slow to import, and only needed for videos

    movie = movie_walk.walk(opened)
    try:
        name = str(file) if isinstance(file, Path) else file
        with av.open(name, mode="r", format="mp4", options={} if b"moof" in movie.kinds else _UNSEEN) as container:
            return _measure_video(container, movie)
    except (av.FFmpegError, OSError, ValueError, EOFError, MemoryError):
        raise damaged("The file begins like MP4, but is damaged or not complete") from None


def _measure_video(container: InputContainer, movie: movie_walk.Movie) -> Shape:
    if not container.streams.video:
        raise unsupported("The file is an MP4 file without a picture")
    stream = container.streams.video[0]
    if stream.codec_context.name not in _CODECS and stream.codec_context.codec.canonical_name not in _CODECS:
        raise unsupported(f"The video is written as {stream.codec_context.name}, which browsers do not show")
    stream.thread_count = 1
    stream.codec_context.skip_frame = "DEFAULT"
    _check_size(stream.width, stream.height)
    frame = next(container.decode(stream), None)
    if frame is None:
        raise unsupported("The file is an MP4 file without a frame")
    _check_size(frame.width, frame.height)
    turned = frame.rotation % 180 != 0
    width, height = (stream.height, stream.width) if turned else (stream.width, stream.height)
    container.seek(0)
    packets, shown_s, longest_s = _lengths(container, stream)
    if packets < stream.frames:
        raise damaged("The file begins like MP4, but is damaged or not complete")
    _check_length(movie, shown_s, longest_s)
    return Shape("video/mp4", width, height, round(shown_s * 1000))


def _lengths(container: InputContainer, video: Stream) -> tuple[int, float, float]:
    """Return how many frames a video has, how long they are shown, and how long its longest stream is, in seconds."""
    packets = 0
    begins: dict[int, int] = {}
    ends: dict[int, int] = {}
    for packet in container.demux():
        if not packet.size or packet.is_corrupt:
            continue
        mine = packet.stream.index
        packets += mine == video.index
        if packets > movie_walk.MAX_SAMPLES:
            raise too_large(f"The video has more than {movie_walk.MAX_SAMPLES} frames")
        place = packet.pts if packet.pts is not None else packet.dts
        if place is None or packet.is_discard:
            continue
        begins[mine] = min(begins.get(mine, place), place)
        ends[mine] = max(ends.get(mine, place), place + (packet.duration or 0))
    lengths = {
        stream.index: float((ends[stream.index] - begins[stream.index]) * stream.time_base)
        for stream in container.streams
        if stream.index in ends and stream.time_base is not None
    }
    if video.index not in lengths:
        raise damaged("The file begins like MP4, but is damaged or not complete")
    return packets, lengths[video.index], max(lengths.values())


def _check_length(movie: movie_walk.Movie, shown_s: float, longest_s: float) -> None:
    """Refuse a video that is too long, or says another length than its frames have."""
    if shown_s > MAX_DURATION_S:
        raise too_large(f"The video lasts {shown_s:.0f} s; at most {MAX_DURATION_S} s are taken")
    if movie.duration_s is None:
        return
    slack_s = max(_SLACK_S, _SLACK * longest_s)
    # An edited video may be shown for less than it has, or begin with a pause; never for much more.
    if movie.duration_s > longest_s + slack_s or (movie.duration_s < longest_s - slack_s and not movie.edited):
        raise damaged(f"The video says that it lasts {movie.duration_s:.1f} s, and its frames last {longest_s:.1f} s")
