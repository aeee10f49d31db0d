"""SDXL at full size and 1024² on a GPU: numbers in bfloat16, memory, cancel, and what the system adds to a job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from atelier_worker.engines.residency import free_unused, memory_of
from tests.engines import tiny_sdxl
from tests.gpu import full_sdxl, measures
from tests.gpu.measures import Place

# What a driver, a card or a build for it warns of is nobody's mistake here.
pytestmark = pytest.mark.filterwarnings("default")
DEVICE = "cuda:0"
WEIGHTS_BYTES = 2 * sum(full_sdxl.PARAMETERS.values())
Figures = list[tuple[str, str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("sdxl")
    weights = full_sdxl.save(folder / "full", tiny_sdxl.save(folder / "tiny"), device=DEVICE)
    free_unused()
    return Place(weights, DEVICE, side=1024, steps=30)


def test_pictures_in_bfloat16(place: Place, tmp_path: Path, figures: Figures) -> None:
    figures += [(f"SDXL 1024², 30 steps: {what}", value) for what, value in measures.pictures(place, tmp_path).items()]


def test_memory_that_another_program_holds_is_not_promised(place: Place, tmp_path: Path, figures: Figures) -> None:
    free_unused()
    hold_bytes = memory_of(DEVICE).free_bytes() - WEIGHTS_BYTES
    refusal = measures.admission(place, tmp_path, hold_bytes)
    assert "sdxl needs" in refusal
    figures.append(("refused while another program holds memory", refusal))


@contextmanager
def _little_room() -> Iterator[None]:
    """Let the allocator have the weights and a GiB; the device still has the rest, so that tasks are admitted."""
    _, total = torch.cuda.mem_get_info(DEVICE)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((WEIGHTS_BYTES + (1 << 30)) / total, DEVICE)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, DEVICE)


def test_running_out_of_memory_in_a_step_costs_one_job_at_most(place: Place, tmp_path: Path, figures: Figures) -> None:
    told = measures.shortage(place, tmp_path, _little_room())
    assert "ran out of memory" in told
    figures.append(("with a GiB beside the weights", told))


def test_a_cancelled_job_ends_within_a_step(place: Place, tmp_path: Path, figures: Figures) -> None:
    latency_s, step_s = measures.cancel_latency(place, tmp_path)
    figures.append(("cancel, in the middle of a step", f"{latency_s * 1000:.0f} ms, a step is {step_s * 1000:.0f} ms"))
    assert latency_s <= step_s


@pytest.mark.asyncio
async def test_the_system_adds_at_most_a_fiftieth(place: Place, tmp_path: Path, figures: Figures) -> None:
    alone_s = measures.direct(place, tmp_path)
    engine_s = measures.by_the_engine(place, tmp_path)
    free_unused()
    whole_s = await measures.through_the_system(place, tmp_path)
    share = whole_s / alone_s - 1
    figures.append(("a picture by the pipeline alone", f"{alone_s:.2f} s"))
    figures.append(("the same by the engine alone", f"{engine_s:.2f} s ({engine_s / alone_s - 1:+.1%})"))
    figures.append(("the same from the request to the finished job", f"{whole_s:.2f} s ({share:+.1%})"))
    assert share <= 0.02
