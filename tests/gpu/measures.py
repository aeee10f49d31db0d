"""What is measured of engines on a device. The same code runs at a tiny size on a CPU, so that it is known to run."""

from __future__ import annotations

import io
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image

from atelier_worker.engine import Cancelled, EngineError, Task
from atelier_worker.engines.diffusers_engine import DiffusersEngine
from atelier_worker.engines.residency import NotEnoughMemory, free_unused, image_working_bytes, memory_of
from tests.atelier_worker.engines.listener import IMAGE
from tests.support.config_worker import config_worker
from tests.support.fake_device import RememberingContext
from tests.support.system import running_system

LIMIT_S = 300.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where and how large: a folder with an SDXL, a device, pixels of a side, steps, and runs of a median."""

    weights: Path
    device: str
    side: int
    steps: int
    times: int = 5

    def task(self, **changes: Any) -> Task:
        """Return one picture to make."""
        return replace(IMAGE, width=self.side, height=self.side, steps=self.steps, **changes)

    def engine(self, **options: Any) -> DiffusersEngine:
        """Return the engine, in bfloat16."""
        model = {"name": "sdxl", "source": str(self.weights)}
        # What an earlier test left to the collector counts as taken.
        free_unused()
        return DiffusersEngine({"device": self.device, "dtype": "bfloat16", "models": [model], **options})

    def settled(self) -> None:
        """Wait until the device has done what it was told."""
        if self.device != "cpu":
            torch.cuda.synchronize()


class Steps(RememberingContext):
    """Remembers when each step was told; `at` is set when `step` is reached."""

    def __init__(self, workdir: Path, step: int = -1) -> None:
        super().__init__(workdir)
        self.at = threading.Event()
        self.times: list[float] = []
        self._step = step

    def progress(self, step: int, steps: int, *, asset_index: int | None = None, phase: str = "") -> None:
        super().progress(step, steps, asset_index=asset_index, phase=phase)
        if phase == "denoising":
            self.times.append(time.perf_counter())
            if step == self._step:
                self.at.set()

    def step_s(self) -> float:
        """Return the median time of a step."""
        return statistics.median(b - a for a, b in zip(self.times, self.times[1:], strict=False))


def made(engine: DiffusersEngine, task: Task, folder: Path) -> tuple[Steps, dict[int, bytes]]:
    """Run a task; return what its context heard, and the files."""
    folder.mkdir()
    context = Steps(folder)
    engine.run(task, context)
    return context, {index: path.read_bytes() for index, path in context.delivered.items()}


def pictures(place: Place, tmp_path: Path) -> dict[str, str]:
    """Make pictures in bfloat16, alone and as a batch: the right size, the same bytes for the same seed."""
    engine = place.engine()
    began = time.perf_counter()
    _, first = made(engine, place.task(), tmp_path / "first")
    cold_s = time.perf_counter() - began
    memory = memory_of(place.device)
    before = memory.used_bytes()
    memory.start_peak()
    context, second = made(engine, place.task(), tmp_path / "second")
    assert first == second
    assert Image.open(io.BytesIO(first[0])).size == (place.side, place.side)
    found = {"the first picture, with loading": f"{cold_s:.1f} s", "a step": f"{context.step_s() * 1000:.0f} ms"}
    peak = memory.peak_bytes()
    if peak is not None and before is not None:
        guess = image_working_bytes(place.side, place.side, batch=1, dtype="bfloat16")
        found["working memory, measured / estimated"] = f"{(peak - before) / 2**30:.1f} / {guess / 2**30:.1f} GiB"
        assert peak - before <= guess
    _, batch = made(engine, place.task(quantity=4, indexes=(0, 1, 2, 3)), tmp_path / "batch")
    assert len(set(batch.values())) == 4
    found["previews of a picture"] = str(len(context.previews))
    weights_bytes = engine.loaded()[0].size_bytes
    assert engine.give_room(place.device, 1) == weights_bytes
    left = memory.used_bytes()
    assert left is None or left < weights_bytes / 10
    return found


def shortage(place: Place, tmp_path: Path, short: AbstractContextManager[Any]) -> str:
    """Run a task while the allocator has too little, and again when it has enough; return what the job was told."""
    engine = place.engine()
    _, before = made(engine, place.task(), tmp_path / "before")
    used = memory_of(place.device).used_bytes()
    (tmp_path / "short").mkdir()
    context = Steps(tmp_path / "short")
    told = ""
    with short:
        try:
            engine.run(place.task(), context)
        except EngineError as error:
            assert error.retryable
            told = str(error)
    told = told or " ".join(context.warnings)
    free_unused()
    left = memory_of(place.device).used_bytes()
    assert used is None or left is None or left <= used * 1.01
    assert made(engine, place.task(), tmp_path / "after")[1] == before
    return told


@contextmanager
def held(device: str, size_bytes: int) -> Iterator[None]:
    """Hold memory of a device in another process."""
    script = (
        "import sys, torch; x = torch.ones(int(sys.argv[1]), dtype=torch.uint8, device=sys.argv[2]); "
        "print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(size_bytes), device]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        if process.stdout is None or process.stdout.readline() != "held\n":
            raise RuntimeError(f"{size_bytes} bytes on {device} could not be held")
        yield
    finally:
        process.communicate("")


def admission(place: Place, tmp_path: Path, hold_bytes: int) -> str:
    """Run a task while another program holds memory, and again when it has ended; return the refusal, empty if none."""
    engine = place.engine(memory_wait="1s")
    refusal = ""
    with held(place.device, hold_bytes):
        try:
            made(engine, place.task(), tmp_path / "held")
        except NotEnoughMemory as error:
            assert error.retryable
            assert engine.loaded() == []
            refusal = str(error)
    _, after = made(engine, place.task(), tmp_path / "after")
    assert list(after) == [0]
    return refusal


def cancel_latency(place: Place, tmp_path: Path) -> tuple[float, float]:
    """Cancel in the middle of a step; return the seconds until the device is free, and those of a step."""
    engine = place.engine()
    before, files_before = made(engine, place.task(), tmp_path / "before")
    step_s = before.step_s()
    (tmp_path / "cancelled").mkdir()
    context = Steps(tmp_path / "cancelled", step=place.steps // 2)
    ended: list[tuple[type[BaseException], float]] = []

    def run() -> None:
        try:
            engine.run(place.task(), context)
        except Cancelled as error:
            place.settled()
            ended.append((type(error), time.perf_counter()))

    thread = threading.Thread(target=run)
    thread.start()
    assert context.at.wait(LIMIT_S)
    time.sleep(step_s / 2)  # the middle of a step is a moment of the clock
    cancelled_at = time.perf_counter()
    context.cancelled.set()
    thread.join(LIMIT_S)
    assert [kind for kind, _ in ended] == [Cancelled]
    assert made(engine, place.task(), tmp_path / "after")[1] == files_before
    return ended[0][1] - cancelled_at, step_s


def direct(place: Place, tmp_path: Path) -> float:
    """Return the median seconds of a picture by the pipeline itself, saved to a file as a script would."""
    pipeline = StableDiffusionXLPipeline.from_pretrained(place.weights, dtype=torch.bfloat16, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(place.device)
    taken = []
    for number in range(place.times + 1):
        began = time.perf_counter()
        generator = torch.Generator("cpu").manual_seed(number)
        size = {"width": place.side, "height": place.side}
        picture = pipeline(IMAGE.prompt, generator=generator, num_inference_steps=place.steps, **size).images[0]
        picture.save(tmp_path / f"{number}.png")
        taken.append(time.perf_counter() - began)
    del pipeline
    free_unused()
    return statistics.median(taken[1:])  # the first one warms up


def by_the_engine(place: Place, tmp_path: Path) -> float:
    """Return the median seconds of a picture by the engine in this process: without gateway, router and upload."""
    engine = place.engine()
    taken = []
    for number in range(place.times + 1):
        began = time.perf_counter()
        made(engine, place.task(seed=number), tmp_path / f"engine-{number}")
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


async def through_the_system(place: Place, tmp_path: Path) -> float:
    """Return the median seconds from the request to the finished job, with gateway, router, worker and upload."""
    engines = f"""
[[engine]]
name = "pictures"
engine = "atelier_worker.engines.diffusers_engine:DiffusersEngine"
worker_types = ["sdxl"]
slots = 1
device = "{place.device}"
dtype = "bfloat16"
  [[engine.models]]
  name = "sdxl"
  source = "{place.weights}"
"""
    taken = []
    async with (
        running_system(tmp_path / "data", worker=False) as system,
        config_worker(system, tmp_path, engines, "sdxl"),
        system.client() as client,
    ):
        for number in range(place.times + 1):
            began = time.perf_counter()
            finished = await client.generate(
                IMAGE.prompt,
                model="sdxl",
                format="image",
                seed=number,
                width=place.side,
                height=place.side,
                steps=place.steps,
                timeout=LIMIT_S,
            )
            taken.append(time.perf_counter() - began)
            assert finished.job.state == "succeeded"
    return statistics.median(taken[1:])
