"""What is said when weights are missing, of another kind or broken: before anything is loaded, with what to do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from diffusers import StableDiffusionXLPipeline

from atelier_worker.engine import EngineError
from atelier_worker.engine_loader import EngineNotUsable, load_engine
from atelier_worker.engines.diffusers_engine import DiffusersEngine
from tests.atelier_worker.engines.listener import IMAGE, Listener
from tests.engines import single_file
from tests.engines.viewer import maker

ENGINE = "atelier_worker.engines.diffusers_engine:DiffusersEngine"
HUB_ID = "somebody/tiny-xl"
TASK = replace(IMAGE, width=64, height=64, steps=1)

pytestmark = pytest.mark.filterwarnings(
    # diffusers hands a tensor to numpy in the old way.
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)


@pytest.fixture
def folder(tiny_sdxl_folder: Path, tmp_path: Path) -> Path:
    """A copy that may be broken."""
    return Path(shutil.copytree(tiny_sdxl_folder, tmp_path / "model"))


def table(source: object, **more: object) -> dict[str, object]:
    return {"device": "cpu", "models": [{"name": "sdxl", "source": str(source), **more}]}


def refusal(source: object, **more: object) -> str:
    with pytest.raises(EngineNotUsable) as error:
        load_engine(ENGINE, table(source, **more))
    return str(error.value)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def only_pickle(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")


def index_of(what: object) -> Callable[[Path], Any]:
    """Give the parts of the UNet an index that says so."""
    text = what if isinstance(what, str) else json.dumps(what)
    return lambda folder: (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(text)


def weights_of(header: str) -> Callable[[Path], Any]:
    """Make the weights of the UNet a file with this header and nothing behind it."""
    data = len(header).to_bytes(8, "little") + header.encode()
    return lambda folder: (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(data)


def scheduler_of(timesteps: object) -> Callable[[Path], Any]:
    """Make the scheduler one that was trained with so many steps."""

    def spoil(folder: Path) -> None:
        file = folder / "scheduler" / "scheduler_config.json"
        file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | {"num_train_timesteps": timesteps}))

    return spoil


def other_class(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text("utf-8"))
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "LTXPipeline"}), "utf-8")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    (
        (shutil.rmtree, "does not exist; get the weights with `hf download stabilityai/"),
        (lambda folder: (folder / "model_index.json").unlink(), "is no folder of a pipeline (it has no model_index"),
        (lambda folder: (folder / "model_index.json").write_text("{"), "cannot be read; download it again"),
        (other_class, "holds a LTXPipeline; this engine runs StableDiffusionXLPipeline, "),
        (lambda folder: shutil.rmtree(folder / "vae"), "vae has no weights (*.safetensors); download the model again"),
        (only_pickle, "has diffusion_pytorch_model.bin but no safetensors, and other formats can run code"),
        (lambda folder: cut(folder / "text_encoder" / "model.safetensors"), "it is cut off; download it again"),
        (
            lambda folder: (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b""),
            "or is cut off; download it",
        ),
        (index_of({"weight_map": {"a": "weights.bin"}}), "names 'weights.bin', and only safetensors files beside it"),
        (index_of({"weight_map": {"a": "../../x.safetensors"}}), "names '../../x.safetensors', and only safetensors"),
        (lambda folder: shutil.rmtree(folder / "tokenizer"), "tokenizer is not there or empty; download the model"),
        (
            lambda folder: (folder / "unet" / "config.json").write_bytes(b" " * (17 << 20)),
            "and no configuration has more than",
        ),
        (index_of({"weight_map": {"a": 5}}), "names 5, and only safetensors"),
        (index_of([1]), "index.json is no index of weights, or is broken; download it again"),
        (index_of("{"), "index.json is no index of weights, or is broken; download it again"),
        (index_of("[" * 100_000), "index.json is no index of weights, or is broken; download it again"),
        (scheduler_of(0), "num_train_timesteps from 1 to 100000, got 0; download it again"),
        (scheduler_of("many"), "num_train_timesteps from 1 to 100000, got 'many'"),
        (scheduler_of(10**9), "num_train_timesteps from 1 to 100000, got 1000000000"),
        (
            lambda folder: (folder / "scheduler" / "scheduler_config.json").write_text("{"),
            "scheduler_config.json cannot be read; download it again",
        ),
        (weights_of("[" * 100_000), "is no safetensors file, or is broken"),
        (weights_of('{"a": {"dtype": "F32", "shape": [-5], "data_offsets": [0, 0]}}'), "or is broken"),
        (weights_of('{"a": {"dtype": "F32", "shape": ["x"], "data_offsets": [0, 0]}}'), "or is broken"),
    ),
)
def test_weights_that_cannot_be_used(folder: Path, spoil: Callable[[Path], Any], sentence: str) -> None:
    spoil(folder)
    said = refusal(folder)
    assert said.startswith("model sdxl: ")
    assert sentence in said


def test_the_folder_around_the_right_one(folder: Path) -> None:
    assert f"did you mean {folder}?" in refusal(folder.parent)


def test_a_file_in_place_of_a_folder(folder: Path) -> None:
    assert "is no folder" in refusal(folder / "model_index.json")
    for name in ("model.ckpt", "model.bin"):
        (folder / name).touch()
        assert f"{name} is of a format that can run code while it is read" in refusal(folder / name)


def test_a_checkpoint_in_one_file(tiny_sdxl_folder: Path, folder: Path, tmp_path: Path) -> None:
    pipeline = StableDiffusionXLPipeline.from_pretrained(tiny_sdxl_folder)
    file = single_file.save(pipeline, tmp_path / "tiny.safetensors")
    for path in folder.glob("*/*.safetensors"):
        path.unlink()
    make = maker(DiffusersEngine(table(file, config=str(folder))), tmp_path)
    assert make().bytes_of() == make(by=DiffusersEngine(table(tiny_sdxl_folder))).bytes_of()
    assert "tiny.safetensors has weights but no configuration; get it with `hf download " in refusal(file)
    assert "is no folder of a pipeline" in refusal(file, config=str(tmp_path))
    other_class(folder)
    assert "configures a LTXPipeline; checkpoints in one file are read of SDXL only" in refusal(
        file, config=str(folder)
    )
    cut(file)
    assert "it is cut off; download it again" in refusal(file, config=str(tiny_sdxl_folder))


def test_a_source_that_is_nothing() -> None:
    assert "is neither a folder of this machine nor OWNER/NAME" in refusal("sdxl")


def test_a_variant_that_is_not_there(folder: Path) -> None:
    for path in folder.glob("*/*.safetensors"):
        path.rename(path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))
    assert "has no weights (*.safetensors)" in refusal(folder)
    assert load_engine(ENGINE, table(folder, variant="fp16")).name == "diffusers"


def test_options_that_are_not_known(folder: Path) -> None:
    assert "sdxl: schedular is not known. Did you mean scheduler?" in refusal(folder, schedular="euler")
    assert "loras takes .safetensors files, got ink = 'ink.pt'" in refusal(folder, loras={"ink": "ink.pt"})
    assert "fallbacks takes any of smaller_batch, tiling, offload, got 'magic'" in refusal(folder, fallbacks=["magic"])
    assert "scheduler 'quick' is not known; choose one of ddim, " in refusal(folder, scheduler="quick")
    assert "flow_shift is for videos" in refusal(folder, flow_shift=3.0)
    with pytest.raises(EngineNotUsable, match=r"models is missing: add \[\[engine\.models\]\]"):
        load_engine(ENGINE, {})


def test_weights_of_the_hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    missing = refusal(HUB_ID)
    assert f"not on this machine; get them with `hf download {HUB_ID}`, or say download = true" in missing
    asks = DiffusersEngine(table(HUB_ID, download=True))
    (tmp_path / "asks").mkdir()
    # There is no network in this test: what is seen is that it was asked for, and how it fails.
    with pytest.raises(EngineError, match="weights of the model sdxl cannot be downloaded") as error:
        asks.run(TASK, Listener(tmp_path / "asks"))
    assert error.value.retryable
    repository = cache / "models--somebody--tiny-xl"
    shutil.copytree(folder, repository / "snapshots" / "0123")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123", "utf-8")
    made = Listener(tmp_path / "made")
    made.workdir.mkdir()
    DiffusersEngine(table(HUB_ID)).run(TASK, made)
    assert made.delivered


def test_weights_that_turn_out_broken_when_they_are_loaded(folder: Path, tmp_path: Path) -> None:
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text("utf-8")) | {"block_out_channels": [8, 32]}), "utf-8")
    engine = DiffusersEngine(table(folder))
    with pytest.raises(EngineError, match="weights of the model sdxl cannot be loaded") as error:
        engine.run(TASK, Listener(tmp_path))
    assert str(tmp_path) not in str(error.value)
    assert not engine.loaded()


def drop_tensor(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    del tensors["conv_out.weight"]
    save_file(tensors, file, metadata={"format": "pt"})


def configured(part: str, **values: object) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        file = folder / part / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | values), "utf-8")

    return change


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    (
        (drop_tensor, "are incomplete: its unet|cannot be loaded"),
        (configured("text_encoder", num_hidden_layers=20), "are incomplete: its text_encoder needs"),
        (configured("text_encoder", hidden_size=10**7), "cannot be loaded"),
        (configured("text_encoder_2", vocab_size=10**10), "cannot be loaded"),
        (configured("unet", projection_class_embeddings_input_dim=10**10), "cannot be loaded"),
        (configured("vae", block_out_channels=[10**6, 10**6]), "cannot be loaded"),
    ),
    ids=("tensor", "layers", "width", "words", "projection", "channels"),
)
def test_weights_that_do_not_match_their_configuration(
    folder: Path, tmp_path: Path, spoil: Callable[[Path], Any], sentence: str
) -> None:
    spoil(folder)
    engine = DiffusersEngine(table(folder))
    with pytest.raises(EngineError, match=sentence) as error:
        engine.run(TASK, Listener(tmp_path))
    # Not a lack of memory, which might pass.
    assert not error.value.retryable
    assert not engine.loaded()


def test_nothing_heavy_is_imported_before_the_first_task(folder: Path) -> None:
    program = (
        "import sys\n"
        "from atelier_worker.engines.diffusers_engine import DiffusersEngine\n"
        f"DiffusersEngine({table(folder)!r})\n"
        "print(sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


def test_a_library_that_is_not_installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "peft" else object())
    assert refusal(folder) == (
        "The engine diffusers needs peft: install them with pip install 'atelier-media[diffusers]'."
    )
