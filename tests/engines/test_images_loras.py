"""LoRAs by name: put in for a task and taken out again, refused in a sentence, or in only in part."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from atelier_worker.engine import EngineError, Lora
from atelier_worker.engines.diffusers_engine import DiffusersEngine
from tests.engines import tiny_sdxl
from tests.engines.viewer import Make, maker

pytestmark = [
    # diffusers hands a tensor to numpy in the old way.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    # peft, of a second LoRA, and of one that is taken out because it does not fit.
    pytest.mark.filterwarnings("ignore:Adapter lora_.* was active which is now deleted:UserWarning"),
    pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning"),
]


@pytest.fixture(scope="module")
def lora_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("loras")
    return {
        "ink": str(tiny_sdxl.save_lora(folder)),
        "oil 2.1": str(tiny_sdxl.save_lora(folder, "oil.safetensors", seed=2)),
        "other": str(tiny_sdxl.save_lora(folder, "other.safetensors", width=3)),
        "partly": str(_with_more(tiny_sdxl.save_lora(folder, "partly.safetensors"))),
        "lost": str(tiny_sdxl.save_lora(folder, "lost.safetensors")),
    }


def _with_more(file: Path) -> Path:
    """Add three weights of a block that the tiny UNet does not have, and one number beside them."""
    weights = load_file(file)
    there = next(name for name in weights if ".down_blocks.1." in name and "lora_A" in name)
    names = [there.replace(".down_blocks.1.", f".down_blocks.{block}.") for block in (7, 8, 9)]
    save_file({**weights, **{name: weights[there].clone() for name in names}}, file)
    return file


@pytest.fixture(scope="module")
def engine(tiny_sdxl_folder: Path, lora_files: dict[str, str]) -> DiffusersEngine:
    model = {"name": "sdxl", "source": str(tiny_sdxl_folder), "loras": lora_files}
    made = DiffusersEngine({"device": "cpu", "models": [model]})
    Path(lora_files["lost"]).unlink()
    return made


@pytest.fixture
def make(engine: DiffusersEngine, tmp_path: Path) -> Make:
    """Give a function that makes pictures: changes of `TASK`, what ends it, another engine."""
    return maker(engine, tmp_path)


def test_loras_by_name(make: Make) -> None:
    before = make().bytes_of()
    ink = make(loras=(Lora("ink"),))
    lighter = make(loras=(Lora("ink", 0.4),))
    both = make(loras=(Lora("ink", 0.4), Lora("oil 2.1", 0.8)))
    assert len({before, ink.bytes_of(), lighter.bytes_of(), both.bytes_of()}) == 4
    assert make(loras=(Lora("ink"),)).bytes_of() == ink.bytes_of()
    assert make(loras=(Lora("oil 2.1", 0.8), Lora("ink", 0.4))).pixels().tobytes() == both.pixels().tobytes()
    assert make().bytes_of() == before
    with Image.open(both.delivered[0]) as opened:
        said = json.loads(str(opened.info["atelier"]))
    assert said["settings"]["loras"] == [{"name": "ink", "weight": 0.4}, {"name": "oil 2.1", "weight": 0.8}]


def test_a_lora_that_cannot_be_used(make: Make) -> None:
    before = make().bytes_of()
    with pytest.raises(EngineError, match=r"no LoRA 'chalk' .* there are: ink, lost, oil 2\.1, other, partly"):
        make(loras=(Lora("chalk"),))
    with pytest.raises(EngineError, match="named twice"):
        make(loras=(Lora("ink"), Lora("ink")))
    for name in ("lost", "other"):
        with pytest.raises(EngineError, match=f"LoRA '{name}' cannot be used with this model") as error:
            make(loras=(Lora("ink"), Lora(name)))
        assert "/" not in str(error.value)
    assert make().bytes_of() == before


def test_a_lora_that_fits_in_part_is_used_and_said(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    for indexes in ((0,), (0, 1)):
        # Also where it is in already, from the task before.
        partly = make(loras=(Lora("partly"), Lora("oil 2.1")), indexes=indexes)
        assert set(partly.warnings) == {
            "3 of the 35 weights of the LoRA 'partly' do not fit this model and were left out: was it made for "
            "another one?"
        }
    assert "lora_fits_in_part lora=partly left_out=3 of=35" in caplog.text
    assert partly.bytes_of() != make(loras=(Lora("oil 2.1"),)).bytes_of()
    assert make(loras=(Lora("oil 2.1"),)).warnings == []
