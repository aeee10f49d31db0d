"""Pictures that are none, previews of latents, and out of memory, without the libraries that make them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from atelier_worker.engine import PREVIEW_LIMIT_BYTES, Cancelled, EngineError
from atelier_worker.engines.residency import (
    Attempt,
    NotEnoughMemory,
    PreviewClock,
    check_picture,
    latent_preview,
    show_previews,
    survive_out_of_memory,
)
from tests.support.fake_device import FakeDevice, RememberingContext, Weights

ALLOCATOR = "[enforce fail at alloc_cpu.cpp:128] DefaultCPUAllocator: can't allocate memory: you tried 8 bytes."


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_fail(value: float) -> None:
    picture = np.random.default_rng(0).random((8, 8, 3))
    check_picture(picture)
    picture[3, 4, 1] = value
    with pytest.raises(EngineError, match="values that are no numbers"):
        check_picture(picture, may_be_plain=True)


def test_what_half_precision_leaves_of_nan_fails() -> None:
    black = Image.new("RGB", (64, 64))
    with pytest.raises(EngineError, match="black all over"):
        check_picture(black)
    with pytest.raises(EngineError, match="of one colour all over"):
        check_picture(Image.new("RGBA", (64, 64), (9, 9, 9, 255)))
    check_picture(black, may_be_plain=True)
    black.putpixel((3, 3), (0, 0, 1))
    check_picture(black)


def test_a_video_may_begin_in_the_dark() -> None:
    frames = np.zeros((5, 8, 8, 3), np.uint8)
    with pytest.raises(EngineError, match="black all over"):
        check_picture(frames)
    frames[4, 0, 0] = 200
    check_picture(frames)


def _opened(file: bytes) -> Image.Image:
    assert len(file) <= PREVIEW_LIMIT_BYTES
    picture = Image.open(io.BytesIO(file))
    assert picture.format == "WEBP"
    return picture.convert("RGB")


@pytest.mark.parametrize(
    ("family", "shape", "size"),
    [
        ("sdxl", (4, 128, 128), (128, 128)),
        ("sdxl", (4, 400, 200), (128, 256)),
        ("wan", (16, 21, 60, 104), (104, 60)),
        ("wan", (4, 3, 8, 8), (8, 8)),
        ("other", (2, 8, 8), (8, 8)),
        ("sd15", (4, 1, 4), (4, 1)),
    ],
)
def test_latents_become_small_pictures(family: str, shape: tuple[int, ...], size: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).standard_normal(shape) * 14
    assert _opened(latent_preview(noise, family)).size == size


def test_early_noise_is_shown_as_noise_and_not_as_glare() -> None:
    noise = np.random.default_rng(2).standard_normal((4, 64, 64)) * 14
    pixels = np.asarray(_opened(latent_preview(noise, "sdxl")))
    assert ((pixels > 8) & (pixels < 247)).mean() > 0.9


def test_the_first_channel_of_sdxl_is_light() -> None:
    latents = np.zeros((4, 16, 16), np.float32)
    latents[0, :, 8:] = 2
    latents[0, :, :8] = -2
    left, right = (_opened(latent_preview(latents, "sdxl")).getpixel((x, 8)) for x in (2, 13))
    assert isinstance(left, tuple)
    assert isinstance(right, tuple)
    assert max(left) < 90
    assert min(right) > 160


def test_latents_that_are_no_numbers_are_shown_without_a_fuss() -> None:
    shown = _opened(latent_preview(np.full((4, 8, 8), np.nan, np.float32), "sdxl"))
    assert np.asarray(shown).max() < 4, "black, but for what the format rounds"


class Time:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.s = 0.0

    def now(self) -> float:
        return self.s


def test_outputs_take_turns_twice_a_second_each() -> None:
    time = Time()
    clock = PreviewClock(now=time.now)
    shown: list[tuple[float, int]] = []
    for _ in range(100):
        index = clock.due([4, 7])
        if index is not None:
            clock.show(index, lambda: None)
            shown.append((time.s, index))
        time.s += 0.125
    assert shown[:4] == [(0.0, 4), (0.125, 7), (0.5, 4), (0.625, 7)]
    assert len(shown) == 50


def test_previews_take_no_more_than_a_fiftieth_of_the_time() -> None:
    time = Time()
    clock = PreviewClock(now=time.now)

    def slow() -> None:
        time.s += 0.1

    spent = 0.0
    for _ in range(1000):
        index = clock.due([0])
        if index is not None:
            clock.show(index, slow)
            spent += 0.1
        time.s += 0.05
    assert 0.015 < spent / time.s <= 0.02


def test_a_batch_shows_the_row_of_its_output() -> None:
    context = RememberingContext()
    clock = PreviewClock(now=Time().now)
    latents = np.stack([np.full((4, 8, 8), value, np.float32) for value in (-2.0, 2.0)])
    show_previews(context, clock, latents, [5, 6], "sdxl")
    show_previews(context, clock, latents, [5, 6], "sdxl")
    assert [(index, kind) for index, _, kind in context.previews] == [(5, "image/webp"), (6, "image/webp")]
    dark, light = (np.asarray(_opened(file)).mean() for _, file, _ in context.previews)
    assert dark < light


def test_less_is_tried_when_memory_runs_out_and_what_was_held_is_free_by_then() -> None:
    device = FakeDevice(10)
    held_at_start: list[int] = []

    def run(size: int) -> str:
        held_at_start.append(device.used)
        held = Weights(device, size)
        more = Weights(device, 4)
        return f"{size} {held is not more}"

    context = RememberingContext()
    attempts = [
        Attempt("4 at once", lambda: run(9)),
        Attempt("one at a time", lambda: run(7)),
        Attempt("tiled decoding", lambda: run(2)),
    ]
    assert survive_out_of_memory(context, attempts) == "2 True"
    assert held_at_start == [0, 0, 0]
    assert context.warnings == ["The device ran out of memory; this was made with tiled decoding."]


def test_memory_is_free_even_while_somebody_keeps_the_error() -> None:
    device = FakeDevice(10)
    kept: list[BaseException] = []

    def allocate() -> None:
        held = Weights(device, 9)
        Weights(device, 2)
        raise AssertionError(held)

    def run() -> None:
        try:
            allocate()
        except RuntimeError as error:
            failed = RuntimeError("a library says it in its own words: out of memory")
            kept.append(failed)
            raise failed from error

    survive_out_of_memory(RememberingContext(), [Attempt("as asked", run), Attempt("less", lambda: None)])
    assert (len(kept), device.used) == (1, 0)


def test_the_last_attempt_ends_retryably_in_a_sentence() -> None:
    device = FakeDevice(10)
    with pytest.raises(NotEnoughMemory, match=r"in the middle of the work \(tried: as asked, tiled\)") as failed:
        survive_out_of_memory(
            RememberingContext(),
            [Attempt("as asked", lambda: device.take(11)), Attempt("tiled", lambda: device.take(12))],
        )
    assert failed.value.retryable
    assert failed.value.__context__ is None


def test_a_refusal_of_the_door_is_passed_on_as_it_is() -> None:
    def refuse() -> None:
        raise NotEnoughMemory("sdxl needs 9 GiB")

    with pytest.raises(NotEnoughMemory, match="sdxl needs 9 GiB") as failed:
        survive_out_of_memory(RememberingContext(), [Attempt("as asked", refuse)])
    assert not failed.value.retryable


def test_other_errors_pass_through() -> None:
    def fail() -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        survive_out_of_memory(RememberingContext(), [Attempt("as asked", fail), Attempt("tiled", fail)])


def test_a_cancelled_job_is_not_tried_again() -> None:
    context = RememberingContext()

    def run() -> None:
        context.cancelled.set()
        raise RuntimeError(ALLOCATOR)

    with pytest.raises(Cancelled):
        survive_out_of_memory(context, [Attempt("as asked", run), Attempt("tiled", run)])
