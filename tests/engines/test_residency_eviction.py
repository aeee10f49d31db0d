"""Real models that are evicted are gone, and come back when a task needs them."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from diffusers import UNet2DConditionModel

from atelier_worker.engines.diffusers_engine import DiffusersEngine
from atelier_worker.engines.residency import image_working_bytes
from tests.atelier_worker.engines.listener import IMAGE
from tests.support.fake_device import RememberingContext

# diffusers hands a tensor to numpy in the old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
Networks = weakref.WeakSet[UNet2DConditionModel]


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Networks]:
    """Give every UNet that worked and is still there."""
    seen: Networks = weakref.WeakSet()
    forward = UNet2DConditionModel.forward

    def remembered(network: Any, *args: Any, **kwargs: Any) -> Any:
        seen.add(network)
        return forward(network, *args, **kwargs)

    monkeypatch.setattr(UNet2DConditionModel, "forward", remembered)
    yield seen


def _phases(engine: DiffusersEngine, model: str, folder: Path) -> list[str]:
    folder.mkdir()
    context = RememberingContext(folder)
    engine.run(replace(IMAGE, model=model, width=64, height=64, steps=1), context)
    assert list(context.delivered) == [0]
    return context.phases


def test_models_take_turns_where_only_one_fits(tiny_sdxl_folder: Path, tmp_path: Path, networks: Networks) -> None:
    models = [{"name": name, "source": str(tiny_sdxl_folder)} for name in ("day", "night")]
    alone = DiffusersEngine({"device": "cpu", "models": models})
    _phases(alone, "day", tmp_path / "alone")
    (loaded,) = alone.loaded()
    assert alone.give_room("cpu", 1) == loaded.size_bytes
    assert list(networks) == []
    limit = image_working_bytes(64, 64, batch=1, dtype="float32") + loaded.size_bytes * 3 // 2
    engine = DiffusersEngine({"device": "cpu", "memory_limit": limit, "models": models})
    for number, name in enumerate(["day", "day", "night", "day"]):
        phases = _phases(engine, name, tmp_path / str(number))
        assert (f"loading {name}" in phases) == (number != 1)
        assert [model.name for model in engine.loaded()] == [name]
        assert len(networks) == 1
