"""Files that strangers might send, made by code: what each is, and the reason with which it has to be refused."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from service_kit.errors import ErrorReason
from tests.asset_service.pictures import encoded, mp4, png

DAMAGED = ErrorReason.MEDIA_DAMAGED
LARGE = ErrorReason.MEDIA_TOO_LARGE
DISGUISED = ErrorReason.MEDIA_DISGUISED
UNSUPPORTED = ErrorReason.UNSUPPORTED_MEDIA
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class HostileFile:
    """A file, the type that its sender announces, the reason for its refusal, and a word of the sentence."""

    name: str
    data: bytes
    reason: ErrorReason
    word: str
    content_type: str = ""


def hostile_files(folder: Path) -> Iterator[HostileFile]:
    """Give all of them, each once; videos are made in a folder."""
    yield from _mislabelled()
    yield from _pngs()
    yield from _jpegs()
    yield from _animations()
    yield from _videos(folder)


def _mislabelled() -> Iterator[HostileFile]:
    svg = b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
    yield HostileFile("empty.png", b"", UNSUPPORTED, "empty")
    yield HostileFile("zeros.png", bytes(5000), UNSUPPORTED, "empty")
    yield HostileFile("svg-named.png", svg, UNSUPPORTED, "SVG", "image/png")
    yield HostileFile("page.png", b"<!DOCTYPE html><html><script>alert(1)</script>", UNSUPPORTED, "HTML", "image/png")
    yield HostileFile("archive.jpg", zip_of(b"x" * 100), UNSUPPORTED, "ZIP", "image/jpeg")
    yield HostileFile("document.png", b"%PDF-1.7\n" + bytes(60), UNSUPPORTED, "PDF")
    yield HostileFile("program.mp4", b"MZ" + bytes(100), UNSUPPORTED, "program", "video/mp4")
    yield HostileFile("png-named.jpg", png(), DISGUISED, "image/jpeg", "image/jpeg")
    yield HostileFile("gif-named.mp4", encoded("GIF"), DISGUISED, "video/mp4", "video/mp4")


def _pngs() -> Iterator[HostileFile]:
    good = png(64, 64)
    yield HostileFile("65535-squared.png", png_of(65_535, 65_535), LARGE, "65535 by 65535")
    yield HostileFile("too-many-pixels.png", png_of(9_000, 9_000), LARGE, "9000 by 9000")
    yield HostileFile("no-width.png", png_of(0, 10), DAMAGED, "0 by 10")
    yield HostileFile("zip-behind.png", good + zip_of(b"hidden"), DISGUISED, "ZIP")
    yield HostileFile("page-behind.png", good + b"<html><script>alert(1)</script></html>", DISGUISED, "HTML")
    yield HostileFile("bytes-behind.png", good + b"\x01" * 3000, DISGUISED, "something else")
    in_text = with_chunk(good, b"tEXt", b"a\x00" + b"<script>alert(1)</script>")
    yield HostileFile("script-in-head.png", in_text, DISGUISED, "script")
    yield HostileFile("zip-for-an-end.png", good[:-12] + zip_of(b"stored"), DISGUISED, "ZIP")
    yield HostileFile("truncated.png", png(200, 200)[:-4000], DAMAGED, "complete")
    yield HostileFile("wrong-checksum.png", good[:60] + bytes([good[60] ^ 1]) + good[61:], DAMAGED, "checksum")
    yield HostileFile("no-pixels.png", good[:33] + chunk(b"IEND", b""), DAMAGED, "no pixels")
    yield HostileFile("huge-text.png", with_chunk(good, b"tEXt", b"k\x00" + b"x" * (5 << 20)), LARGE, "text")
    bomb = b"k\x00\x00" + zlib.compress(bytes(200 << 20), 9)
    yield HostileFile("text-bomb.png", with_chunk(good, b"zTXt", bomb), LARGE, "zTXt")
    many = b"".join(chunk(b"tEXt", b"k\x00v") for _ in range(200_001))
    yield HostileFile("many-pieces.png", good[:33] + many + good[33:], LARGE, "pieces")
    yield HostileFile("short-pixels.png", _PNG + header(64, 64) + idat(bytes(10)), DAMAGED, "damaged")
    animated = with_chunk(good, b"acTL", struct.pack(">II", 4_000_000_000, 0))
    yield HostileFile("false-frames.png", animated, DAMAGED, "frames")


def _jpegs() -> Iterator[HostileFile]:
    good = encoded("JPEG", 64, 64)
    yield HostileFile("truncated.jpg", encoded("JPEG", 200, 200)[:-4000], DAMAGED, "complete")
    yield HostileFile("wrong-length.jpg", good[:4] + b"\x7f\xff" + good[6:], DAMAGED, "length")
    yield HostileFile("no-length.jpg", good[:4] + b"\x00\x00" + good[6:], DAMAGED, "length")
    place = good.index(b"\xff\xc0") + 5
    yield HostileFile("no-height.jpg", good[:place] + b"\x00\x00" + good[place + 2 :], DAMAGED, "64 by 0")
    yield HostileFile("huge.jpg", good[:place] + b"\xff\xff\xff\xff" + good[place + 4 :], LARGE, "65535 by 65535")
    yield HostileFile("zip-behind.jpg", good + zip_of(b"hidden"), DISGUISED, "ZIP")
    yield HostileFile("script-behind.jpg", good + b"<?php system($_GET['c']); ?>", DISGUISED, "script")
    comment = b"%PDF-1.4 1 0 obj"
    document = good[:2] + b"\xff\xfe" + struct.pack(">H", 2 + len(comment)) + comment + good[2:]
    yield HostileFile("document-within.jpg", document, DISGUISED, "PDF")


def _animations() -> Iterator[HostileFile]:
    yield HostileFile("10000-frames.webp", webp_of(10_000), LARGE, "frames")
    yield HostileFile("truncated.webp", encoded("WEBP", 200, 200)[:-4000], DAMAGED, "complete")
    good = encoded("WEBP", 32, 32)
    yield HostileFile("zip-behind.webp", good + zip_of(b"hidden"), DISGUISED, "ZIP")
    yield HostileFile("false-length.webp", good[:4] + struct.pack("<I", 20) + good[8:], DISGUISED, "Behind")
    yield HostileFile("bomb.gif", gif_of(5_000, 10, 10), LARGE, "frames")
    yield HostileFile("huge-bomb.gif", gif_of(1_000, 8_000, 8_000), LARGE, "frames of 8000 by 8000")
    yield HostileFile("no-end.gif", gif_of(3, 10, 10)[:-1], DAMAGED, "complete")
    yield HostileFile("frame-outside.gif", gif_of(1, 10, 10, left=5_000), DAMAGED, "frame")


def _videos(folder: Path) -> Iterator[HostileFile]:
    good = mp4(folder, 64, 48, frames=12, rate=8)
    yield HostileFile("an-hour.mp4", with_duration(good, 3600), DAMAGED, "3600.0 s")
    yield HostileFile("no-time.mp4", with_duration(mp4(folder, frames=60, rate=8), 1), DAMAGED, "1.0 s")
    yield HostileFile("truncated.mp4", good[: len(good) // 2], DAMAGED, "complete")
    yield HostileFile("no-index.mp4", good[: good.index(b"moov") - 4], DAMAGED, "index")
    yield HostileFile("zip-behind.mp4", good + zip_of(b"hidden"), DISGUISED, "ZIP")
    yield HostileFile("huge-index.mp4", box(b"ftyp", b"isom\x00\x00\x02\x00") + sparse_index(), LARGE, "index")
    nested = b""
    for _ in range(200):
        nested = box(b"moov", nested)
    yield HostileFile("boxes-in-boxes.mp4", box(b"ftyp", b"isom\x00\x00\x02\x00") + nested, DAMAGED, "deep")
    place = good.index(b"stsz") + 12
    table = good[:place] + struct.pack(">I", 900_000) + good[place + 4 :]
    yield HostileFile("false-table.mp4", table, DAMAGED, "room")
    samples = good[:place] + struct.pack(">I", 4_000_000_000) + good[place + 4 :]
    yield HostileFile("four-billion-frames.mp4", samples, LARGE, "4000000000 frames")
    many = box(b"moov", box(b"free", b"") * 30_000)
    yield HostileFile("many-boxes.mp4", box(b"ftyp", b"isom\x00\x00\x02\x00") + many, LARGE, "boxes")


def chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def header(width: int, height: int) -> bytes:
    """Return the header of a PNG of true colour."""
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def idat(pixels: bytes) -> bytes:
    """Return the pixels and the end of a PNG."""
    return chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def png_of(width: int, height: int) -> bytes:
    """Return a PNG that says it is that large."""
    return _PNG + header(width, height) + idat(bytes(1000))


def with_chunk(picture: bytes, kind: bytes, body: bytes) -> bytes:
    """Return a PNG with one more chunk behind its header."""
    return picture[:33] + chunk(kind, body) + picture[33:]


def zip_of(data: bytes) -> bytes:
    """Return a ZIP archive with one file."""
    import zipfile

    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("a.txt", data)
    return target.getvalue()


def webp_of(frames: int) -> bytes:
    """Return an animated WebP whose frames are all the same small one."""
    still = encoded("WEBP", 8, 8, lossless=True)[12:]
    frame = bytes(6) + struct.pack("<I", 7)[:3] + struct.pack("<I", 7)[:3] + b"\x0a\x00\x00\x00" + still
    anmf = b"ANMF" + struct.pack("<I", len(frame)) + frame + b"\x00" * (len(frame) % 2)
    extended = b"VP8X" + struct.pack("<I", 10) + b"\x02\x00\x00\x00" + b"\x07\x00\x00" * 2
    body = b"WEBP" + extended + b"ANIM" + struct.pack("<I", 6) + bytes(6) + anmf * frames
    return b"RIFF" + struct.pack("<I", len(body)) + body


def gif_of(frames: int, width: int, height: int, left: int = 0) -> bytes:
    """Return a GIF of that many frames, each of one pixel's worth of data."""
    frame = b"\x2c" + struct.pack("<HHHHB", left, 0, width, height, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + frame * frames + b"\x3b"


def box(kind: bytes, body: bytes) -> bytes:
    """Return a box of an MP4 file."""
    return struct.pack(">I", 8 + len(body)) + kind + body


def sparse_index() -> bytes:
    """Return an index of 40 MiB, which is one box of nothing."""
    return box(b"moov", box(b"free", bytes(40 << 20)))


def with_duration(video: bytes, seconds: int) -> bytes:
    """Return an MP4 whose header says that it lasts so long."""
    place = video.index(b"mvhd") + 16
    (scale,) = struct.unpack_from(">I", video, place)
    return video[: place + 4] + struct.pack(">I", seconds * scale) + video[place + 8 :].replace(b"elst", b"free")


def main() -> None:
    """Write all of them into a folder: `python -m tests.support.hostile_files FOLDER`."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for file in hostile_files(folder):
        (folder / file.name).write_bytes(file.data)
        sys.stdout.write(f"{file.name}: {file.reason.value}\n")


if __name__ == "__main__":
    main()
