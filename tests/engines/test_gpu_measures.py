"""The code that measures on a GPU, at a tiny size on this CPU; the full model's shapes, counted without memory."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest
import torch
from diffusers import UNet2DConditionModel

from tests.gpu import full_sdxl, measures
from tests.gpu.measures import Place

# diffusers hands a tensor to numpy in the old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@pytest.fixture
def place(tiny_sdxl_folder: Path) -> Place:
    return Place(tiny_sdxl_folder, "cpu", side=64, steps=6, times=1)


def test_the_full_model_has_the_published_shapes() -> None:
    with torch.device("meta"):
        networks = full_sdxl.components(190)
    assert {name: network.num_parameters() for name, network in networks.items()} == full_sdxl.PARAMETERS


def test_pictures_are_made_twice_and_as_a_batch(place: Place, tmp_path: Path) -> None:
    assert set(measures.pictures(place, tmp_path)) == {
        "the first picture, with loading",
        "a step",
        "previews of a picture",
    }


def test_a_little_that_another_program_holds_refuses_nothing(place: Place, tmp_path: Path) -> None:
    assert measures.admission(place, tmp_path, 1 << 20) == ""


def test_a_shortage_is_survived(place: Place, tmp_path: Path) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory.")
    short = mock.patch.object(UNet2DConditionModel, "forward", side_effect=error)
    assert "ran out of memory" in measures.shortage(place, tmp_path, short)


def test_a_cancel_is_measured(place: Place, tmp_path: Path) -> None:
    latency_s, step_s = measures.cancel_latency(place, tmp_path)
    assert latency_s > 0
    assert step_s > 0


@pytest.mark.asyncio
async def test_the_pipeline_alone_and_the_system_are_measured(place: Place, tmp_path: Path) -> None:
    alone_s = measures.direct(place, tmp_path)
    assert measures.by_the_engine(place, tmp_path) > 0
    assert 0 < alone_s < await measures.through_the_system(place, tmp_path)
