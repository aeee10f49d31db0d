"""What the pictures promise: told apart, decided by prompt and seed alone, coloured and sized as asked, real steps."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from atelier_worker.engine import PREVIEW_LIMIT_BYTES, Cancelled, EngineError, Lora, Reference, Task
from atelier_worker.engine_options import OptionsError
from atelier_worker.engines.sketch import SketchEngine
from atelier_worker.engines.sketch.image import render
from atelier_worker.engines.sketch.palette import HUES
from atelier_worker.engines.sketch.reading import read
from atelier_worker.engines.sketch.scenes import SCENES
from tests.atelier_worker.engines.listener import IMAGE, Listener

REQUESTS = Path(__file__).parents[2] / "data" / "requests.jsonl"


def prompts() -> list[str]:
    lines = [json.loads(line) for line in REQUESTS.read_text("utf-8").splitlines()]
    return [line["request"]["prompt"] for line in lines if "refused" not in line]


def test_what_it_does_without_it_says_in_a_sentence_each(tmp_path: Path) -> None:
    steered = replace(IMAGE, guidance=0.0, scheduler="euler", loras=(Lora("ink"), Lora("grain", 0.5)))
    plain, said = Listener(tmp_path / "plain"), Listener(tmp_path / "steered")
    for listener, task in ((plain, IMAGE), (said, steered)):
        listener.workdir.mkdir()
        SketchEngine({"step_delay": "0"}).run(task, listener)
    assert plain.warnings == []
    assert [text.partition(":")[0] for text in said.warnings] == [
        f"The sketch engine knows no {what}" for what in ("guidance", "schedulers", "LoRAs")
    ]
    assert said.warnings[2].endswith("without ink, grain.")
    with Image.open(plain.delivered[0]) as before, Image.open(said.delivered[0]) as after:
        assert before.tobytes() == after.tobytes()
        settings = json.loads(after.text["atelier"])["settings"]  # type: ignore[attr-defined]
        assert not {"guidance", "scheduler", "loras"} & json.loads(before.text["atelier"])["settings"].keys()  # type: ignore[attr-defined]
    loras = [{"name": "ink", "weight": 1.0}, {"name": "grain", "weight": 0.5}]
    assert (settings["guidance"], settings["scheduler"], settings["loras"]) == (0.0, "euler", loras)


def order(prompt: str, side: int = 256, **changes: Any) -> Task:
    return replace(IMAGE, **{"prompt": prompt, "width": side, "height": side, **changes})


def perceptual_hash(picture: Image.Image) -> NDArray[np.bool_]:
    """64 bits: which of the 8 × 8 lowest frequencies of the brightness, at 32 × 32, lie above their median."""
    grey = np.asarray(picture.convert("L").resize((32, 32), Image.Resampling.LANCZOS), np.float64)
    n = np.arange(32)
    waves = np.cos(np.pi * (2 * n[None, :] + 1) * n[:, None] / 64)
    low = (waves @ grey @ waves.T)[:8, :8].ravel()
    return np.asarray(low > np.median(low[1:]))


def closest(pictures: dict[str, Image.Image]) -> tuple[int, str, str]:
    """The two pictures that differ least: in how many bits, and which."""
    hashes = {name: perceptual_hash(picture) for name, picture in pictures.items()}
    return min((int((hashes[a] != hashes[b]).sum()), a, b) for a, b in itertools.combinations(hashes, 2))


def dominant_hue(picture: Image.Image) -> float:
    """The mean hue in degrees, weighted by how colourful each pixel is."""
    pixels = np.asarray(picture.convert("HSV"), np.float64).reshape(-1, 3)
    weight = pixels[:, 1] * pixels[:, 2]
    return float(np.angle((weight * np.exp(2j * np.pi * pixels[:, 0] / 255)).sum(), deg=True)) % 360


def test_every_request_looks_different_from_every_other() -> None:
    bits, *pair = closest({prompt: render(order(prompt), 1) for prompt in prompts()})
    assert bits >= 10, pair


@pytest.mark.parametrize(
    "prompt",
    [
        "isometric cutaway of a lighthouse keeper's room, warm lamp, rain on glass",
        "portrait of an old clockmaker in his workshop, rim light, 85mm",
        "a lighthouse on a basalt cliff in a storm, long exposure, teal and slate",
    ],
)
def test_twenty_seeds_of_one_prompt_look_different(prompt: str) -> None:
    bits, *pair = closest({str(seed): render(order(prompt, 192), seed) for seed in range(20)})
    assert bits >= 6, pair


@pytest.mark.parametrize(
    "colour", ["red", "orange", "gold", "yellow", "green", "teal", "turquoise", "blue", "purple", "pink"]
)
def test_a_colour_word_moves_the_palette_to_that_hue(colour: str) -> None:
    away = dominant_hue(render(order(f"a mountain lake in {colour}", 128), 5)) - HUES[colour].degrees
    assert abs((away + 180) % 360 - 180) <= 25


def test_a_colour_before_the_subject_paints_the_subject() -> None:
    red, blue = (np.asarray(render(order(f"a {c} car on a road", 192), 4), np.int16) for c in ("red", "blue"))
    assert int((red - blue)[..., 0].max()) > 90
    assert int((blue - red)[..., 2].max()) > 90


@pytest.mark.parametrize(
    ("prompt", "scene"),
    [
        ("a lighthouse on a basalt cliff in a storm", "lighthouse"), ("a red bicycle leaning on a wall", "bicycle"),
        ("isometric cutaway of a lighthouse keeper's room", "room"), ("studies of a heron taking off", "heron"),
        ("portrait of an old clockmaker", "portrait"), ("terraced rice fields at dawn", "terraces"),
        ("a narrow street in Lisbon after rain, tram rails", "street"), ("a kite over dunes", "dunes"),
        ("paper boats drifting down a gutter", "paperboats"), ("a sunflower turning", "sunflower"),
        ("cat on a roof", "cat"), ("harbour at night", "harbour"), ("雨の夜の横丁、提灯の明かり", "alley"),
        ("سوق قديم عند الغروب", "market"), ("a railway carriage on a viaduct", "railway"), ("a pine forest", "forest"),
        ("Berge und Wald", "forest"), ("the skyline of a city", "skyline"), ("a bowl of apples", "stilllife"),
        ("a whale in the ocean", "ocean"), ("a ringed planet", "space"), ("a castle", "castle"), ("a barn", "house"),
        ("hot-air balloons", "balloon"), ("goldfish", "fish"), ("a robot", "robot"), ("qwertz", "abstract"),
    ],
)  # fmt: skip
def test_subject_words_choose_the_scene(prompt: str, scene: str) -> None:
    assert read(prompt).scene == scene
    assert scene in SCENES


def test_the_negative_prompt_takes_words_out() -> None:
    assert read("a harbour at night in rain", "rain").weathers == ()
    assert read("a harbour at night in rain").weathers == ("rain",)


def test_charcoal_and_noir_have_next_to_no_colours_of_their_own() -> None:
    grey = np.asarray(render(order("a noir street", 128), 2), np.int16)
    assert int(np.ptp(grey, axis=2).max()) <= 2
    toned = np.asarray(render(order("a sunflower in charcoal", 128), 2), np.int16)
    assert int(np.ptp(toned, axis=2).max()) < 80


def test_a_picture_has_exactly_the_size_asked_for() -> None:
    for width, height in ((256, 144), (144, 256), (208, 176)):
        assert render(order("harbour at night", width=width, height=height), 1).size == (width, height)


def test_the_bytes_do_not_depend_on_the_process() -> None:
    code = (
        "import hashlib\n"
        "from tests.atelier_worker.engines.test_sketch_images import order\n"
        "from atelier_worker.engines.sketch.image import render\n"
        "for prompt in ('harbour at night', 'souk, ink', 'charcoal cat', 'x'):\n"
        "    print(hashlib.sha256(render(order(prompt, 160), 9).tobytes()).hexdigest())\n"
    )
    here = "".join(
        hashlib.sha256(render(order(prompt, 160), 9).tobytes()).hexdigest() + "\n"
        for prompt in ("harbour at night", "souk, ink", "charcoal cat", "x")
    )
    for hash_seed in ("1", "4242"):
        made = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert made.stdout == here


def test_an_output_does_not_depend_on_the_batch_it_is_made_in(tmp_path: Path) -> None:
    whole, part = Listener(tmp_path / "whole"), Listener(tmp_path / "part")
    for listener, task in (
        (whole, order("cat on a roof", 128, seed=100, quantity=3, indexes=(0, 1, 2))),
        (part, order("cat on a roof", 128, seed=100, quantity=3, indexes=(2,))),
    ):
        listener.workdir.mkdir()
        SketchEngine({"step_delay": "0"}).run(task, listener)
    assert sorted(whole.delivered) == [0, 1, 2] and sorted(part.delivered) == [2]
    assert whole.delivered[2].read_bytes() == part.delivered[2].read_bytes()
    with Image.open(whole.delivered[1]) as saved:
        assert saved.tobytes() == render(order("cat on a roof", 128), 101).tobytes()


def test_every_step_shows_more_of_the_picture(tmp_path: Path) -> None:
    listener = Listener(tmp_path)
    SketchEngine({"step_delay": "0"}).run(order("a castle with a dragon", 320, steps=12), listener)
    assert listener.steps == [(0, step, 12) for step in range(13)]
    assert len(listener.previews) == 12
    assert all(kind == "image/webp" and len(data) <= PREVIEW_LIMIT_BYTES for _, data, kind in listener.previews)
    shown = [Image.open(io.BytesIO(data)).convert("RGB") for _, data, _ in listener.previews]
    assert {picture.size for picture in shown} == {(256, 256)}
    with Image.open(listener.delivered[0]) as saved:
        final = np.asarray(saved.convert("RGB").resize((256, 256)), np.float32)
    away = [float(np.abs(np.asarray(picture, np.float32) - final).mean()) for picture in shown]
    assert away[0] > 3 * away[-1]
    assert away[-1] < 8
    assert len({data for _, data, _ in listener.previews}) == 12


def test_cancelling_ends_within_one_step_and_delivers_nothing(tmp_path: Path) -> None:
    listener = Listener(tmp_path, cancel_when=lambda said: len(said.steps) >= 3)
    with pytest.raises(Cancelled):
        SketchEngine({"step_delay": "0"}).run(order("harbour at night", 128, steps=8), listener)
    assert len(listener.steps) == 3
    assert listener.delivered == {}


@pytest.mark.parametrize("given", ["soon", "-1", "nan", "1e9"])
def test_a_step_delay_that_is_no_time_is_refused(given: str) -> None:
    with pytest.raises(OptionsError, match="step_delay"):
        SketchEngine({"step_delay": given})


def reference(folder: Path, kind: str, strength: float, picture: Image.Image) -> tuple[Reference, ...]:
    path = folder / f"{kind}-{strength}.png"
    picture.save(path)
    return (Reference(kind, strength, path, "image/png"),)


def test_a_style_reference_moves_the_colours(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64), np.uint8))
    dim = noise.point([i // 3 for i in range(256)])
    green = Image.merge("RGB", (dim, noise, dim))
    plain = render(order("a kite over dunes", 128), 3)
    styled = render(order("a kite over dunes", 128, references=reference(tmp_path, "style", 1.0, green)), 3)
    assert abs(dominant_hue(styled) - 120) < 25 < abs(dominant_hue(plain) - 120)


@pytest.mark.parametrize("kind", ["init", "composition"])
def test_an_init_or_composition_reference_gives_its_light_and_dark(tmp_path: Path, kind: str) -> None:
    halves = Image.new("RGB", (64, 64), (10, 10, 10))
    halves.paste((245, 245, 245), (32, 0, 64, 64))

    def tilt(strength: float) -> float:
        task = order("an empty mist", 128, references=reference(tmp_path, kind, strength, halves))
        grey = np.asarray(render(task, 3).convert("L"), np.float32)
        return float(grey[:, 64:].mean() - grey[:, :64].mean())

    assert tilt(1.0) > tilt(0.5) > tilt(0.0) + 20
    assert tilt(1.0) > 100


def test_a_mask_keeps_the_init_picture_where_it_is_black(tmp_path: Path) -> None:
    start = Image.new("RGB", (64, 64), (30, 200, 90))
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 32, 64))
    references = reference(tmp_path, "init", 0.01, start) + reference(tmp_path, "mask", 1.0, mask)
    made = np.asarray(render(order("a kite over dunes", 128, references=references), 3), np.int16)
    assert np.abs(made[:, 70:] - np.array([30, 200, 90])).max() <= 2
    assert np.abs(made[:, :58] - np.array([30, 200, 90])).mean() > 40


def test_a_reference_that_is_no_picture_fails_the_task_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    with pytest.raises(EngineError, match="reference of kind style") as failed:
        render(order("x", 64, references=(Reference("style", 0.5, path, "image/png"),)), 1)
    assert not failed.value.retryable and str(tmp_path) not in str(failed.value)
