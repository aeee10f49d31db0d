"""Out of memory, raised inside of a step of a real pipeline: what it held is free, less is tried, the engine lives."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModelWithProjection

from atelier_worker.engine import EngineError, Task
from atelier_worker.engines.diffusers_engine import DiffusersEngine
from atelier_worker.engines.residency import is_out_of_memory
from tests.atelier_worker.engines.listener import IMAGE
from tests.support.fake_device import RememberingContext

# diffusers hands a tensor to numpy in the old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
CUDA_SAYS = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 23.52 GiB of which 5 MiB is free."
)
ERRORS = [
    torch.OutOfMemoryError(CUDA_SAYS),
    RuntimeError("[enforce fail at alloc_cpu.cpp:128] DefaultCPUAllocator: can't allocate memory: you tried 8 bytes."),
]
TASK = replace(IMAGE, width=64, height=64, steps=4, quantity=3, indexes=(0, 1, 2))


@pytest.fixture
def weights(tiny_sdxl_folder: Path) -> Path:
    return tiny_sdxl_folder


class Shortage:
    """Raises in a forward pass of a module's class, when `strikes` says so of (number of the call, rows of its input).

    It keeps weak references to the tensors of that call, and raises with these tensors in the frame.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, of: type, method: str, strikes: Callable[[int, int], bool]
    ) -> None:
        self.error: Exception = ERRORS[0]
        self.held: list[weakref.ref[torch.Tensor]] = []
        self.calls = 0
        original = getattr(of, method)

        def forward(module: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            made = original(module, sample, *args, **kwargs)
            self.calls += 1
            if strikes(self.calls, sample.shape[0]):
                working = torch.empty(64, 1024, 1024)
                self.held += [weakref.ref(tensor) for tensor in (sample, working, made[0])]
                raise self.error
            return made

        monkeypatch.setattr(of, method, forward)

    def still_held(self) -> int:
        assert self.held
        return sum(ref() is not None for ref in self.held)


def test_what_this_torch_says_is_known() -> None:
    with pytest.raises(RuntimeError) as failed:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(failed.value)
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory."))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def _engine(weights: Path, **model: Any) -> DiffusersEngine:
    return DiffusersEngine({"device": "cpu", "models": [{"name": "sdxl", "source": str(weights), **model}]})


def _bytes_of(engine: DiffusersEngine, task: Task, folder: Path) -> dict[int, bytes]:
    folder.mkdir()
    context = RememberingContext(folder)
    engine.run(task, context)
    return {index: path.read_bytes() for index, path in context.delivered.items()}


@pytest.mark.parametrize("error", ERRORS, ids=["cuda", "cpu"])
def test_a_smaller_batch_is_tried_and_gives_every_picture(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    engine = _engine(weights, fallbacks=["smaller_batch"])
    # Each picture is two rows, with and without the prompt: only one at a time goes through the third step.
    shortage = Shortage(monkeypatch, UNet2DConditionModel, "forward", lambda call, rows: call >= 3 and rows > 2)
    shortage.error = error
    context = RememberingContext(tmp_path)
    engine.run(TASK, context)
    assert shortage.still_held() == 0
    assert sorted(context.delivered) == [0, 1, 2]
    assert context.warnings == ["The device ran out of memory; this was made with one picture at a time."]


def test_a_picture_is_then_the_same_as_without_a_shortage(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = _engine(weights, fallbacks=["smaller_batch"])
    alone = {i: _bytes_of(engine, replace(TASK, indexes=(i,)), tmp_path / f"{i}")[i] for i in TASK.indexes}
    Shortage(monkeypatch, UNet2DConditionModel, "forward", lambda call, rows: call >= 2 and rows > 2)
    assert _bytes_of(engine, TASK, tmp_path / "batch") == alone


def test_a_decoder_that_runs_out_works_in_tiles(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = _engine(weights, fallbacks=["tiling"])
    shortage = Shortage(monkeypatch, AutoencoderKL, "decode", lambda call, rows: call == 1)
    context = RememberingContext(tmp_path)
    engine.run(replace(TASK, indexes=(0,)), context)
    assert shortage.still_held() == 0
    assert context.warnings == ["The device ran out of memory; this was made with a decoder that works in tiles."]


@pytest.mark.parametrize(
    ("of", "method", "error"),
    [
        (UNet2DConditionModel, "forward", ERRORS[0]),
        (UNet2DConditionModel, "forward", ERRORS[1]),
        (AutoencoderKL, "decode", ERRORS[0]),
        (CLIPTextModelWithProjection, "forward", ERRORS[0]),
    ],
    ids=["step", "step-on-the-cpu", "decoder", "text-encoder"],
)
def test_the_end_is_retryable_and_the_next_task_runs_on_the_same_model(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, of: type, method: str
) -> None:
    engine = _engine(weights)
    before = _bytes_of(engine, TASK, tmp_path / "before")
    loaded = engine.loaded()
    with monkeypatch.context() as patch:
        shortage = Shortage(patch, of, method, lambda call, rows: True)
        shortage.error = error
        (tmp_path / "failed").mkdir()
        context = RememberingContext(tmp_path / "failed")
        with pytest.raises(EngineError, match="ran out of memory in the middle of the work") as failed:
            engine.run(TASK, context)
        assert failed.value.retryable
        # The error of the test outlives its handlers, and holds nothing all the same.
        gc.collect()
        assert shortage.still_held() == 0
    assert context.delivered == {}
    assert engine.loaded() == loaded
    assert _bytes_of(engine, TASK, tmp_path / "after") == before


def test_a_black_picture_fails_and_the_engine_lives(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = _engine(weights)
    with monkeypatch.context() as patch:
        original = UNet2DConditionModel.forward

        def overflows(module: Any, *args: Any, **kwargs: Any) -> Any:
            made = original(module, *args, **kwargs)
            return (made[0] * torch.inf, *made[1:])

        patch.setattr(UNet2DConditionModel, "forward", overflows)
        (tmp_path / "nan").mkdir()
        context = RememberingContext(tmp_path / "nan")
        engine.run(replace(TASK, indexes=(0,)), context)
    assert context.delivered == {}
    assert "values that are no numbers" in context.failed[0]
    assert list(_bytes_of(engine, replace(TASK, indexes=(0,)), tmp_path / "after")) == [0]
