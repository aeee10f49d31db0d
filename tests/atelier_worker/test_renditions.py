"""Renditions that are made when an engine gives none."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
from PIL import Image

from atelier_worker.renditions import complete


def sizes(renditions: dict[str, Path]) -> dict[str, tuple[int, int]]:
    found = {}
    for kind, path in renditions.items():
        with Image.open(path) as picture:
            assert picture.format == "WEBP"
            found[kind] = picture.size
    return found


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L"])
def test_a_picture_gets_thumbnails_that_are_never_larger(tmp_path: Path, mode: str) -> None:
    output = tmp_path / "out.png"
    Image.new(mode, (640, 320)).save(output)
    assert sizes(complete(output, {}, tmp_path)) == {"thumb_256": (256, 128), "thumb_1024": (640, 320)}


def test_what_is_given_is_kept(tmp_path: Path) -> None:
    output, mine = tmp_path / "out.png", tmp_path / "mine.webp"
    Image.new("RGB", (640, 320)).save(output)
    made = complete(output, {"thumb_256": mine, "clip": mine}, tmp_path)
    assert (made["thumb_256"], made["clip"]) == (mine, mine)
    assert set(made) == {"thumb_256", "thumb_1024", "clip"}


def test_a_video_gets_a_poster_too(tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    with av.open(str(output), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 320, 192, "yuv420p"
        for _ in range(3):
            frame = av.VideoFrame.from_image(Image.new("RGB", (320, 192), "red"))  # type: ignore[no-untyped-call]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    made = complete(output, {}, tmp_path)
    assert sizes(made) == {"thumb_256": (256, 154), "thumb_1024": (320, 192), "poster": (320, 192), "clip": (320, 192)}
    with Image.open(made["poster"]) as poster:
        red, green, blue = poster.convert("RGB").getpixel((160, 96))  # type: ignore[misc]
    assert red > 200 > 60 > max(green, blue)


def test_what_cannot_be_opened_gets_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.png"
    output.write_bytes(b"no picture")
    assert complete(output, {}, tmp_path) == {}
    assert "UnidentifiedImageError" in capsys.readouterr().err
