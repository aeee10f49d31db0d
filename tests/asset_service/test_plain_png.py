"""A plain PNG is known to be whole without being decoded; whatever else it is, decoding judges it."""

from __future__ import annotations

import io
import struct
import zlib
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from asset_service import media, plain_png
from asset_service.media import measure
from asset_service.plain_png import is_plain_and_whole
from asset_service.shape_domain import Shape
from service_kit.errors import ErrorReason, InvalidArgument
from tests.support.hostile_files import chunk

WIDTH, HEIGHT = 31, 17
ROW_BYTES = 1 + 3 * WIDTH
ROWS = (b"\x02" + b"\x07" * (ROW_BYTES - 1)) * HEIGHT


def saved(mode: str, **options: Any) -> bytes:
    """Return a PNG as Pillow writes it."""
    target = io.BytesIO()
    Image.linear_gradient("L").resize((WIDTH, HEIGHT)).convert(mode).save(target, "PNG", **options)
    return target.getvalue()


def text(key: str) -> PngInfo:
    info = PngInfo()
    info.add_text(key, "something")
    return info


def written(packed: bytes, *, interlaced: int = 0) -> bytes:
    """Return a PNG of red, green and blue with some packed rows, in two pieces."""
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, interlaced)
    half = len(packed) // 2
    pieces = chunk(b"IHDR", header) + chunk(b"IDAT", packed[:half]) + chunk(b"IDAT", packed[half:])
    return b"\x89PNG\r\n\x1a\n" + pieces + chunk(b"IEND", b"")


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_what_programs_write_is_measured_without_decoding(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "_image", None)
    assert measure(saved(mode, pnginfo=text("prompt"))) == Shape("image/png", WIDTH, HEIGHT)


class Unpacker:
    """Unpacks as zlib does, and notes how much it gets and gives each time."""

    def __init__(self, sizes: list[tuple[int, int]]) -> None:
        self._sizes = sizes
        self._unpacker = zlib.decompressobj()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._unpacker, name)

    def decompress(self, packed: bytes, most: int) -> bytes:
        unpacked = self._unpacker.decompress(packed, most)
        self._sizes.append((len(packed), len(unpacked)))
        return unpacked


def test_large_pictures_are_unpacked_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []
    unpacker = partial(Unpacker, sizes)
    monkeypatch.setattr(plain_png, "zlib", SimpleNamespace(decompressobj=unpacker, error=zlib.error))
    monkeypatch.setattr(plain_png, "_PIECE_BYTES", 50)
    monkeypatch.setattr(plain_png, "_PACKED_BYTES", 7)
    assert is_plain_and_whole(memoryview(written(zlib.compress(ROWS))))
    assert sum(unpacked for _, unpacked in sizes) == len(ROWS)
    assert not is_plain_and_whole(memoryview(written(zlib.compress(ROWS[:-1]))))
    assert (max(packed for packed, _ in sizes), max(unpacked for _, unpacked in sizes)) == (7, 50)
    sizes.clear()
    # Of a small picture that unpacks to something large no more is unpacked than tells it.
    assert not is_plain_and_whole(memoryview(written(zlib.compress(ROWS * 1000))))
    assert sum(unpacked for _, unpacked in sizes) == len(ROWS) + 1


@pytest.mark.parametrize(
    "data",
    [
        saved("P"),
        saved("1"),
        saved("RGB", pnginfo=text("Raw profile type exif")),
        saved("RGB", pnginfo=text("XML:com.adobe.xmp")),
        saved("RGB", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x00"),
        written(zlib.compress(ROWS), interlaced=1),
    ],
    ids=["palette", "bits", "exif as text", "xmp", "exif", "interlaced"],
)
def test_what_is_not_plain_is_decoded(data: bytes) -> None:
    assert not is_plain_and_whole(memoryview(data))


def test_a_picture_that_is_to_be_turned_is_measured_as_it_is_shown() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert measure(saved("RGB", exif=exif)) == Shape("image/png", HEIGHT, WIDTH)


@pytest.mark.parametrize(
    "packed",
    [
        zlib.compress(ROWS[:-1]),
        zlib.compress(ROWS)[:-20],
        b"\x05" + zlib.compress(ROWS)[1:],
        zlib.compress(ROWS[: 4 * ROW_BYTES] + b"\x05" + ROWS[4 * ROW_BYTES + 1 :]),
    ],
    ids=["a byte less", "cut", "not packed", "a filter that is none"],
)
def test_pixels_that_are_not_whole_are_refused(packed: bytes) -> None:
    assert not is_plain_and_whole(memoryview(written(packed)))
    with pytest.raises(InvalidArgument) as refused:
        measure(written(packed))
    assert refused.value.reason is ErrorReason.MEDIA_DAMAGED


@pytest.mark.parametrize("place", ["between", "before"])
def test_what_a_decoder_does_not_read_is_refused(place: str) -> None:
    whole = written(zlib.compress(ROWS))
    pixels, _, more = whole.split(b"IDAT")
    if place == "between":
        # What parts the pixels ends them.
        at, piece = len(whole) - len(more) - 8, chunk(b"tEXt", b"key\x00value")
    else:
        at, piece = len(pixels) - 4, chunk(b"zTXt", b"key\x00\x01" + zlib.compress(b"packed in a way that is none"))
    data = whole[:at] + piece + whole[at:]
    assert not is_plain_and_whole(memoryview(data))
    with pytest.raises(InvalidArgument) as refused:
        measure(data)
    assert refused.value.reason is ErrorReason.MEDIA_DAMAGED


def test_a_picture_with_more_or_fewer_rows_than_it_says_is_not_known_to_be_whole() -> None:
    assert is_plain_and_whole(memoryview(written(zlib.compress(ROWS))))
    for rows in (ROWS[: 3 * ROW_BYTES], ROWS + b"\x00"):
        assert not is_plain_and_whole(memoryview(written(zlib.compress(rows))))
    assert not is_plain_and_whole(memoryview(written(zlib.compress(ROWS) + b"more")))
    assert not is_plain_and_whole(memoryview(written(zlib.compress(ROWS)[:-4]))), "its checksum is missing"
