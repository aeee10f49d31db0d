"""Pictures by pipelines of SDXL: what a task asks, the same for the same seed, ended when it is cancelled."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from atelier_worker.engine import Cancelled, EngineError
from atelier_worker.engines.diffusers_engine import DiffusersEngine
from atelier_worker.engines.diffusers_engine.schedulers import SCHEDULERS
from atelier_worker.engines.residency import NotEnoughMemory
from tests.engines.viewer import Make, maker, reference, save_picture

pytestmark = [
    # diffusers hands a tensor to numpy in the old way.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def engine(tiny_sdxl_folder: Path) -> DiffusersEngine:
    return DiffusersEngine({"device": "cpu", "models": [{"name": "sdxl", "source": str(tiny_sdxl_folder)}]})


@pytest.fixture(scope="module")
def singly(tiny_sdxl_folder: Path) -> DiffusersEngine:
    """An engine that makes one picture at a time."""
    model = {"name": "sdxl", "source": str(tiny_sdxl_folder), "max_batch": 1}
    return DiffusersEngine({"device": "cpu", "models": [model]})


@pytest.fixture
def make(engine: DiffusersEngine, tmp_path: Path) -> Make:
    """Give a function that makes pictures: changes of `TASK`, what ends it, another engine."""
    return maker(engine, tmp_path)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_picture(tmp_path_factory.mktemp("references") / "picture.png")


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mask whose right half is white."""
    path = tmp_path_factory.mktemp("references") / "mask.png"
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (32, 0, 64, 64))
    mask.save(path)
    return path


def test_text_to_image(make: Make) -> None:
    made = make(indexes=(0, 2), quantity=3)
    assert made.delivered.keys() == {0, 2}
    assert made.pixels(2).shape == (64, 64, 3)
    assert [step for step in made.steps if step[0] == 2] == [(2, number, 4) for number in range(5)]
    assert {index for index, _, kind in made.previews if kind == "image/webp"} <= {0, 2}
    assert made.previews
    with Image.open(made.delivered[2]) as opened:
        said = json.loads(str(opened.info["atelier"]))
    assert (said["engine"], said["model"], said["seed"]) == ("diffusers", "sdxl", 9)
    assert said["settings"]["guidance"] == 5.0


@pytest.mark.parametrize(("width", "height"), ((72, 56), (8, 8), (24, 264), (1000, 24)))
def test_the_shape_that_was_asked_for(make: Make, picture: Path, half: Path, width: int, height: int) -> None:
    for kinds in ((), ("init",), ("init", "mask")):
        given = tuple(reference(kind, half if kind == "mask" else picture) for kind in kinds)
        assert make(width=width, height=height, steps=2, references=given).pixels().shape == (height, width, 3)


def test_the_same_request_gives_the_same_bytes(make: Make) -> None:
    once, again, other = make(indexes=(0, 1)), make(indexes=(0, 1)), make(seed=70)
    assert [once.bytes_of(i) for i in (0, 1)] == [again.bytes_of(i) for i in (0, 1)]
    # The bytes differ in any case: a file says its seed.
    assert not np.array_equal(once.pixels(0), once.pixels(1))
    assert not np.array_equal(once.pixels(0), other.pixels())


@pytest.mark.parametrize("kinds", ((), ("init",), ("init", "mask")), ids=("text", "init", "mask"))
@pytest.mark.parametrize("scheduler", ("euler", "euler_a"))
def test_a_picture_looks_the_same_alone_and_in_a_batch(
    make: Make, singly: DiffusersEngine, picture: Path, half: Path, kinds: tuple[str, ...], scheduler: str
) -> None:
    given = {"init": picture, "mask": half}
    more = {"references": tuple(reference(kind, given[kind]) for kind in kinds), "scheduler": scheduler}
    together = make(indexes=(0, 1, 2), **more).pixels(2).astype(int)
    alone = make(indexes=(2,), **more)
    # Kernels for another number of rows round in another order.
    assert np.abs(together - alone.pixels(2)).max() <= 3
    assert make(by=singly, indexes=(0, 1, 2), **more).bytes_of(2) == alone.bytes_of(2)


def test_what_is_made_again_shares_its_pass_with_the_same(make: Make, tiny_sdxl_folder: Path) -> None:
    model = {"name": "sdxl", "source": str(tiny_sdxl_folder), "max_batch": 2}
    pairs = DiffusersEngine({"device": "cpu", "models": [model]})
    whole = make(by=pairs, indexes=(0, 1, 2, 3))
    assert make(by=pairs, indexes=(2, 3)).bytes_of(3) == whole.bytes_of(3)


@pytest.mark.parametrize("negative", ("", "fog and rain"))
def test_a_short_prompt_gives_what_the_plain_pipeline_gives(make: Make, tiny_sdxl_folder: Path, negative: str) -> None:
    plain = diffusers.StableDiffusionXLPipeline.from_pretrained(tiny_sdxl_folder)
    plain.set_progress_bar_config(disable=True)
    wanted = plain(
        prompt="a kite", negative_prompt=negative or None, width=64, height=64, num_inference_steps=4,
        guidance_scale=5.0, generator=torch.Generator("cpu").manual_seed(7),
    ).images[0]  # fmt: skip
    assert np.array_equal(make(negative_prompt=negative).pixels(), np.asarray(wanted))


def test_nothing_of_a_long_prompt_is_cut(make: Make) -> None:
    # A letter is a token here: these are four chunks, and what they differ in is the last letter.
    long = "kites over the dunes " * 15
    assert make(prompt=long + "a").bytes_of() != make(prompt=long + "b").bytes_of()
    pixels = [make(prompt=long + "a", negative_prompt=text).pixels() for text in ("", "fog", long + "x", long + "y")]
    assert not np.array_equal(pixels[2], pixels[3])
    assert np.array_equal(make(prompt=long + "a").pixels(), pixels[0])


def test_image_to_image(make: Make, picture: Path) -> None:
    with Image.open(picture) as opened:
        given = np.asarray(opened).astype(int)
    made = {strength: make(steps=10, references=(reference("init", picture, strength),)) for strength in (0.2, 0.7, 1)}
    assert [made[strength].steps[-1][2] for strength in made] == [8, 3, 1]
    free = make(steps=10, references=(reference("init", picture, 0.0),))
    assert free.bytes_of() != made[0.2].bytes_of() != made[0.7].bytes_of()
    assert np.array_equal(free.pixels(), make(steps=10).pixels())
    assert made[1].pixels().shape == given.shape


def test_every_number_of_steps_is_what_it_says(make: Make, picture: Path) -> None:
    # 49 × (1 / 49) is less than 1 in floating point: no step at all.
    assert make(steps=49, references=(reference("init", picture, 48 / 49),)).steps[-1][1:] == (1, 1)


def test_what_a_mask_spares_stays_as_it_is(make: Make, picture: Path, half: Path) -> None:
    with Image.open(picture) as opened:
        given = np.asarray(opened)
    made = make(references=(reference("init", picture), reference("mask", half, 1.0))).pixels()
    assert np.array_equal(made[:, :32], given[:, :32])
    assert not np.array_equal(made[:, 32:], given[:, 32:])
    softer = make(references=(reference("init", picture), reference("mask", half, 0.5))).pixels()
    assert not np.array_equal(softer[:, :32], given[:, :32])


def test_every_scheduler(make: Make) -> None:
    made = {name: make(scheduler=name).pixels().tobytes() for name in SCHEDULERS}
    assert len(set(made.values())) >= len(SCHEDULERS) - 1
    assert made["euler"] == make().pixels().tobytes()
    with pytest.raises(EngineError, match="scheduler 'quick' is not known; choose one of ddim, "):
        make(scheduler="quick")


def test_guidance(make: Make, tiny_sdxl_folder: Path) -> None:
    assert len({make(guidance=value).pixels().tobytes() for value in (None, 1.0, 3.0, 9.0)}) == 4
    assert make(guidance=5.0).bytes_of() == make().bytes_of()
    model = {"name": "*", "source": str(tiny_sdxl_folder), "guidance": 3.0}
    other = DiffusersEngine({"device": "cpu", "models": [model]})
    assert make(by=other).bytes_of() == make(guidance=3.0).bytes_of()
    assert make(guidance=1.0, negative_prompt="fog").warnings == [
        "With a guidance of 1 the negative prompt has no effect."
    ]


@pytest.mark.parametrize(
    ("kind", "sentence"),
    (
        ("style", "takes no style reference"),
        ("composition", "takes no composition"),
        ("mask", "send a reference of kind init"),
    ),
)
def test_a_reference_that_the_model_does_not_take(make: Make, picture: Path, kind: str, sentence: str) -> None:
    with pytest.raises(EngineError, match=sentence):
        make(references=(reference(kind, picture),))


def test_other_tasks_are_refused(make: Make) -> None:
    for changes, sentence in (
        ({"width": 100}, "width must be a multiple of 8 pixels"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"model": "flux"}, "no model 'flux'; it has sdxl"),
        ({"stage": "enhance", "format": None}, "no texts"),
        ({"format": "video", "frames": 8, "fps": 8}, "makes pictures and no videos"),
    ):
        with pytest.raises(EngineError, match=sentence) as raised:
            make(**changes)
        # Another worker of the pool may have another model.
        assert raised.value.retryable is ("model" in changes)


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Give a list of how many latents each call of the UNet sees."""
    seen: list[int] = []
    forward = diffusers.UNet2DConditionModel.forward

    def counted(self: Any, sample: Any, *args: Any, **named: Any) -> Any:
        seen.append(sample.shape[0])
        return forward(self, sample, *args, **named)

    monkeypatch.setattr(diffusers.UNet2DConditionModel, "forward", counted)
    yield seen


def test_cancel_ends_it_within_a_step(make: Make, forwards: list[int]) -> None:
    whole = make().bytes_of()
    forwards.clear()
    with pytest.raises(Cancelled):
        make(steps=50, cancel_when=lambda heard: (0, 3, 50) in heard.steps)
    assert len(forwards) <= 4
    assert make().bytes_of() == whole


def test_batches_are_as_large_as_the_settings_say(make: Make, tiny_sdxl_folder: Path, forwards: list[int]) -> None:
    model = {"name": "sdxl", "source": str(tiny_sdxl_folder), "max_batch": 2}
    make(by=DiffusersEngine({"device": "cpu", "models": [model]}), indexes=(0, 1, 2), steps=1)
    assert forwards == [4, 2]  # with and without the prompt


def test_tasks_at_the_same_time_do_not_change_each_other(make: Make, tiny_sdxl_folder: Path) -> None:
    model = {"name": "sdxl", "source": str(tiny_sdxl_folder)}
    both = DiffusersEngine({"device": "cpu", "slots": 2, "engine": "diffusers", "models": [model]})
    assert both.concurrency == 2
    with ThreadPoolExecutor(4) as threads:
        at_once = list(threads.map(lambda seed: make(by=both, seed=seed, steps=3).bytes_of(), (1, 2, 3, 4)))
    assert at_once == [make(seed=seed, steps=3).bytes_of() for seed in (1, 2, 3, 4)]


def broken(monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Any, Any], Any]) -> None:
    """Have every call of the UNet spoiled: `spoil(sample, what it returned)`."""
    forward = diffusers.UNet2DConditionModel.forward

    def spoiled(self: Any, sample: Any, *args: Any, **named: Any) -> Any:
        return (spoil(sample, forward(self, sample, *args, **named)[0]),)

    monkeypatch.setattr(diffusers.UNet2DConditionModel, "forward", spoiled)


def test_a_picture_of_no_numbers_fails_and_the_others_do_not(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(sample: Any, made: Any) -> Any:
        made[1::2] = float("nan")  # the second of two pictures, with and without the prompt
        return made

    whole = make(indexes=(0, 1))
    with monkeypatch.context() as patch:
        broken(patch, spoil)
        made = make(indexes=(0, 1))
    assert made.delivered.keys() == {0}
    assert "NaN" in made.failures[1]
    assert make(indexes=(0, 1)).bytes_of(1) == whole.bytes_of(1)


def test_out_of_memory_in_a_step_is_survived(
    make: Make, singly: DiffusersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(sample: Any, made: Any) -> Any:
        if sample.shape[0] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return made

    whole = make(by=singly, indexes=(0, 1, 2))
    with monkeypatch.context() as patch:
        broken(patch, spoil)
        made = make(indexes=(0, 1, 2))
    assert made.warnings == ["The device ran out of memory; this was made with one picture at a time."]
    assert [made.bytes_of(i) for i in range(3)] == [whole.bytes_of(i) for i in range(3)]


def test_out_of_memory_whatever_is_tried_may_be_tried_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(sample: Any, made: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with monkeypatch.context() as patch:
        broken(patch, spoil)
        with pytest.raises(NotEnoughMemory, match="in the middle of the work") as error:
            make()
    assert error.value.retryable
    assert make().delivered


# The pipeline's own way to decode in float32.
@pytest.mark.filterwarnings("ignore:`upcast_vae` is deprecated:FutureWarning")
@pytest.mark.parametrize("dtype", ("float16", "bfloat16"))
def test_a_decoder_that_was_interrupted_decodes_again(
    make: Make, tiny_sdxl_folder: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    def decode(*_: Any, **__: Any) -> Any:
        raise Cancelled

    half = DiffusersEngine(
        {"device": "cpu", "dtype": dtype, "models": [{"name": "sdxl", "source": str(tiny_sdxl_folder)}]}
    )
    whole = make(by=half)
    with monkeypatch.context() as patch:
        patch.setattr(diffusers.AutoencoderKL, "_decode", decode)
        with pytest.raises(Cancelled):
            make(by=half)
    assert make(by=half).bytes_of() == whole.bytes_of()


def test_more_than_the_limit_is_not_begun(make: Make, tiny_sdxl_folder: Path, forwards: list[int]) -> None:
    model = {"name": "sdxl", "source": str(tiny_sdxl_folder)}
    small = DiffusersEngine({"device": "cpu", "memory_limit": "8MiB", "models": [model]})
    with pytest.raises(NotEnoughMemory, match="memory_limit") as error:
        make(by=small)
    assert not error.value.retryable
    assert not forwards
    assert not small.loaded()


def test_a_model_is_loaded_where_it_is_seen_and_can_be_evicted(make: Make, tiny_sdxl_folder: Path) -> None:
    fresh = DiffusersEngine({"device": "cpu", "models": [{"name": "sdxl", "source": str(tiny_sdxl_folder)}]})
    assert (list(fresh.loaded()), fresh.device_room()) == ([], None)
    first = make(by=fresh)
    room = fresh.device_room()
    assert room is not None
    assert (room.device, room.free_bytes <= room.total_bytes) == ("cpu", True)
    assert "loading sdxl" in first.phases
    (model,) = fresh.loaded()
    assert (model.name, model.device) == ("sdxl", "cpu")
    assert fresh.give_room("cpu", 1) == model.size_bytes
    assert not fresh.loaded()
    assert make(by=fresh).bytes_of() == first.bytes_of()
