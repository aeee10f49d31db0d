"""Videos by pipelines of Wan: exactly what a task asks, the same for the same seed, ended when it is cancelled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from atelier_worker.engine import Cancelled, EngineError, Reference, Task
from atelier_worker.engines.diffusers_engine import DiffusersEngine, video
from atelier_worker.engines.files import KEY
from service_kit.renditions import OF_VIDEOS, make
from tests.atelier_worker.engines.listener import VIDEO, Listener
from tests.engines import tiny_wan

# diffusers hands a tensor to numpy in the old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
TASK = replace(VIDEO, width=64, height=32, frames=9, fps=8, steps=2)


@dataclass
class Viewer(Listener):
    """Remembers phases, log lines and failures as well."""

    phases: list[str] = field(default_factory=list)
    failures: dict[int, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def progress(self, step: int, steps: int, *, asset_index: int | None = None, phase: str = "") -> None:
        self.phases.append(phase)
        super().progress(step, steps, asset_index=asset_index, phase=phase)

    def log(self, line: str) -> None:
        self.lines.append(line)

    def fail(self, asset_index: int, reason: str, *, retryable: bool = False) -> None:
        self.failures[asset_index] = reason


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("wan")


@pytest.fixture
def load(folder: Path) -> Any:
    return lambda shape: loaded(folder, shape)


@cache
def loaded(folder: Path, shape: tiny_wan.Shape) -> Any:
    pipeline = DiffusionPipeline.from_pretrained(
        tiny_wan.save(shape, folder / shape), dtype=torch.float32, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def filmed(pipeline: Any, task: Task, tmp_path: Path, **settings: Any) -> tuple[Viewer, list[np.ndarray[Any, Any]]]:
    """What a context heard, and the frames of the first output."""
    tmp_path.mkdir(exist_ok=True)
    viewer = Viewer(tmp_path)
    video.run(pipeline, task, viewer, video.VideoSettings(**settings))
    return viewer, list(decoded(viewer.delivered[task.indexes[0]]))


def decoded(path: Path) -> Iterator[np.ndarray[Any, Any]]:
    with av.open(str(path)) as container:
        yield from (frame.to_ndarray(format="rgb24") for frame in container.decode(video=0))


def picture(tmp_path: Path, kind: str, colour: tuple[int, int, int], size: tuple[int, int] = (64, 32)) -> Reference:
    path = tmp_path / f"{kind}.png"
    Image.new("RGB", size, colour).save(path)
    return Reference(kind, 0.5, path, "image/png")


@pytest.mark.parametrize(("frames", "width", "height"), ((9, 64, 32), (1, 64, 32), (6, 64, 32), (8, 72, 40)))
def test_a_video_has_the_frames_the_size_and_the_rate_that_were_asked(
    load: Any, tmp_path: Path, frames: int, width: int, height: int
) -> None:
    task = replace(TASK, frames=frames, width=width, height=height)
    viewer, shown = filmed(load("text"), task, tmp_path)
    assert [frame.shape for frame in shown] == [(height, width, 3)] * frames
    with av.open(str(viewer.delivered[0])) as container:
        stream = container.streams.video[0]
        assert (float(stream.average_rate or 0), stream.codec_context.name, stream.pix_fmt) == (8.0, "h264", "yuv420p")
    exact = frames % 4 == 1 and width % 16 == height % 16 == 0
    assert bool(viewer.lines) != exact


def test_the_index_of_the_file_is_in_front_and_it_says_how_it_was_made(load: Any, tmp_path: Path) -> None:
    viewer, _ = filmed(load("text"), replace(TASK, guidance=3.0, scheduler="euler"), tmp_path)
    data = viewer.delivered[0].read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(viewer.delivered[0])) as container:
        made = json.loads(container.metadata[KEY])
    assert (made["engine"], made["seed"], made["prompt"]) == ("diffusers", TASK.seed, TASK.prompt)
    assert (made["settings"]["guidance"], made["settings"]["scheduler"]) == (3.0, "euler")


def test_the_worker_makes_poster_clip_and_thumbnails_of_it(load: Any, tmp_path: Path) -> None:
    viewer, _ = filmed(load("text"), TASK, tmp_path)
    made = dict(make(viewer.delivered[0], OF_VIDEOS, video=True))
    assert made.keys() == set(OF_VIDEOS)


def test_the_same_seed_gives_the_same_bytes_and_each_output_has_its_own(load: Any, tmp_path: Path) -> None:
    both, _ = filmed(load("text"), replace(TASK, quantity=2, indexes=(0, 1)), tmp_path / "both")
    alone, _ = filmed(load("text"), replace(TASK, quantity=2, indexes=(1,)), tmp_path / "alone")
    assert both.delivered[1].read_bytes() == alone.delivered[1].read_bytes()
    assert both.delivered[0].read_bytes() != both.delivered[1].read_bytes()


def test_each_step_is_told_and_shown_and_decoding_and_encoding_are_seen(load: Any, tmp_path: Path) -> None:
    viewer, _ = filmed(load("text"), replace(TASK, steps=3), tmp_path)
    phases = ["reading the prompt", *["filming"] * 3, *[f"decoding {n} of 3" for n in (1, 2, 3)], "encoding"]
    assert viewer.phases == phases
    assert [step for _, step, _ in viewer.steps] == [0, 1, 2, 3, 3, 3, 3, 3]
    assert [(index, kind) for index, _, kind in viewer.previews] == [(0, "image/webp")]


@pytest.mark.parametrize("phase", ("reading the prompt", "filming", "decoding 2 of 3", "encoding"))
def test_a_cancelled_video_ends_in_every_phase_and_leaves_the_pipeline_as_it_was(
    load: Any, tmp_path: Path, phase: str
) -> None:
    pipeline = load("text")
    scheduler = pipeline.scheduler
    before, _ = filmed(pipeline, TASK, tmp_path / "before")
    viewer = Viewer(tmp_path, cancel_when=lambda viewer: viewer.phases[-1:] == [phase])  # type: ignore[attr-defined]
    with pytest.raises(Cancelled):
        video.run(pipeline, TASK, viewer)
    assert (viewer.phases[-1], viewer.delivered, pipeline.scheduler) == (phase, {}, scheduler)
    after, _ = filmed(pipeline, TASK, tmp_path / "after")
    assert after.delivered[0].read_bytes() == before.delivered[0].read_bytes()


def test_a_cancelled_video_ends_within_a_step(load: Any, tmp_path: Path) -> None:
    pipeline, ran = load("text"), 0

    def count(*_: Any) -> None:
        nonlocal ran
        ran += 1

    hook = pipeline.transformer.blocks[1].register_forward_hook(count)
    viewer = Viewer(tmp_path, cancel_when=lambda _: ran == 1)
    try:
        with pytest.raises(Cancelled):
            video.run(pipeline, replace(TASK, steps=4), viewer)
    finally:
        hook.remove()
    # Of the step's two passes through the blocks only the first was made.
    assert (ran, [step for _, step, _ in viewer.steps]) == (1, [0])


@pytest.mark.parametrize("shape", ("first_frame", "free_frames", "text_and_first_frame"))
def test_a_first_frame_changes_the_video(load: Any, tmp_path: Path, shape: tiny_wan.Shape) -> None:
    red = replace(TASK, references=(picture(tmp_path, "first_frame", (200, 20, 20)),))
    _, with_red = filmed(load(shape), red, tmp_path / "red")
    blue = replace(TASK, references=(picture(tmp_path, "first_frame", (20, 20, 200)),))
    _, with_blue = filmed(load(shape), blue, tmp_path / "blue")
    assert len(with_red) == len(with_blue) == 9
    assert any((a != b).any() for a, b in zip(with_red, with_blue, strict=True))


@pytest.mark.parametrize("shape", ("first_and_last_frame", "free_frames"))
def test_a_last_frame_changes_the_video(load: Any, tmp_path: Path, shape: tiny_wan.Shape) -> None:
    first, frames = picture(tmp_path, "first_frame", (200, 20, 20)), []
    for name, colour in (("blue", (20, 20, 200)), ("green", (20, 200, 20))):
        task = replace(TASK, frames=7, references=(first, picture(tmp_path, "last_frame", colour)))
        frames.append(filmed(load(shape), task, tmp_path / name)[1])
    assert len(frames[0]) == len(frames[1]) == 7
    assert any((a != b).any() for a, b in zip(*frames, strict=True))


def test_weights_that_do_both_make_a_video_from_text_alone(load: Any, tmp_path: Path) -> None:
    assert len(filmed(load("text_and_first_frame"), TASK, tmp_path)[1]) == 9


@pytest.mark.parametrize(
    "change", ({"guidance": 1.5}, {"negative_prompt": "fog"}, {"scheduler": "euler"}, {"scheduler": "dpmpp_2m"})
)
def test_what_is_asked_changes_the_video(load: Any, tmp_path: Path, change: dict[str, Any]) -> None:
    plain, _ = filmed(load("text"), replace(TASK, steps=3), tmp_path / "plain")
    changed, _ = filmed(load("text"), replace(TASK, steps=3, **change), tmp_path / "changed")
    assert frames_of(plain) != frames_of(changed)


def frames_of(viewer: Viewer) -> list[bytes]:
    return [frame.tobytes() for frame in decoded(viewer.delivered[0])]


def test_the_flow_shift_is_the_configured_one(load: Any, tmp_path: Path) -> None:
    plain, _ = filmed(load("text"), replace(TASK, steps=3), tmp_path / "plain")
    same, _ = filmed(load("text"), replace(TASK, steps=3), tmp_path / "same", flow_shift=3.0)
    other, _ = filmed(load("text"), replace(TASK, steps=3), tmp_path / "other", flow_shift=9.0)
    assert frames_of(plain) == frames_of(same) != frames_of(other)


def test_an_unknown_scheduler_is_refused_with_those_that_there_are(load: Any, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no scheduler ddim: choose one of unipc, euler, dpmpp_2m"):
        filmed(load("text"), replace(TASK, scheduler="ddim"), tmp_path)


def test_nothing_is_left_out_in_silence(load: Any, tmp_path: Path) -> None:
    task = replace(TASK, prompt="kites " * 400, negative_prompt="fog", guidance=1.0)
    viewer, _ = filmed(load("text"), task, tmp_path)
    assert any("negative prompt has no effect" in warning for warning in viewer.warnings)
    assert any("the model reads the first 512" in warning for warning in viewer.warnings)


def test_values_that_are_no_numbers_fail_their_output_alone(load: Any, tmp_path: Path) -> None:
    pipeline, runs = load("text"), []

    def spoil(_: Any, __: Any, out: Any) -> Any:
        runs.append(1)
        return out * float("nan") if len(runs) <= 2 * TASK.steps else out

    hook = pipeline.transformer.proj_out.register_forward_hook(spoil)
    viewer = Viewer(tmp_path)
    try:
        video.run(pipeline, replace(TASK, quantity=2, indexes=(0, 1)), viewer)
    finally:
        hook.remove()
    assert list(viewer.failures) == [0] and "no numbers" in viewer.failures[0]
    assert list(viewer.delivered) == [1]


def test_a_video_of_one_colour_fails(load: Any, tmp_path: Path) -> None:
    pipeline = load("text")
    hook = pipeline.vae.decoder.register_forward_hook(lambda _, __, out: torch.zeros_like(out))
    viewer = Viewer(tmp_path)
    try:
        video.run(pipeline, TASK, viewer)
    finally:
        hook.remove()
    assert "all over" in viewer.failures[0] and not viewer.delivered


def test_a_decoder_without_memory_falls_back_to_tiles(load: Any, tmp_path: Path) -> None:
    pipeline, failures = load("text"), []

    def fail(*_: Any) -> None:
        if not pipeline.vae.use_tiling:
            failures.append(1)
            raise torch.OutOfMemoryError("out of memory")

    hook = pipeline.vae.decoder.mid_block.register_forward_pre_hook(fail)
    try:
        viewer, shown = filmed(pipeline, TASK, tmp_path)
    finally:
        hook.remove()
    assert (len(shown), len(failures), pipeline.vae.use_tiling) == (9, 1, False)
    assert viewer.warnings == ["The device ran out of memory; this was made with frames decoded in tiles."]
    assert [step for _, step, _ in viewer.steps].count(1) == 1  # the steps were not made again


@pytest.mark.parametrize("part", ("text_encoder", "transformer", "vae.decoder"))
def test_without_memory_the_failure_may_be_tried_again_and_the_next_video_is_made(
    load: Any, tmp_path: Path, part: str
) -> None:
    pipeline, runs = load("text"), []

    def fail(*_: Any) -> None:
        runs.append(1)
        raise torch.OutOfMemoryError("out of memory")

    owner, _, inner = part.partition(".")
    module = getattr(pipeline, owner)
    hook = (getattr(module, inner) if inner else module).register_forward_pre_hook(fail)
    try:
        with pytest.raises(EngineError, match="tried: whole frames decoded, frames decoded in tiles") as failed:
            filmed(pipeline, TASK, tmp_path)
    finally:
        hook.remove()
    assert (len(runs), failed.value.retryable) == (2, True)
    assert len(filmed(pipeline, TASK, tmp_path)[1]) == 9


def test_weights_of_two_stages_use_both_and_end_within_a_block_of_the_second(load: Any, tmp_path: Path) -> None:
    pipeline = load("two_stages")
    (tmp_path / "whole").mkdir()
    assert len(filmed(pipeline, replace(TASK, steps=4), tmp_path / "whole")[1]) == 9
    ran = 0

    def count(*_: Any) -> None:
        nonlocal ran
        ran += 1

    hook = pipeline.transformer_2.blocks[0].register_forward_hook(count)
    try:
        with pytest.raises(Cancelled):
            video.run(pipeline, replace(TASK, steps=4), Viewer(tmp_path, cancel_when=lambda _: ran == 1))
    finally:
        hook.remove()
    assert ran == 1


def test_the_engine_keeps_the_model_when_its_decoder_runs_out_of_memory(folder: Path, tmp_path: Path) -> None:
    model = {"name": "wan", "source": str(tiny_wan.save("text", folder / "kept"))}
    engine = DiffusersEngine({"device": "cpu", "models": [model]})
    failures: list[str] = []

    def fail(module: Any, _: Any) -> None:
        if type(module).__name__ == "WanDecoder3d" and not failures:
            failures.append("once")
            raise torch.OutOfMemoryError("out of memory")

    hook = torch.nn.modules.module.register_module_forward_pre_hook(fail)
    viewer = Viewer(tmp_path)
    try:
        engine.run(replace(TASK, quantity=2, indexes=(0, 1)), viewer)
    finally:
        hook.remove()
    assert viewer.warnings == ["The device ran out of memory; this was made with frames decoded in tiles."]
    assert sorted(viewer.delivered) == [0, 1]
    assert [phase for phase in viewer.phases if phase == "filming"] == ["filming"] * 2 * TASK.steps
    assert [loaded.name for loaded in engine.loaded()] == ["wan"]


def test_what_the_weights_cannot_do_is_refused_before_they_are_loaded(folder: Path, tmp_path: Path) -> None:
    model = {"name": "wan", "source": str(tiny_wan.save("first_frame", folder / "cold"))}
    engine = DiffusersEngine({"device": "cpu", "models": [model]})
    with pytest.raises(EngineError, match="send a reference of kind first_frame"):
        engine.run(TASK, Viewer(tmp_path))
    assert not engine.loaded()
