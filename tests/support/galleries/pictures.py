"""Small pictures, each with other bytes, that say in the ways of tools how they were made."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

LARGEST = 2**64 - 1


@dataclass(frozen=True)
class Fixture:
    """One file: how it is made, and what must be found in it."""

    name: str
    write: Callable[[Path, int], None]
    expected: Mapping[str, Any]


def png(path: Path, shade: int, **texts: str) -> None:
    """Write a picture with texts, as PNG keeps them."""
    info = PngInfo()
    for name, text in texts.items():
        # Tools name chunks with characters that Python's names cannot have.
        key = name.replace("__", "-")
        if all(ord(mark) < 256 for mark in text):
            info.add_text(key, text)
        else:
            info.add_itxt(key, text)
    picture(shade).save(path, "PNG", pnginfo=info)


def with_comment(kind: str) -> Callable[[Path, int, str], None]:
    """Return what writes a JPEG or a WebP with a user comment in its EXIF."""

    def write(path: Path, shade: int, text: str) -> None:
        picture(shade).save(path, kind, exif=b"Exif\0\0" + exif_of(text))

    return write


def exif_of(comment: str) -> bytes:
    """Return a TIFF block (EXIF 2.32, sections 4.6.3 and 4.6.5) with a user comment in UTF-16, big end first."""
    body = b"UNICODE\0" + comment.encode("utf-16-be")
    first = struct.pack(">HHHIII", 1, 0x8769, 4, 1, 26, 0)
    second = struct.pack(">HHHIII", 1, 0x9286, 7, len(body), 44, 0)
    return b"MM\0*" + struct.pack(">I", 8) + first + second + body


def picture(shade: int) -> Image.Image:
    return Image.new("RGB", (16, 8), (shade % 256, shade // 256 % 256, 90))


def written(**texts: str) -> Callable[[Path, int], None]:
    return lambda path, shade: png(path, shade, **texts)


def commented(kind: str, text: str) -> Callable[[Path, int], None]:
    return lambda path, shade: with_comment(kind)(path, shade, text)


def picture_bytes(shade: int) -> bytes:
    """Return a PNG whose bytes depend on the shade."""
    file = io.BytesIO()
    picture(shade).save(file, "PNG")
    return file.getvalue()
