"""What bytes are, and the process that finds out."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from asset_service.media import MAX_SIDE, measure, sniff
from asset_service.probing import Probe
from asset_service.shape_domain import Shape
from service_kit.errors import ErrorReason, InvalidArgument, Unavailable
from tests.asset_service.pictures import encoded, mp4, png
from tests.support.hostile_files import gif_of, png_of, webp_of


@pytest.mark.parametrize(
    ("name", "content_type"),
    [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp"), ("GIF", "image/gif")],
)
def test_pictures_are_told_by_their_bytes(tmp_path: Path, name: str, content_type: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(encoded(name, 31, 17))
    assert measure(path) == Shape(content_type, 31, 17)


def test_a_picture_is_as_wide_as_it_is_shown(tmp_path: Path) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "phone.jpg"
    path.write_bytes(encoded("JPEG", 40, 20, exif=exif))
    assert (measure(path).width, measure(path).height) == (20, 40)


def test_a_video_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "video"
    path.write_bytes(mp4(tmp_path, 80, 60, frames=20, rate=10))
    assert measure(path) == Shape("video/mp4", 80, 60, 2000)


@pytest.mark.parametrize("codec", ["h264", "mpeg4", "libvpx-vp9"])
@pytest.mark.parametrize("index", ["first", "last", "parts"])
def test_a_video_is_measured_wherever_its_index_is(tmp_path: Path, codec: str, index: str) -> None:
    path = tmp_path / "video"
    path.write_bytes(mp4(tmp_path, 80, 60, frames=20, rate=10, index=index, codec=codec))
    assert measure(path) == Shape("video/mp4", 80, 60, 2000)


@pytest.mark.parametrize(
    ("head", "word"),
    [
        (b"\x00\x00\x00\x18ftypavif", "AVIF"),
        (b"\x00\x00\x00\x18ftypheic", "HEIC"),
        (b"\x00\x00\x00\x14ftypqt  ", "QuickTime"),
        (b"\x1aE\xdf\xa3....", "WebM"),
        (b"II*\x00....", "TIFF"),
        (b"BM" + bytes(30), "BMP"),
        (b"  <SVG width='1'>", "SVG"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"\x7fELF", "program"),
        (b"", "empty"),
        (b"GIF88a", "not a picture"),
        (b"RIFF\x00\x00\x00\x00WAVE", "not a picture"),
    ],
)
def test_what_is_not_taken_is_named(head: bytes, word: str) -> None:
    with pytest.raises(InvalidArgument, match=word) as caught:
        sniff(head)
    assert caught.value.reason is ErrorReason.UNSUPPORTED_MEDIA


def test_a_file_that_is_two_things_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "both"
    path.write_bytes(png(8, 8) + b"PK\x03\x04<svg>")
    with pytest.raises(InvalidArgument, match="ZIP") as caught:
        measure(path)
    assert caught.value.reason is ErrorReason.MEDIA_DISGUISED


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(png(8, 8) + bytes(100), id="zeros-behind-a-png"),
        pytest.param(encoded("JPEG", 40, 30, progressive=True), id="progressive"),
        pytest.param(encoded("JPEG") + b"\x00\x00\x00\x18ftypmp42" + bytes(500), id="motion-photo"),
        pytest.param(encoded("JPEG", comment=b"for the \xff\xd9 of it"), id="marker-in-comment"),
        pytest.param(encoded("WEBP", 33, 21, lossless=True), id="lossless"),
        pytest.param(encoded("GIF", 300, 200), id="large-gif"),
    ],
)
def test_what_cameras_and_editors_write_is_taken(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    assert measure(path).width > 0


def test_animations_are_taken_as_long_as_they_are_not_too_long(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data in (webp_of(20), gif_of(20, 1, 1)):
        path.write_bytes(data)
        assert measure(path).width in (8, 1)


def test_a_long_prompt_within_a_png_is_taken(tmp_path: Path) -> None:
    from PIL import Image, PngImagePlugin

    text = PngImagePlugin.PngInfo()
    text.add_itxt("parameters", "提灯 " * 100_000, zip=True)
    path = tmp_path / "file.png"
    Image.new("RGB", (8, 8)).save(path, pnginfo=text)
    assert measure(path) == Shape("image/png", 8, 8)


async def test_the_child_measures_one_after_the_other_and_ends(tmp_path: Path) -> None:
    probe = Probe()
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_bytes(png(8, 8))
    bad.write_bytes(png_of(MAX_SIDE + 1, 10))
    try:
        shapes = await asyncio.gather(*(probe.measure(good) for _ in range(3)))
        assert shapes == [Shape("image/png", 8, 8)] * 3
        with pytest.raises(InvalidArgument, match=str(MAX_SIDE)):
            await probe.measure(bad)
        assert await probe.measure(good) == Shape("image/png", 8, 8)
    finally:
        await probe.close()


def child(folder: Path, name: str, body: str) -> str:
    """Write a module that stands in for the child. Returns its name."""
    (folder / f"{name}.py").write_text(body, "utf-8")
    return name


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


async def test_a_file_that_kills_its_decoder_is_refused(modules: Path) -> None:
    name = child(modules, "dies", "import os\nprint('ready', flush=True)\ninput()\nos.abort()\n")
    probe = Probe(child=name)
    with pytest.raises(InvalidArgument, match="could not be decoded"):
        await probe.measure(modules / "any")
    await probe.close()


async def test_a_file_that_takes_for_ever_is_refused(modules: Path) -> None:
    name = child(modules, "hangs", "import time\nprint('ready', flush=True)\ntime.sleep(1000)\n")
    probe = Probe(child=name, limit=timedelta(milliseconds=500))
    with pytest.raises(InvalidArgument, match=r"within 0\.5 s"):
        await probe.measure(modules / "any")
    await probe.close()


async def test_a_child_that_cannot_start_is_not_the_files_fault(modules: Path) -> None:
    probe = Probe(child=child(modules, "fails", "raise SystemExit(1)\n"))
    with pytest.raises(Unavailable):
        await probe.measure(modules / "any")
    await probe.close()


async def test_the_child_knows_none_of_our_secrets(modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATELIER_CLIENT_KEY", "atl_0_secret")
    body = "import os\nprint('ready', flush=True)\ninput()\n"
    body += "mine = sorted(name for name in os.environ if name[:8] == 'ATELIER_')\n"
    body += 'print(\'{"refused": "%s", "reason": "media_damaged"}\' % mine, flush=True)\n'
    probe = Probe(child=child(modules, "tells", body))
    with pytest.raises(InvalidArgument, match=r"^\[\]$"):
        await probe.measure(modules / "any")
    await probe.close()


@pytest.mark.parametrize("when", ["idle", "gone"])
async def test_the_pipe_of_a_child_is_read_to_its_end(modules: Path, when: str) -> None:
    """Only its end closes it: a child that had died by itself would leave it open."""
    body = "import os\nprint('ready', flush=True)\nprint('more than anybody asked for', flush=True)\n"
    probe = Probe(child=child(modules, "chatters", body + ("input()\n" if when == "idle" else "os._exit(0)\n")))
    started = await probe._start()
    if when == "gone":
        await started.wait()
    probe._child = started
    await probe.close()
    assert started.stdout is not None
    assert started.stdout.at_eof()
    assert started.returncode is not None
