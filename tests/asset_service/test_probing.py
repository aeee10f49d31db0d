"""Small files are measured where they lie, in memory that serves for many batches and is given back."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from asset_service import probing
from asset_service.media import measure
from asset_service.probing import Probe
from asset_service.shape_domain import Shape
from service_kit.errors import AtelierError, ErrorReason, InvalidArgument
from tests.asset_service.harness import eventually
from tests.asset_service.pictures import encoded, mp4, png
from tests.support.hostile_files import hostile_files

MANY = 1 << 20


@pytest.fixture
async def probe() -> AsyncIterator[Probe]:
    probe = Probe()
    yield probe
    await probe.close()


def kept_bytes(probe: Probe) -> int:
    """Return how much memory holds what the child was given last."""
    return os.fstat(probe._shared).st_blocks * 512


async def holds(probe: Probe, size_bytes: int) -> bool:
    return os.fstat(probe._shared).st_size == size_bytes


def child_of(probe: Probe) -> int:
    assert probe._child is not None
    return probe._child.pid


def told(file: Path) -> Shape | tuple[ErrorReason | None, str]:
    """Return what a file on the disk is, or why it is refused."""
    try:
        return measure(file)
    except InvalidArgument as error:
        return error.reason, error.message


async def test_files_in_memory_are_judged_as_files_on_the_disk(probe: Probe, tmp_path: Path) -> None:
    files = [file.data for file in hostile_files(tmp_path) if len(file.data) < MANY]
    assert b"" in files
    files += [encoded(name, 31, 17) for name in ("PNG", "JPEG", "WEBP", "GIF")] + [mp4(tmp_path)]
    path = tmp_path / "file"
    expected = []
    for data in files:
        path.write_bytes(data)
        expected.append(told(path))
    answers = await probe.measure_bytes(files)
    child = child_of(probe)
    assert [(a.reason, a.message) if isinstance(a, AtelierError) else a for a in answers] == expected
    assert all(isinstance(answer, InvalidArgument) for answer in await probe.measure_bytes([b"", b""]))
    assert child_of(probe) == child, "a file killed the child"


@pytest.mark.parametrize("first", [(8, 8), (512, 512)], ids=["small", "beside the others"])
async def test_each_file_of_a_batch_gets_its_own_answer(probe: Probe, first: tuple[int, int]) -> None:
    sizes = [first, (9, 3), (700, 400), (1, 1)]
    shapes = await probe.measure_bytes([encoded("BMP") if size == (1, 1) else png(*size) for size in sizes])
    assert shapes[:-1] == [Shape("image/png", *size) for size in sizes[:-1]]
    assert isinstance(shapes[-1], InvalidArgument)


async def test_what_an_earlier_batch_left_is_not_measured(probe: Probe) -> None:
    whole = png(64, 64)
    assert await probe.measure_bytes([whole, whole]) == [Shape("image/png", 64, 64)] * 2
    for cut in ([whole[:-1]], [whole, whole[:-1]]):
        *_, answer = await probe.measure_bytes(cut)
        assert isinstance(answer, InvalidArgument)
        assert answer.reason is ErrorReason.MEDIA_DAMAGED


async def test_memory_serves_again_and_is_bounded(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "_KEPT_BYTES", 1 << 20)
    monkeypatch.setattr(probing, "_TURN_BYTES", 1 << 18)
    small, large = png(200, 200), png(1000, 800)
    assert len(large) > 1 << 20
    await probe.measure_bytes([small])
    assert len(small) <= kept_bytes(probe) <= len(small) + (1 << 16)
    assert await probe.measure_bytes([large] * 4) == [Shape("image/png", 1000, 800)] * 4
    assert kept_bytes(probe) == 1 << 20
    assert await probe.measure_bytes([small] * 2) == [Shape("image/png", 200, 200)] * 2


async def test_idle_memory_is_given_back(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "_KEPT_S", 0.0)
    await probe.measure_bytes([png()])
    await eventually(lambda: holds(probe, 0))
    assert await probe.measure_bytes([png(8, 8)]) == [Shape("image/png", 8, 8)]


async def test_no_memory_is_given_back_while_it_is_measured(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    await probe.measure_bytes([png()])
    child = child_of(probe)
    monkeypatch.setattr(probing, "_KEPT_S", 0.0)
    shapes = await asyncio.gather(*(probe.measure_bytes([png(8, 8)] * 4) for _ in range(20)))
    assert shapes == [[Shape("image/png", 8, 8)] * 4] * 20
    assert child_of(probe) == child


async def test_a_child_that_dies_over_a_batch_leaves_the_next_one_right(probe: Probe) -> None:
    await probe.measure_bytes([png(8, 8)])
    child = child_of(probe)
    os.kill(child, signal.SIGSTOP)
    measuring = asyncio.create_task(probe.measure_bytes([png(64, 64), png(8, 8)]))
    await eventually(lambda: holds(probe, len(png(64, 64)) + len(png(8, 8))))
    os.kill(child, signal.SIGKILL)
    assert await measuring == [Shape("image/png", 64, 64), Shape("image/png", 8, 8)]
    assert child_of(probe) != child
    assert await probe.measure_bytes([png(9, 9)]) == [Shape("image/png", 9, 9)]
