"""What the files of engines promise: they say how they were made, and the same request gives the same bytes."""

from __future__ import annotations

import io
import json
import struct
from dataclasses import asdict, replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from asset_service import picture_walk
from atelier_worker.engine import EnhancedBy, Reference
from atelier_worker.engines import files
from service_kit import renditions
from tests.atelier_worker.engines.listener import IMAGE, VIDEO


def noise(width: int, height: int, seed: int = 1) -> Image.Image:
    """What compresses worst."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        assert picture.format == "WEBP"
        return picture.size


def ramp(width: int, height: int, shift: int) -> Image.Image:
    row = (np.arange(width) + 7 * shift) % 256
    return Image.fromarray(np.repeat(np.tile(row, (height, 1))[:, :, None], 3, axis=2).astype(np.uint8))


def test_a_png_says_how_it_was_made(tmp_path: Path) -> None:
    style = Reference(kind="style", strength=0.5, path=tmp_path / "secret-name.png", content_type="image/png")
    task = replace(IMAGE, prompt="雨 “Zoë” 🌧️", negative_prompt="blurry", references=(style,))
    files.save_png(noise(16, 16), tmp_path / "a.png", files.made_with(task, 8, "sketch"))
    with Image.open(tmp_path / "a.png") as picture:
        assert isinstance(picture, Image.Image)
        made = json.loads(picture.info["atelier"])
    assert made == {
        "engine": "sketch",
        "prompt": "雨 “Zoë” 🌧️",
        "negative_prompt": "blurry",
        "model": "sdxl",
        "seed": 8,
        "settings": {
            "width": 256,
            "height": 256,
            "steps": 8,
            "quality": "draft",
            "references": [{"kind": "style", "strength": 0.5}],
        },
    }
    assert b"secret-name" not in (tmp_path / "a.png").read_bytes()


def test_a_png_has_its_words_in_an_international_text_chunk(tmp_path: Path) -> None:
    files.save_png(noise(16, 16), tmp_path / "a.png", files.made_with(IMAGE, 7, "sketch"))
    data = (tmp_path / "a.png").read_bytes()
    assert b"iTXtatelier\0" in data
    assert b"tIME" not in data


def test_thumbnails_fit_and_are_never_enlarged(tmp_path: Path) -> None:
    made = files.image_renditions(noise(1344, 768), tmp_path)
    sizes = {kind: size_of(path) for kind, path in made.items()}
    assert sizes == {"thumb_256": (256, 146), "thumb_1024": (1024, 585)}
    small = files.image_renditions(noise(100, 60), tmp_path)
    assert size_of(small["thumb_256"]) == (100, 60)


def test_a_clip_loops_and_stays_within_its_limit_even_when_nothing_compresses(tmp_path: Path) -> None:
    frames = [files.clip_frame(noise(640, 480, seed)) for seed in range(24)]
    made = files.video_renditions(noise(640, 480), frames, 125, tmp_path)
    assert set(made) == {"thumb_256", "thumb_1024", "poster", "clip"}
    assert made["clip"].stat().st_size <= files.CLIP_LIMIT_BYTES
    with Image.open(made["clip"]) as clip:
        assert clip.format == "WEBP"
        assert clip.info["loop"] == 0
        assert getattr(clip, "n_frames", 1) >= 2
    assert size_of(made["poster"]) == (640, 480)


def test_a_clip_of_plain_frames_keeps_them_all(tmp_path: Path) -> None:
    frames = [files.clip_frame(ramp(640, 360, shift)) for shift in range(24)]
    clip = files.video_renditions(frames[0], frames, 125, tmp_path)["clip"]
    with Image.open(clip) as opened:
        assert getattr(opened, "n_frames", 1) == 24
        assert opened.size == (320, 180)


@pytest.fixture
def mp4(tmp_path: Path) -> Path:
    return written(tmp_path / "a.mp4")


def written(path: Path) -> Path:
    with files.Mp4Writer(path, (64, 48), 24, files.made_with(VIDEO, 42, "sketch"), encoder="sketch") as writer:
        for shift in range(12):
            writer.add(ramp(64, 48, shift))
    return path


def test_an_mp4_is_h264_with_its_index_in_front(mp4: Path) -> None:
    data = mp4.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")
    with av.open(str(mp4)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height, str(stream.average_rate)) == (64, 48, "24")
        assert stream.frames == 12
        assert sum(1 for _ in container.decode(stream)) == 12


def test_an_mp4_says_which_colours_it_has_and_has_them(tmp_path: Path) -> None:
    red = Image.new("RGB", (64, 48), (200, 30, 30))
    with files.Mp4Writer(tmp_path / "red.mp4", (64, 48), 24, "{}", encoder="sketch") as writer:
        writer.add(red)
    with av.open(str(tmp_path / "red.mp4")) as container:
        codec = container.streams.video[0].codec_context
        # BT.709 in every respect, in the range of television.
        assert (codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range) == (1, 1, 1, 1)
        frame = next(container.decode(video=0))
    luma = np.asarray(frame.planes[0]).reshape(-1, frame.planes[0].line_size)[20, 20]
    assert abs(int(luma) - (16 + 219 / 255 * (0.2126 * 200 + 0.7152 * 30 + 0.0722 * 30))) < 3
    assert np.abs(frame.to_ndarray(format="rgb24")[20, 20].astype(int) - (200, 30, 30)).max() < 5


def test_an_mp4_says_how_it_was_made_and_not_when(mp4: Path) -> None:
    with av.open(str(mp4)) as container:
        made = json.loads(container.metadata["atelier"])
        assert "creation_time" not in container.metadata
    assert (made["engine"], made["seed"], made["prompt"]) == ("sketch", 42, VIDEO.prompt)
    assert made["settings"] | {"frames": 72, "fps": 24, "width": 256, "height": 144} == made["settings"]


def test_the_same_frames_give_the_same_bytes(mp4: Path, tmp_path: Path) -> None:
    assert written(tmp_path / "b.mp4").read_bytes() == mp4.read_bytes()


def test_a_broken_off_mp4_lets_the_error_through(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stop"):
        with files.Mp4Writer(tmp_path / "a.mp4", (64, 48), 24, "{}", encoder="sketch") as writer:
            writer.add(ramp(64, 48, 0))
            raise RuntimeError("stop")


def test_a_file_made_from_an_enriched_prompt_carries_both() -> None:
    task = replace(IMAGE, prompt="a cat, soft light", options={"original_prompt": "a cat"})
    made = json.loads(files.made_with(task, 8, "sketch"))
    assert (made["prompt"], made["original_prompt"]) == ("a cat, soft light", "a cat")
    assert "enhanced_by" not in made, "a router of the release before does not say it"
    by = EnhancedBy("transformers", "chat", "enhance/sdxl", "v1")
    made = json.loads(files.made_with(replace(task, enhanced_by=by), 8, "sketch"))
    assert made["enhanced_by"] == asdict(by)
    made = json.loads(files.made_with(replace(task, enhanced_by=EnhancedBy("sketch")), 8, "sketch"))
    assert made["enhanced_by"] == {"engine": "sketch"}


def test_a_file_says_its_shape_as_it_was_asked_for() -> None:
    assert "aspect_ratio" not in json.loads(files.made_with(IMAGE, 8, "sketch"))["settings"]
    asked = replace(IMAGE, options={"aspect_ratio": "3:2"})
    assert json.loads(files.made_with(asked, 8, "sketch"))["settings"]["aspect_ratio"] == "3:2"


def test_metadata_is_one_line_of_sorted_json() -> None:
    text = files.made_with(IMAGE, 7, "sketch")
    assert json.dumps(json.loads(text), ensure_ascii=False, sort_keys=True) == text
    assert io.StringIO(text).readlines() == [text]


def reference(path: Path, kind: str = "init") -> Reference:
    return Reference(kind, 1.0, path, "image/png")


def colour_of(picture: Image.Image, path: Path, kind: str = "init", **options: object) -> tuple[int, ...]:
    """What a reference of one colour is read as."""
    picture.save(path, **options)  # type: ignore[arg-type]
    read = files.read_picture(reference(path, kind), 8, 8)
    assert read.mode == "RGB"
    return tuple(int(value) for value in np.asarray(read)[4, 4])


def test_a_reference_may_be_in_any_kind_of_colours(tmp_path: Path) -> None:
    grey = Image.fromarray(np.full((9, 9), 20_000, np.uint16))
    assert colour_of(grey, tmp_path / "16 bits.png") == (78, 78, 78)
    assert colour_of(grey, tmp_path / "mask of 16 bits.png", "mask") == (78, 78, 78)
    assert colour_of(Image.new("CMYK", (9, 9), (0, 255, 255, 0)), tmp_path / "cmyk.jpg") == (255, 0, 0)
    assert colour_of(Image.new("1", (9, 9), 1), tmp_path / "bits.png") == (255, 255, 255)
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "lime")]
    assert colour_of(frames[0], tmp_path / "moving.png", save_all=True, append_images=frames[1:]) == (255, 0, 0)


def test_a_picture_with_odd_notes_of_its_camera_is_read_upright(tmp_path: Path) -> None:
    picture = Image.new("RGB", (16, 8), "blue")
    picture.paste("red", (0, 0, 8, 8))
    # A width that is a text, and the orientation: two entries of twelve bytes.
    width, turned = struct.pack("<HHI4s", 0x0100, 2, 2, b"x"), struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    notes = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + width + turned + bytes(4)
    picture.save(tmp_path / "a.jpg", exif=notes, quality=95)
    read = files.read_upright(reference(tmp_path / "a.jpg"))
    assert read.size == (8, 16)
    assert np.asarray(read)[2, 4, 0] > 200, "its left is its top"
    (made,) = (data for kind, data in renditions.make(tmp_path / "a.jpg", ["thumb_256"], video=False))
    with Image.open(io.BytesIO(made)) as small:
        assert small.size == (8, 16)


def test_what_is_transparent_is_paper_and_in_a_mask_not_painted(tmp_path: Path) -> None:
    nothing = Image.new("RGBA", (9, 9), (200, 30, 30, 0))
    assert colour_of(nothing, tmp_path / "a.png") == (255, 255, 255)
    assert colour_of(nothing, tmp_path / "a.png", "mask") == (0, 0, 0)
    half = Image.new("LA", (9, 9), (0, 128))
    assert colour_of(half, tmp_path / "b.png") == (127, 127, 127)
    palette = Image.new("P", (9, 9), 0)
    palette.putpalette([200, 30, 30])
    assert colour_of(palette, tmp_path / "c.png", transparency=0) == (255, 255, 255)


def test_a_picture_and_its_thumbnails_are_written_at_once_and_are_what_they_are_apart(tmp_path: Path) -> None:
    picture, apart = noise(1200, 800), tmp_path / "apart"
    apart.mkdir()
    made = files.made_with(IMAGE, 7, "test")
    files.save_png(picture, apart / "image.png", made)
    thumbnails = files.image_renditions(picture, apart)

    path, renditions = files.save_picture(picture, tmp_path, made)

    assert path.read_bytes() == (apart / "image.png").read_bytes()
    assert {kind: file.read_bytes() for kind, file in renditions.items()} == {
        kind: file.read_bytes() for kind, file in thumbnails.items()
    }
    (tmp_path / "full" / "image.png").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        files.save_picture(picture, tmp_path / "full", made)


@pytest.mark.parametrize(
    "prompt", ["a <script>alert(1)</script>", "<!DOCTYPE html>", "<?php", "a poster of %PDF-1.7", "<html>"]
)
def test_no_prompt_makes_a_file_look_like_something_else(tmp_path: Path, prompt: str) -> None:
    made = files.made_with(replace(IMAGE, prompt=prompt), 8, "sketch")
    assert json.loads(made)["prompt"] == prompt
    files.save_png(noise(16, 16), tmp_path / "a.png", made)
    content = (tmp_path / "a.png").read_bytes()
    assert prompt.encode() not in content
    assert picture_walk.walk(memoryview(content), "image/png").width == 16
