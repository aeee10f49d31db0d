"""What the bytes of a file are: told from the bytes alone, never from a name, and never without limits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

from service_kit.errors import ErrorReason, InvalidArgument

MAX_SIDE = 16_384
"""The longest side of a picture or video, in pixels."""

MAX_PIXELS = 64 << 20
"""The most pixels of a picture, or of a frame of a video: 8192 by 8192. Decoding one takes four bytes for each."""

ACCEPTED = "PNG, JPEG, WebP, GIF or MP4"
_HEAD_BYTES = 4096
_ORIENTATION = 0x0112
_TURNED = frozenset({5, 6, 7, 8})

_IMAGES = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP", "image/gif": "GIF"}
_MP4_BRANDS = re.compile(rb"isom|iso[2-9]|mp4[12]|avc1|M4V |dash|mmp4|f4v |MSNV")
_REFUSED = (
    (re.compile(rb"PK\x03\x04|PK\x05\x06"), "a ZIP archive"),
    (re.compile(rb"%PDF-"), "a PDF document"),
    (re.compile(rb"(?is)\s*(<\?xml.*?)?(<!--.*?-->\s*)?(<!doctype svg.*?)?<svg\b"), "an SVG drawing"),
    (re.compile(rb"(?is)\s*<(!doctype html|html)"), "an HTML page"),
    (re.compile(rb"\x1aE\xdf\xa3"), "a Matroska or WebM file"),
    (re.compile(rb"BM.{12}", re.DOTALL), "a BMP picture"),
    (re.compile(rb"II\*\x00|MM\x00\*"), "a TIFF picture"),
    (re.compile(rb".{4}ftyp(avif|avis)", re.DOTALL), "an AVIF picture"),
    (re.compile(rb".{4}ftyp(heic|heix|hevc|mif1|msf1)", re.DOTALL), "a HEIC picture"),
    (re.compile(rb".{4}ftypqt  ", re.DOTALL), "a QuickTime movie"),
    (re.compile(rb".{4}ftypM4A ", re.DOTALL), "an MP4 file with sound only"),
    (re.compile(rb"RIFF.{4}AVI ", re.DOTALL), "an AVI movie"),
    (re.compile(rb"\x1f\x8b"), "a gzip file"),
    (re.compile(rb"\x7fELF|MZ"), "a program"),
)


@dataclass(frozen=True, slots=True)
class Shape:
    """What was measured: the type, width and height in pixels as shown, and the length of a video."""

    content_type: str
    width: int
    height: int
    duration_ms: int | None = None


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
    for pattern, name in _REFUSED:
        if pattern.match(head):
            raise unsupported(f"The file is {name}")
    if not head.strip(b"\x00"):
        raise unsupported("The file is empty")
    raise unsupported("The file is not a picture or a video that is known here")


def measure(file: Path | BinaryIO) -> Shape:
    """Tell what a file on the disk or in memory is, and decode enough of it to know that it is whole. Blocks.

    Raises:
        InvalidArgument: `unsupported_media`; says what is wrong.
    """
    if isinstance(file, Path):
        with file.open("rb") as opened:
            head = opened.read(_HEAD_BYTES)
    else:
        head = file.read(_HEAD_BYTES)
        file.seek(0)
    content_type = sniff(head)
    return _video(file) if content_type == "video/mp4" else _image(file, content_type)


def unsupported(what: str) -> InvalidArgument:
    """Return the error of a file that is not taken."""
    return InvalidArgument(f"{what}; send {ACCEPTED}.", ErrorReason.UNSUPPORTED_MEDIA)


def _check_size(width: int, height: int) -> None:
    if not 1 <= width <= MAX_SIDE or not 1 <= height <= MAX_SIDE or width * height > MAX_PIXELS:
        raise unsupported(
            f"The picture is {width} by {height} pixels; at most {MAX_SIDE} a side and {MAX_PIXELS} in all are taken"
        )


def _image(file: Path | BinaryIO, content_type: str) -> Shape:
    from PIL import Image  # slow to import, and only needed here

    name = _IMAGES[content_type]
    try:
        with Image.open(file, formats=[name]) as image:
            _check_size(image.width, image.height)
            image.load()
            turned = image.getexif().get(_ORIENTATION) in _TURNED
            width, height = (image.height, image.width) if turned else image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise unsupported(f"The picture has more than {MAX_PIXELS} pixels") from None
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError):
        # Pillow's decoders raise these for whatever is wrong with a file.
        raise unsupported(f"The file begins like {name}, but is damaged or not complete") from None
    return Shape(content_type, width, height)


def _video(file: Path | BinaryIO) -> Shape:
    import av  # slow to import, and only needed for videos

    try:
        with av.open(str(file) if isinstance(file, Path) else file, mode="r", format="mp4") as container:
            if not container.streams.video:
                raise unsupported("The file is an MP4 file without a picture")
            stream = container.streams.video[0]
            stream.thread_count = 1
            _check_size(stream.width, stream.height)
            duration_ms = _duration_ms(stream.duration, stream.time_base, container.duration)
            frame = next(container.decode(stream), None)
            if frame is None:
                raise unsupported("The file is an MP4 file without a frame")
            turned = frame.rotation % 180 != 0
            width, height = (stream.height, stream.width) if turned else (stream.width, stream.height)
            container.seek(0)
            packets = sum(1 for packet in container.demux(stream) if packet.size and not packet.is_corrupt)
            if packets < stream.frames:
                raise unsupported("The file begins like MP4, but is damaged or not complete")
            return Shape("video/mp4", width, height, duration_ms)
    except (av.FFmpegError, OSError, ValueError, EOFError, MemoryError):
        raise unsupported("The file begins like MP4, but is damaged or not complete") from None


def _duration_ms(ticks: int | None, tick: Fraction | None, microseconds: int | None) -> int:
    """Return the length of a video: of its stream, or of the whole file where the stream does not say."""
    if ticks is not None and tick is not None:
        return round(ticks * tick * 1000)
    return round((microseconds or 0) / 1000)
