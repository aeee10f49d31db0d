"""What is filmed for a task: the model's next size, and exactly the task's cut out of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from atelier_worker.engine import EngineError, Reference
from atelier_worker.engines.diffusers_engine.footage import Footage, check
from tests.atelier_worker.engines.listener import VIDEO

LAST = Reference("last_frame", 0.5, Path("last.png"), "image/png")


@pytest.mark.parametrize("frames", range(1, 40))
@pytest.mark.parametrize("ends", (False, True))
def test_the_frames_are_as_many_as_asked_of_the_next_that_a_model_makes(frames: int, ends: bool) -> None:
    task = replace(VIDEO, frames=frames, references=(LAST,) if ends else ())
    footage = Footage.of(task, multiple=16, stride=4)
    assert footage.frames % 4 == 1
    assert 0 <= footage.frames - frames < 4 or (ends and footage.frames == 5)
    assert len(footage.kept) == len(set(footage.kept)) == frames
    assert footage.kept[0] == 0
    if ends and frames > 1:
        assert footage.kept[-1] == footage.frames - 1
    else:
        assert footage.kept == tuple(range(frames))


@pytest.mark.parametrize(("width", "height", "multiple"), ((64, 32, 16), (72, 40, 16), (72, 40, 32), (1288, 728, 32)))
def test_a_picture_is_cut_to_the_size_that_was_asked(width: int, height: int, multiple: int) -> None:
    footage = Footage.of(replace(VIDEO, width=width, height=height), multiple=multiple, stride=4)
    assert footage.width % multiple == footage.height % multiple == 0
    assert 0 <= footage.width - width < multiple and 0 <= footage.height - height < multiple
    assert footage.cut(np.zeros((footage.height, footage.width, 3), np.uint8)).shape == (height, width, 3)


def test_of_a_reference_exactly_what_was_sent_is_kept(tmp_path: Path) -> None:
    sent = np.random.default_rng(1).integers(0, 256, (40, 72, 3), np.uint8)
    Image.fromarray(sent).save(tmp_path / "first.png")
    footage = Footage.of(replace(VIDEO, width=72, height=40), multiple=32, stride=4)
    framed = footage.framed(Reference("first_frame", 1.0, tmp_path / "first.png", "image/png"))
    assert framed.size == (96, 64)
    assert (footage.cut(np.asarray(framed)) == sent).all()


def test_what_is_filmed_beyond_the_task_is_said() -> None:
    exact = Footage.of(replace(VIDEO, width=64, height=32, frames=9), multiple=16, stride=4)
    assert exact.said() is None
    more = Footage.of(replace(VIDEO, width=72, height=32, frames=6), multiple=16, stride=4)
    assert "filmed 9 frames of 80 x 32, kept 6 of 72 x 32" in str(more.said())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    (
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"frames": 0}, "got 0 frames"),
        ({"fps": 0}, "0 per second"),
        ({"width": 63}, "width must be an even number of pixels for a video, got 63"),
        ({"height": 0}, "height must be an even number of pixels for a video, got 0"),
        ({"references": (LAST, LAST)}, "one reference of kind last_frame, got 2"),
    ),
)
def test_what_no_video_can_be_is_refused_by_name(changes: dict[str, Any], sentence: str) -> None:
    check(VIDEO)
    with pytest.raises(EngineError, match=sentence):
        check(replace(VIDEO, **changes))
