"""A pipeline of one's own as an engine: the one in docs/worker-sdk.md, and what the base class promises."""

from __future__ import annotations

import importlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from atelier_worker.engine import Cancelled, Engine, EngineError, Lora
from atelier_worker.engines.diffusers_engine.pipeline_engine import PipelineEngine
from atelier_worker.engines.files import KEY
from tests.atelier_worker.engines.listener import ENHANCE, IMAGE, VIDEO, Listener
from tests.docs.blocks import DOCS, blocks
from tests.engines import tiny_sdxl, tiny_wan

# diffusers hands a tensor to numpy in the old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
TASK = replace(IMAGE, width=64, height=64, steps=2, quantity=2, indexes=(0, 1))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    (folder / "weights").mkdir()
    tiny_sdxl.save(folder / "made").rename(folder / "weights" / "mine")
    return folder


@pytest.fixture
def engine(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The engine of the document, made as the worker makes it."""
    source = next(block.text for block in blocks(DOCS / "worker-sdk.md") if block.text.startswith("# own_pipeline.py"))
    assert len(source.strip().splitlines()) <= 15 + 1  # and the line that names the file
    (tmp_path / "own_pipeline.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(weights)
    named = re.search(r"--engine own_pipeline:(\w+)", (DOCS / "worker-sdk.md").read_text("utf-8"))
    assert named is not None
    monkeypatch.delitem(importlib.sys.modules, "own_pipeline", raising=False)  # type: ignore[attr-defined]
    return getattr(importlib.import_module("own_pipeline"), named[1])({})


def test_the_engine_of_the_document_makes_pictures_with_progress_and_previews(engine: Any, tmp_path: Path) -> None:
    assert isinstance(engine, Engine)
    listener = Listener(tmp_path)
    engine.run(TASK, listener)
    assert sorted(listener.delivered) == [0, 1]
    with Image.open(listener.delivered[0]) as image:
        assert (image.size, KEY in image.info) == ((64, 64), True)
    assert [entry for entry in listener.steps if entry[0] == 1] == [(1, 0, 2), (1, 1, 2), (1, 2, 2)]
    assert listener.previews


def test_the_same_seed_gives_the_same_bytes_alone_and_after_others(engine: Any, tmp_path: Path) -> None:
    (tmp_path / "both").mkdir()
    (tmp_path / "alone").mkdir()
    both, alone = Listener(tmp_path / "both"), Listener(tmp_path / "alone")
    engine.run(TASK, both)
    engine.run(replace(TASK, indexes=(1,)), alone)
    assert both.delivered[1].read_bytes() == alone.delivered[1].read_bytes() != both.delivered[0].read_bytes()


@pytest.mark.parametrize(
    ("task", "sentence"),
    (
        (VIDEO, "The pipeline StableDiffusionXLPipeline cannot do this"),
        (replace(TASK, loras=(Lora("ink"),)), "The pipeline StableDiffusionXLPipeline cannot do this"),
        (ENHANCE, "The pipeline StableDiffusionXLPipeline writes no text"),
    ),
)
def test_what_the_pipeline_cannot_do_is_refused_by_name(engine: Any, tmp_path: Path, task: Any, sentence: str) -> None:
    with pytest.raises(EngineError, match=sentence):
        engine.run(task, Listener(tmp_path))


def test_a_cancelled_task_ends_and_the_engine_goes_on(engine: Any, tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        engine.run(TASK, Listener(tmp_path, cancel_when=lambda listener: (0, 1, 2) in listener.steps))
    listener = Listener(tmp_path)
    engine.run(replace(TASK, guidance=3.0, negative_prompt="fog"), listener)
    assert sorted(listener.delivered) == [0, 1]


def test_a_pipeline_of_wan_makes_exactly_what_is_asked(tmp_path: Path) -> None:
    class OwnVideo(PipelineEngine):
        name = "own-video"

        def load(self) -> Any:
            return DiffusionPipeline.from_pretrained(tiny_wan.save("text", tmp_path / "wan"), dtype=torch.float32)

    listener = Listener(tmp_path)
    OwnVideo({}).run(replace(VIDEO, width=64, height=32, frames=6, fps=8, steps=1), listener)
    assert sorted(listener.delivered) == [0]
