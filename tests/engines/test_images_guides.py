"""References beside SDXL's own weights: an IP-Adapter for style, a ControlNet for composition."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from atelier_worker.engine import EngineError, Lora
from atelier_worker.engine_options import OptionsError
from atelier_worker.engines.diffusers_engine import DiffusersEngine
from atelier_worker.engines.diffusers_engine.guides import edges
from tests.engines import tiny_sdxl
from tests.engines.viewer import Make, maker, reference, save_picture

pytestmark = pytest.mark.filterwarnings(
    # diffusers hands a tensor to numpy in the old way.
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("guides")
    tiny_sdxl.save_ip_adapter(made / "style")
    tiny_sdxl.save_controlnet(made / "control")
    tiny_sdxl.save_lora(made)
    return made


def table(tiny_sdxl_folder: Path, folder: Path) -> dict[str, object]:
    return {
        "name": "sdxl",
        "source": str(tiny_sdxl_folder),
        "loras": {"ink": str(folder / "ink.safetensors")},
        "ip_adapter": {"source": str(folder / "style")},
        "controlnet": {"source": str(folder / "control"), "reads": "picture"},
    }


@pytest.fixture(scope="module")
def engine(tiny_sdxl_folder: Path, folder: Path) -> DiffusersEngine:
    return DiffusersEngine({"device": "cpu", "models": [table(tiny_sdxl_folder, folder)]})


@pytest.fixture
def make(engine: DiffusersEngine, tmp_path: Path) -> Make:
    return maker(engine, tmp_path)


@pytest.mark.parametrize("kind", ("style", "composition"))
def test_a_reference_guides_the_picture_as_strongly_as_it_says(make: Make, tmp_path: Path, kind: str) -> None:
    one, two = (save_picture(tmp_path / f"{seed}.png", seed) for seed in (5, 6))
    plain = make()
    made = [make(references=(reference(kind, path, strength),)) for path in (one, two) for strength in (0.3, 1.0)]
    assert len({plain.bytes_of(), *(each.bytes_of() for each in made)}) == 5
    assert len({plain.pixels().tobytes(), *(each.pixels().tobytes() for each in made)}) == 5
    assert make(references=(reference(kind, one, 0.3),)).bytes_of() == made[0].bytes_of()
    assert make().bytes_of() == plain.bytes_of()
    with pytest.raises(EngineError, match=f"takes one reference of kind {kind}, got 2"):
        make(references=(reference(kind, one), reference(kind, two)))


def test_all_kinds_together(make: Make, tmp_path: Path) -> None:
    paths = {
        kind: save_picture(tmp_path / f"{kind}.png", seed) for seed, kind in enumerate(("style", "composition", "init"))
    }
    half = Image.new("L", (64, 64))
    half.paste(255, (32, 0, 64, 64))
    half.save(tmp_path / "mask.png")
    references = [
        *(reference(kind, path) for kind, path in paths.items()),
        reference("mask", tmp_path / "mask.png", 1.0),
    ]
    seen = set()
    for count in range(len(references) + 1):
        made = make(references=tuple(references[:count]), indexes=(0, 1), loras=(Lora("ink"),))
        assert made.delivered.keys() == {0, 1}
        seen.add(made.pixels(1).tobytes())
    assert len(seen) == len(references) + 1


def test_what_is_beside_the_weights_counts_as_memory(
    make: Make, engine: DiffusersEngine, tiny_sdxl_folder: Path
) -> None:
    alone = DiffusersEngine({"device": "cpu", "models": [{"name": "sdxl", "source": str(tiny_sdxl_folder)}]})
    make()
    make(by=alone)
    assert engine.loaded()[0].size_bytes > alone.loaded()[0].size_bytes


@pytest.mark.parametrize(
    ("spoiled", "sentence"),
    (
        ("style/ip-adapter.safetensors", "model sdxl: the ip_adapter is not there: "),
        ("style/image_encoder", "image_encoder has no weights"),
        ("control/config.json", "model sdxl: the controlnet is not there: "),
        ("ink.safetensors", "model sdxl: the LoRA ink is not there: "),
    ),
)
def test_what_is_missing_is_said_before_the_first_task(
    tiny_sdxl_folder: Path, folder: Path, tmp_path: Path, spoiled: str, sentence: str
) -> None:
    mine = Path(shutil.copytree(folder, tmp_path / "mine"))
    path = mine / spoiled
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(OptionsError, match=sentence):
        DiffusersEngine({"device": "cpu", "models": [table(tiny_sdxl_folder, mine)]})


def test_edges_are_thin_lines_where_the_light_changes() -> None:
    picture = Image.new("RGB", (96, 96), "white")
    ImageDraw.Draw(picture).rectangle((24, 24, 71, 71), fill="black")
    found = np.asarray(edges(picture))[..., 0] > 0
    for row, column in itertools.product((30, 48, 66), (24, 72)):
        assert 1 <= found[row, column - 4 : column + 4].sum() <= 2
        assert 1 <= found[column - 4 : column + 4, row].sum() <= 2
    assert not found[36:60, 36:60].any()
    assert not found[:16].any()
    assert not np.asarray(edges(Image.new("RGB", (32, 32), "teal"))).any()
