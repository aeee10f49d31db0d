"""What the sketch engine's videos promise: real motion, the same everywhere, cancelled within a step."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from atelier_worker.engine import PREVIEW_LIMIT_BYTES, Cancelled, EngineError, Reference, Task
from atelier_worker.engines import files
from atelier_worker.engines.sketch import SketchEngine, image
from atelier_worker.engines.sketch.falling import day_sky, daylight
from atelier_worker.engines.sketch.plates import falls, take_apart
from atelier_worker.engines.sketch.video import Film
from tests.atelier_worker.engines.listener import VIDEO, Listener

BOATS = replace(VIDEO, prompt="paper boats drifting down a gutter in spring rain, close to the water", seed=42)
SUNFLOWER = replace(VIDEO, prompt="time lapse of a sunflower turning through one day", seed=5)
STILL = replace(VIDEO, prompt="still life with a teapot and fruit", seed=3)


def made(task: Task, folder: Path) -> Listener:
    folder.mkdir(exist_ok=True)
    heard = Listener(folder)
    SketchEngine({"step_delay": "0"}).run(task, heard)
    return heard


def film(task: Task) -> list[NDArray[np.int16]]:
    return [np.asarray(frame, np.int16) for frame in Film(task, task.seed).frames()]


@pytest.mark.parametrize("task", (BOATS, SUNFLOWER, STILL), ids=("boats", "sunflower", "still life"))
def test_three_seconds_of_h264_in_which_no_frame_equals_the_one_before(task: Task, tmp_path: Path) -> None:
    heard = made(task, tmp_path / "work")
    with av.open(str(heard.delivered[0])) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height, str(stream.average_rate)) == (256, 144, "24")
        assert stream.duration is not None
        assert stream.time_base is not None
        assert stream.duration * stream.time_base >= 3
        decoded = [frame.to_ndarray() for frame in container.decode(stream)]
        settings = json.loads(container.metadata["atelier"])
    assert len(decoded) == 72
    assert not any(np.array_equal(a, b) for a, b in pairwise(decoded))
    assert (settings["engine"], settings["seed"]) == ("sketch", task.seed)
    assert set(heard.renditions[0]) == {"thumb_256", "thumb_1024", "poster", "clip"}


def test_a_slow_long_video_still_moves_in_every_frame(tmp_path: Path) -> None:
    heard = made(replace(STILL, frames=240, width=160, height=96), tmp_path / "work")
    with av.open(str(heard.delivered[0])) as container:
        decoded = [frame.to_ndarray() for frame in container.decode(video=0)]
    assert len(decoded) == 240
    assert not any(np.array_equal(a, b) for a, b in pairwise(decoded))


def test_every_step_shows_a_frame_and_the_last_step_is_the_end(tmp_path: Path) -> None:
    heard = made(replace(BOATS, frames=24, indexes=(1,), quantity=2), tmp_path / "work")
    assert heard.steps == [(1, step, 8) for step in range(9)]
    assert [index for index, _, _ in heard.previews] == [1] * 8
    for _, data, content_type in heard.previews:
        assert content_type == "image/webp"
        assert len(data) <= PREVIEW_LIMIT_BYTES
        assert max(Image.open(io.BytesIO(data)).size) == 256
    assert len({data for _, data, _ in heard.previews}) == 8
    assert list(heard.delivered) == [1]


def test_each_index_has_a_seed_of_its_own(tmp_path: Path) -> None:
    batch = made(replace(BOATS, frames=8, indexes=(0, 1), quantity=2), tmp_path / "batch")
    alone = made(replace(BOATS, frames=8, seed=BOATS.seed + 1), tmp_path / "alone")
    assert batch.delivered[0].read_bytes() != batch.delivered[1].read_bytes()
    assert batch.delivered[1].read_bytes() == alone.delivered[0].read_bytes()


def test_a_cancelled_video_ends_within_the_step(tmp_path: Path) -> None:
    asked_after_preview = 0

    def soon_after_the_first_preview(heard: Listener) -> bool:
        nonlocal asked_after_preview
        asked_after_preview += bool(heard.previews)
        return asked_after_preview >= 3

    heard = Listener(tmp_path, cancel_when=soon_after_the_first_preview)
    with pytest.raises(Cancelled):
        # Were the pause not cut short, this test would take a minute and make a second step.
        SketchEngine({"step_delay": "60"}).run(replace(BOATS, frames=24), heard)
    assert len(heard.previews) == 1
    assert heard.delivered == {}


_DIGEST = """
import hashlib
from atelier_worker.engines.sketch.video import Film
from tests.atelier_worker.engines.test_sketch_video import BOATS
print(hashlib.sha256(b"".join(f.tobytes() for f, _ in zip(Film(BOATS, 42).frames(), range(6)))).hexdigest())
"""


def test_processes_with_other_hash_seeds_film_the_same() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", _DIGEST],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[3])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    here = hashlib.sha256(
        b"".join(frame.tobytes() for frame, _ in zip(Film(BOATS, 42).frames(), range(6), strict=False))
    )
    assert digests == {here.hexdigest() + "\n"}


def test_the_sun_of_a_time_lapse_crosses_the_sky_and_the_light_changes() -> None:
    frames = film(replace(SUNFLOWER, frames=25))
    sides = [int(frame[:60].sum(axis=(0, 2)).argmax()) for frame in (frames[5], frames[19])]
    assert abs(sides[0] - sides[1]) > 40, "the brightest part of the sky moves across"
    noon, dusk = frames[12].mean(axis=(0, 1)), frames[24].mean(axis=(0, 1))
    assert noon.sum() > 1.3 * dusk.sum()
    assert dusk[0] / dusk.sum() > 1.1 * noon[0] / noon.sum(), "dusk is redder than noon"


def test_a_video_is_cancelled_while_its_scene_is_taken_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    filmed: list[object] = []
    monkeypatch.setattr(files.Mp4Writer, "add", lambda self, frame: filmed.append(frame))

    def at_the_third_question(listener: Listener) -> bool:
        asked.append(1)
        return len(asked) == 3

    # The first question comes with step 0; the second and the third with the first plates, before any frame.
    with pytest.raises(Cancelled):
        SketchEngine({"step_delay": "0"}).run(BOATS, Listener(tmp_path, cancel_when=at_the_third_question))
    assert not filmed


def test_a_scene_taken_apart_is_the_scene_put_together() -> None:
    order = replace(VIDEO, prompt="a kite over dunes", width=256, height=144)
    scene = image.scene_of(order, 7)
    plates = take_apart(scene, (256, 144))
    assert plates[0].motion == "drift"
    assert "sway" in {plate.motion for plate in plates}
    together = plates[0].image.copy()
    for plate in plates[1:]:
        together.paste(plate.image, (0, 0), plate.image)
    whole = image.canvas_for(scene, 256, 144)
    for layer in scene.layers():
        if layer.name != "weather":
            layer.draw(whole)
    difference = np.abs(np.asarray(together, np.int16) - np.asarray(whole.finished(), np.int16))
    assert difference.mean() < 1.0


def test_rain_falls_where_the_prompt_has_rain() -> None:
    assert falls(image.scene_of(BOATS, 1))
    assert not falls(image.scene_of(replace(VIDEO, prompt="a narrow street in Lisbon after rain"), 1))
    assert not falls(image.scene_of(STILL, 1))


def test_a_first_frame_starts_the_video_and_gives_way_to_it(tmp_path: Path) -> None:
    start = Image.new("RGB", (512, 288), (200, 30, 160))
    start.save(tmp_path / "start.png")
    reference = Reference(kind="first_frame", strength=1.0, path=tmp_path / "start.png", content_type="image/png")
    frames = film(replace(BOATS, frames=24, references=(reference,)))
    assert np.array_equal(frames[0], np.full_like(frames[0], (200, 30, 160)))
    without = film(replace(BOATS, frames=24))
    assert np.array_equal(frames[-1], without[-1])
    assert not np.array_equal(frames[4], without[4])


def test_an_unreadable_first_frame_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    reference = Reference(kind="first_frame", strength=1.0, path=tmp_path / "broken.png", content_type="image/png")
    with pytest.raises(EngineError, match="first_frame is not a picture"):
        Film(replace(BOATS, references=(reference,)), 1)


def test_a_video_without_frames_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="0 frames"):
        made(replace(BOATS, frames=0), tmp_path / "work")


def test_the_day_begins_cool_and_ends_red() -> None:
    dawn, noon, evening = daylight(0.0), daylight(0.4), daylight(0.84)
    assert dawn[2] > dawn[0]
    assert noon[0] == pytest.approx(noon[2], abs=0.1)
    assert evening[0] > 1.5 * evening[2]
    assert day_sky(((90, 150, 200),) * 3, 0.5) == ((90, 150, 200),) * 3
